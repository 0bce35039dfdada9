//! Dates, timestamps and times of day.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use buzz_protocol::ErrorKind;

use tempfile::{TempDir, tempdir};

use super::{TABLES, batch, check, check_on, table, tables};
use crate::common::{ask, statement};

#[tokio::test(flavor = "multi_thread")]
async fn times_beyond_nanoseconds_and_of_other_units_are_compared() {
    check(
        &[],
        &[
            ("SELECT id FROM d WHERE ts = '9999-12-31'", &["1"]),
            ("SELECT id FROM d WHERE ms > TIMESTAMP '2100-01-01' AND ts > '9999-01-01'", &["1"]),
            ("SELECT id FROM d WHERE ts < DATE '1700-01-01'", &["3"]),
            ("SELECT id FROM d WHERE day = DATE '9999-12-31' AND ts = day", &["1"]),
            ("SELECT id FROM d WHERE ts = TIMESTAMP '9999-12-31 00:00:00'", &["1"]),
            ("SELECT id FROM d WHERE ns < '9999-12-31'", &["1", "2", "3"]),
            ("SELECT id FROM d WHERE ns >= TIMESTAMP '9999-12-31' OR ns = '2024-07-01T12:00:00'", &["2"]),
            ("SELECT id FROM d WHERE coalesce(ts, DATE '9999-12-31') > '3000-01-01'", &["1"]),
            ("SELECT id FROM d WHERE coalesce(ts, TIMESTAMP '9999-12-31') > '3000-01-01'", &["1"]),
            (
                "SELECT id FROM d WHERE CASE WHEN id = 2 THEN TIMESTAMP '9999-12-31' ELSE ts END = '9999-12-31'",
                &["1", "2"],
            ),
            ("SELECT id FROM d WHERE ts BETWEEN '1600-01-01' AND '1700-01-01'", &["3"]),
            ("SELECT id FROM d WHERE ts IN ('9999-12-31', '2024-07-01T12:00:00')", &["1", "2"]),
            (
                "SELECT CAST(max(ts) AS VARCHAR) FROM d WHERE ts <> '2024-07-01T12:00:00.0000005'",
                &["9999-12-31T00:00:00"],
            ),
            ("SELECT id FROM d WHERE ts >= '2024-07-01 12:00' AND ms < '9999-12-31T00:00'", &["2"]),
            ("SELECT id FROM d WHERE ts = TIMESTAMP '9999-12-31 00:00' OR ns IN ('2024-07-01 12:00')", &["1", "2"]),
            ("SELECT id FROM d WHERE z = '2024-07-01T06:00' OR z = '2024-07-01 14:00+02:00'", &["1", "2"]),
            ("SELECT CAST('2024-07-01 12:00' AS TIMESTAMP(3))", &["2024-07-01T12:00:00"]),
            ("SELECT id FROM d WHERE tm > TIME '12:00:00'", &["2", "3"]),
            ("SELECT id FROM d WHERE TIME '12:30:00' = tm OR tm IN (TIME '11:00:00')", &["1", "2"]),
            ("SELECT tm FROM d WHERE id > 1 UNION SELECT TIME '13:00:00'", &["12:30:00", "13:00:00"]),
            ("SELECT tm FROM d INTERSECT SELECT TIME '13:00:00'", &["13:00:00"]),
            ("SELECT id FROM d JOIN (SELECT TIME '11:00:00' AS o) x ON tm = o", &["1"]),
            ("SELECT id FROM d WHERE date_bin(INTERVAL '1 day', arrow_cast(z, 'Timestamp(Microsecond, Some(\"Asia/Kolkata\"))')) = date_trunc('day', arrow_cast(z, 'Timestamp(Microsecond, Some(\"Asia/Kolkata\"))'))", &["1", "2", "3"]),
("SELECT id FROM d WHERE date_bin(INTERVAL '1 hour', arrow_cast(z, 'Timestamp(Microsecond, Some(\"Asia/Kolkata\"))')) = date_trunc('hour', arrow_cast(z, 'Timestamp(Microsecond, Some(\"Asia/Kolkata\"))'))", &["1", "2", "3"]),
("SELECT id FROM d WHERE z = '2024-07-01 06:00:00'", &["1"]),
        ],
    )
    .await;
    check(
        &["time_zone=America/Denver"],
        &[
            ("SELECT id FROM d WHERE z = '2024-07-01 06:00:00'", &["2"]),
            ("SELECT id FROM d WHERE z = '2024-07-01 06:00:00+00:00'", &["1"]),
            ("SELECT id FROM d WHERE z BETWEEN '2024-07-01 00:00:00' AND '2024-07-01 06:00:00'", &["1", "2"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_with_an_hour_and_no_minute_keep_the_hour() {
    check(&[], &[
        ("SELECT to_timestamp('01/02/2024 10 PM', '%d/%m/%Y %I %p'), to_unixtime('01/02/2024 10 PM', '%d/%m/%Y %I %p')", &["2024-02-01T22:00:00 | 1706824800"]),
        ("SELECT to_timestamp('2024-02-01 10:30', '%d/%m/%Y %H', '%Y-%m-%d %H:%M')", &["2024-02-01T10:30:00"]),
        ("SELECT to_timestamp('2024-02-01 10 +0200', '%Y-%m-%d %H %z')", &["2024-02-01T08:00:00"]),
        ("SELECT to_timestamp(CAST(NULL AS VARCHAR), '%Y-%m-%d %H')", &["NULL"]),
        ("SELECT id FROM t WHERE to_timestamp('2024-02-01 ' || CAST(id AS VARCHAR), '%Y-%m-%d %H') = TIMESTAMP '2024-02-01 08:00:00'", &["8"]),
    ])
    .await;
    let dir = tables();
    for (format, words) in [("%d/%m/%Y %I:%M", "without its half of the day; add `%p`"), ("%d/%m/%Y :%M", "add `%H`")] {
        let sql = format!("SELECT to_timestamp(s, '{format}') FROM t");
        let error = ask(&statement(1, &sql, &TABLES), dir.path(), &[]).await.unwrap_err();
        assert!(error.kind == ErrorKind::Invalid && error.to_string().contains(words), "{format}: {error}");
    }
}

/// Writes the table `f(id, ms, us, ns, day)`: times that are equal, that differ behind the digits of a coarser unit, the end of time,
/// and nulls.
fn finer_times() -> TempDir {
    let dir = tempdir().unwrap();
    let (end, end_day) = (253_402_214_400_000, 2_932_896);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ("ms", Arc::new(TimestampMillisecondArray::from(vec![Some(10_500), Some(-1500), Some(end), None]))),
        (
            "us",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(10_500_000), Some(-1_500_001), Some(end * 1000), None])),
        ),
        (
            "ns",
            Arc::new(TimestampNanosecondArray::from(vec![Some(10_500_000_000), Some(-1_500_000_500), Some(1), None])),
        ),
        ("day", Arc::new(Date32Array::from(vec![Some(0), Some(-1), Some(end_day), None]))),
    ];
    table(dir.path(), "f", &batch(columns));
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn literals_finer_than_their_column_are_compared_exactly() {
    let conditions: [(&str, &[&str]); 24] = [
        ("ms = TIMESTAMP '1970-01-01 00:00:10.5001'", &[]),
        ("ms <> TIMESTAMP '1970-01-01 00:00:10.5001'", &["1", "2", "3"]),
        ("NOT (ms = TIMESTAMP '1970-01-01 00:00:10.5001')", &["1", "2", "3"]),
        ("ms IS DISTINCT FROM TIMESTAMP '1970-01-01 00:00:10.5001'", &["1", "2", "3", "4"]),
        ("ms IS NOT DISTINCT FROM TIMESTAMP '1970-01-01 00:00:10.5001'", &[]),
        ("(ms = TIMESTAMP '1970-01-01 00:00:10.5001') IS NULL", &["4"]),
        ("ms < TIMESTAMP '1970-01-01 00:00:10.5001'", &["1", "2"]),
        ("ms >= '1970-01-01 00:00:10.5001'", &["3"]),
        ("ms > '1970-01-01 00:00:10.4999'", &["1", "3"]),
        ("ms <= '1970-01-01 00:00:10.5'", &["1", "2"]),
        ("ms < TIMESTAMP '1969-12-31 23:59:58.5001'", &["2"]),
        ("ms >= TIMESTAMP '1969-12-31 23:59:58.4999'", &["1", "2", "3"]),
        ("us <= '1970-01-01 00:00:10.5000001'", &["1", "2"]),
        ("TIMESTAMP '1970-01-01 00:00:10.5000001' > us", &["1", "2"]),
        ("us BETWEEN '1969-12-31 23:59:58.4999985' AND TIMESTAMP '1970-01-01 00:00:10.5'", &["1", "2"]),
        ("us BETWEEN '1969-12-31 23:59:58.4999995' AND '1970-01-01 00:00:10.5000001'", &["1"]),
        ("us NOT BETWEEN '1969-12-31 23:59:58.4999995' AND '1970-01-01 00:00:10.5000001'", &["2", "3"]),
        ("us IN (TIMESTAMP '1970-01-01 00:00:10.5000001', '9999-12-31')", &["3"]),
        ("us NOT IN (TIMESTAMP '1970-01-01 00:00:10.5000001')", &["1", "2", "3"]),
        ("CASE us WHEN TIMESTAMP '1970-01-01 00:00:10.5000001' THEN 1 WHEN '9999-12-31' THEN 2 END = 2", &["3"]),
        ("CAST(us AS TIMESTAMP(3)) = TIMESTAMP '1969-12-31 23:59:58.5'", &["2"]),
        ("CAST(ms AS TIMESTAMP) < TIMESTAMP '1970-01-01 00:00:10.5001'", &["1", "2"]),
        ("ns IN (TIMESTAMP '9999-12-31', TIMESTAMP '1970-01-01 00:00:00.000000001')", &["3"]),
        ("us < now() - INTERVAL '1 day'", &["1", "2"]),
    ];
    let statements: Vec<(String, &[&str])> =
        conditions.iter().map(|(condition, ids)| (format!("SELECT id FROM f WHERE {condition}"), *ids)).collect();
    let cases: Vec<(&str, &[&str])> = statements.iter().map(|(sql, ids)| (sql.as_str(), *ids)).collect();
    check_on(&finer_times(), &[("f", "Parquet", "f")], &[], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_other_units_and_dates_are_compared_exactly_to_the_end_of_time() {
    let cases: [(&str, &[&str]); 22] = [
        ("SELECT id FROM f WHERE us = ns", &["1"]),
        ("SELECT id FROM f WHERE us < ns", &["2"]),
        ("SELECT id FROM f WHERE us > ns", &["3"]),
        ("SELECT id FROM f WHERE ms = us", &["1", "3"]),
        ("SELECT id FROM f WHERE us BETWEEN ns AND ms", &["1", "3"]),
        ("SELECT id FROM f WHERE nullif(us, ns) IS NULL", &["1", "4"]),
        ("SELECT id FROM f WHERE day > ns", &["3"]),
        ("SELECT id FROM f WHERE day <= us", &["1", "2", "3"]),
        ("SELECT id FROM f WHERE day > now()", &["3"]),
        ("SELECT id FROM f WHERE day < now() - INTERVAL '1 day'", &["1", "2"]),
        ("SELECT id FROM f WHERE day > TIMESTAMP '1969-12-31 00:00:00.5'", &["1", "3"]),
        ("SELECT id FROM f WHERE day >= TIMESTAMP '1969-12-31 00:00:00'", &["1", "2", "3"]),
        ("SELECT id FROM f WHERE CAST(day AS TIMESTAMP) < TIMESTAMP '1970-01-01 12:00:00'", &["1", "2"]),
        ("SELECT id FROM f WHERE greatest(day, now()) > '9000-01-01'", &["3"]),
        ("SELECT id FROM f WHERE CASE WHEN id < 4 THEN day ELSE now() END > '9000-01-01'", &["3"]),
        ("SELECT DATE '9999-12-31' > now(), now() BETWEEN DATE '1970-01-01' AND DATE '9999-12-31'", &["true | true"]),
        ("SELECT id FROM f WHERE us IN (SELECT ns FROM f)", &["1"]),
        ("SELECT id FROM f WHERE ns NOT IN (SELECT us FROM f WHERE us IS NOT NULL)", &["2", "3"]),
        ("SELECT a.id, b.id AS other FROM f a JOIN f b ON a.us = b.ns", &["1 | 1"]),
        ("SELECT a.id, b.id AS other FROM f a JOIN f b ON a.day = b.us", &["3 | 3"]),
        ("SELECT x.id FROM (SELECT id, us AS k FROM f) x JOIN (SELECT ns AS k FROM f) y USING (k)", &["1"]),
        ("SELECT count(*) FROM f WHERE us <= (SELECT max(ns) FROM f)", &["2"]),
    ];
    check_on(&finer_times(), &[("f", "Parquet", "f")], &[], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_beside_times_with_a_zone_begin_at_its_midnight() {
    // `z` is 06:00, 12:00 and 18:00 of 2024-07-01 in UTC; Denver is six hours behind.
    let cases: [(&str, &[&str]); 4] = [
        ("SELECT id FROM d WHERE z >= DATE '2024-07-01'", &["1", "2", "3"]),
        ("SELECT id FROM d WHERE z > DATE '2024-07-01'", &["2", "3"]),
        ("SELECT id FROM d WHERE day > now()", &["1"]),
        // In Sao Paulo, this day had no midnight.
        ("SELECT count(*) FROM d WHERE CASE WHEN id > 0 THEN DATE '2018-11-04' END < now()", &["3"]),
    ];
    let denver = "arrow_cast(z, 'Timestamp(Microsecond, Some(\"America/Denver\"))')";
    let zoned: Vec<(String, &[&str])> =
        cases.iter().map(|(sql, rows)| (sql.replace(" z ", &format!(" {denver} ")), *rows)).collect();
    let cases: Vec<(&str, &[&str])> = zoned.iter().map(|(sql, rows)| (sql.as_str(), *rows)).collect();
    check(&["time_zone=America/Sao_Paulo"], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_beyond_nanoseconds_are_truncated_and_put_in_bins() {
    check(&[], &[
        (
            "SELECT date_trunc('week', ts), date_trunc('month', ts), date_trunc('year', ms) FROM d WHERE id <> 2",
            &["9999-12-27T00:00:00 | 9999-12-01T00:00:00 | 9999-01-01T00:00:00", "1650-05-30T00:00:00 | 1650-05-01T00:00:00 | 1650-01-01T00:00:00"],
        ),
        ("SELECT date_trunc('quarter', day) FROM d", &["9999-10-01T00:00:00", "2024-07-01T00:00:00", "1650-04-01T00:00:00"]),
        ("SELECT date_trunc('month', TIMESTAMP '9999-12-31 10:20:30'), date_trunc('hour', TIMESTAMP '1600-02-29 10:20:30')", &["9999-12-01T00:00:00 | 1600-02-29T10:00:00"]),
        ("SELECT date_trunc('millisecond', TIMESTAMP '1969-12-31 23:59:59.9995')", &["1969-12-31T23:59:59.999"]),
        ("SELECT date_bin(INTERVAL '1 day', ts) FROM d", &["9999-12-31T00:00:00", "2024-07-01T00:00:00", "1650-05-31T00:00:00"]),
        ("SELECT id FROM d WHERE date_bin(INTERVAL '1 month', ms) = TIMESTAMP '9999-12-01' OR date_bin(INTERVAL '1 hour', ts, TIMESTAMP '2000-01-01 00:30:00') = TIMESTAMP '1650-05-30 23:30:00'", &["1", "3"]),
        ("SELECT date_bin(INTERVAL '1 year', day) FROM d", &["9999-01-01T00:00:00", "2024-01-01T00:00:00", "1650-01-01T00:00:00"]),
        ("SELECT date_bin(CAST(NULL AS INTERVAL), ts) FROM d WHERE id = 1", &["NULL"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_without_a_zone_are_read_in_one() {
    let dir = tempdir().unwrap();
    let local = ["2024-07-01 12:00:00", "2024-11-03 01:30:00", "2024-03-10 02:30:00", "9999-12-31 00:00:00"];
    let times = cast(&StringArray::from(local.to_vec()), &DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap();
    let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(19_905), Some(20_030), None, None]));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=4));
    table(dir.path(), "l", &batch(vec![("id", ids), ("ts", times), ("day", days)]));
    let utc = |zoned: &str| format!("CAST(arrow_cast({zoned}, 'Timestamp(Microsecond, Some(\"UTC\"))') AS VARCHAR)");
    let there = "(ts AT TIME ZONE 'America/New_York')";
    let zoned = |value: &str| format!("arrow_cast({value}, 'Timestamp(Microsecond, Some(\"America/New_York\"))')");
    check_on(&dir, &[("l", "Parquet", "l")], &["time_zone=UTC"], &[
        // The clock showed 01:30 twice, and skipped 02:30.
        (
            &format!("SELECT {} FROM l", utc(there)),
            &["2024-07-01T16:00:00Z", "2024-11-03T06:30:00Z", "2024-03-10T07:30:00Z", "9999-12-31T05:00:00Z"],
        ),
        (&format!("SELECT id FROM l WHERE {there} = TIMESTAMPTZ '2024-07-01 16:00:00+00:00'"), &["1"]),
        (&format!("SELECT id FROM l WHERE {} = {}", zoned("ts"), zoned("'2024-07-01T16:00:00Z'")), &["1"]),
        (
            &format!("SELECT {}, {} FROM l WHERE id = 1", utc(there), utc("(ts AT TIME ZONE 'Asia/Tokyo')")),
            &["2024-07-01T16:00:00Z | 2024-07-01T03:00:00Z"],
        ),
        (&format!("SELECT id FROM l WHERE {there} < TIMESTAMPTZ '2024-07-01 15:00:00+00:00'"), &["3"]),
        (&format!("SELECT id FROM l WHERE {there} IN (TIMESTAMPTZ '2024-11-03 06:30:00+00:00', TIMESTAMPTZ '2024-07-01 12:00:00+00:00')"), &["2"]),
        (&format!("SELECT id FROM l WHERE {there} BETWEEN '2024-11-03 06:00:00+00:00' AND '2024-11-03 07:00:00+00:00'"), &["2"]),
        ("SELECT id FROM l WHERE id < 4 AND CAST(ts AT TIME ZONE 'UTC' AS TIMESTAMP) = TIMESTAMP '2024-07-01 12:00:00'", &["1"]),
        (&format!("SELECT id FROM l WHERE id < 4 AND CAST({there} AS TIMESTAMP) = TIMESTAMP '2024-07-01 16:00:00'"), &["1"]),
        (&format!("SELECT {} FROM l WHERE id < 3", utc("(day AT TIME ZONE 'America/New_York')")), &["2024-07-01T04:00:00Z", "2024-11-03T04:00:00Z"]),
    ])
    .await;
    check_on(
        &dir,
        &[("l", "Parquet", "l")],
        &["time_zone=America/New_York"],
        &[
            ("SELECT id FROM l WHERE CAST(ts AS TIMESTAMPTZ) = TIMESTAMPTZ '2024-07-01 16:00:00+00:00'", &["1"]),
            ("SELECT count(CAST(ts AS TIMESTAMPTZ)) FROM l WHERE id < 4", &["3"]),
            ("SELECT count(TRY_CAST(ts AS TIMESTAMPTZ)) FROM l WHERE id < 4", &["3"]),
        ],
    )
    .await;
    // `z` is 06:00, 12:00 and 18:00 of 2024-07-01 in UTC. Without its zone it is the time in UTC, as the list of a SELECT has it.
    let denver = "CAST(z AT TIME ZONE 'America/Denver' AS TIMESTAMP)";
    check(&[], &[
        (&format!("SELECT id FROM d WHERE {denver} < TIMESTAMP '2024-07-01 07:00:00'"), &["1"]),
        (&format!("SELECT id FROM d WHERE {denver} IN (TIMESTAMP '2024-07-01 06:00:00', TIMESTAMP '2024-07-01 18:00:00')"), &["1", "3"]),
        ("SELECT id FROM d WHERE z AT TIME ZONE 'America/Denver' < '2024-07-01 07:00:00'", &["1", "2"]),
    ])
    .await;
}
