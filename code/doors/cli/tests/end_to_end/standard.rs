//! Statements that mean something else in DataFusion than in the SQL standard, or that it refuses. The expected rows are
//! written by hand.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal32Array, Decimal64Array, Decimal128Array, Int64Array, RecordBatch,
    StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Fields};
use buzz_protocol::ErrorKind;
use buzz_testkit::sorted_text;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use crate::common::{ask, statement, steps};
use crate::tables::write_file;

/// The ways to run a statement: one comb, three combs over sockets, and 16 tasks whose rows are exchanged.
pub(crate) const WAYS: [(usize, &[&str]); 3] = [
    (1, &["transport=memory", "tasks=1"]),
    (3, &["transport=tcp", "reducer=comb", "tasks=4"]),
    (1, &["tasks=16", "build_bytes=0", "reducer=comb"]),
];

pub(crate) const TABLES: [(&str, &str, &str); 4] =
    [("t", "Parquet", "t"), ("u", "Parquet", "u"), ("d", "Parquet", "d"), ("g", "Parquet", "g")];

/// Writes `batch` as a table of files with two rows each.
pub(crate) fn table(dir: &Path, name: &str, batch: &RecordBatch) {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    for (number, start) in (0..batch.num_rows()).step_by(2).enumerate() {
        let rows = batch.slice(start, 2.min(batch.num_rows() - start));
        write_file(&folder.join(format!("part-{number}.parquet")), &rows);
    }
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// Writes the tables `t(id, a, b, s)`, `u(k, v)`, `d(id, ts, ms, ns, day, tm, z)` and `g(id, s: {x, y})`.
pub(crate) fn tables() -> TempDir {
    let dir = tempdir().unwrap();
    let numbers = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let ids = |count: i64| numbers((1..=count).map(Some).collect());
    let a = vec![Some(1), Some(1), Some(2), None, Some(3), Some(3), Some(3), None];
    let b = [0, 2, 0, 4, 5, 0, 7, 8].map(Some).to_vec();
    let s = vec![Some("hello"), Some("help"), Some("a.c"), Some("abc"), Some("50%"), Some("50x"), None, Some("")];
    let s: ArrayRef = Arc::new(StringArray::from(s));
    table(dir.path(), "t", &batch(vec![("id", ids(8)), ("a", numbers(a)), ("b", numbers(b)), ("s", s)]));
    let v: ArrayRef = Arc::new(StringArray::from(vec!["one", "two", "zwei", "none"]));
    table(dir.path(), "u", &batch(vec![("k", numbers(vec![Some(1), Some(2), Some(2), None])), ("v", v)]));

    let (end, noon, old) = (253_402_214_400, 1_719_835_200, -10_085_212_800);
    let micros =
        |seconds: [i64; 3]| TimestampMicrosecondArray::from_iter_values(seconds.map(|second| second * 1_000_000));
    let millis = [end, noon, old].map(|second| second * 1000);
    let zoned = micros([noon - 21_600, noon, noon + 21_600]).with_timezone("UTC");
    let hours = [11.0, 12.5, 13.0].map(|hour: f64| (hour * 3.6e9) as i64);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", ids(3)),
        ("ts", Arc::new(micros([end, noon, old]))),
        ("ms", Arc::new(TimestampMillisecondArray::from_iter_values(millis))),
        ("ns", Arc::new(TimestampNanosecondArray::from_iter_values([1, noon * 1_000_000_000, 3]))),
        (
            "day",
            Arc::new(Date32Array::from_iter_values([end, noon, old].map(|second| second.div_euclid(86_400) as i32))),
        ),
        ("tm", Arc::new(Time64MicrosecondArray::from_iter_values(hours))),
        ("z", Arc::new(zoned)),
    ];
    table(dir.path(), "d", &batch(columns));

    let leaves = Fields::from(vec![Field::new("x", DataType::Int64, false), Field::new("y", DataType::Utf8, true)]);
    let x: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let y: ArrayRef = Arc::new(StringArray::from(vec![Some("p"), None, Some("q")]));
    let present = Some(vec![true, false, true].into());
    let structs: ArrayRef = Arc::new(StructArray::new(leaves, vec![x, y], present));
    table(dir.path(), "g", &batch(vec![("id", ids(3)), ("s", structs)]));
    dir
}

/// Runs each statement in every way, with `sets`, and compares its rows, in any order, with those that are expected.
pub(crate) async fn check(sets: &[&str], cases: &[(&str, &[&str])]) {
    check_on(&tables(), &TABLES, sets, cases).await;
}

/// Does the same over `tables`, whose files are in `dir`.
pub(crate) async fn check_on(dir: &TempDir, tables: &[(&str, &str, &str)], sets: &[&str], cases: &[(&str, &[&str])]) {
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        expected.sort();
        for (zones, way) in WAYS {
            let sets: Vec<&str> = way.iter().chain(sets).copied().collect();
            match ask(&statement(zones, sql, tables), dir.path(), &sets).await {
                Ok(answer) if sorted_text(&answer.rows) == expected => {}
                Ok(answer) => wrong.push(format!("{zones} zones: {sql}: {:?}", sorted_text(&answer.rows))),
                Err(error) => wrong.push(format!("{zones} zones: {sql}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_columns_of_outer_joins_have_the_value_of_the_side_with_a_row() {
    let full = "FROM (SELECT a AS k, count(*) AS n FROM t GROUP BY a) x FULL JOIN (SELECT k, count(*) AS m FROM u GROUP BY k) y USING (k)";
    check(&[], &[
        (&format!("SELECT k, n, m {full}"), &["1 | 2 | 1", "2 | 1 | 2", "3 | 3 | NULL", "NULL | 2 | NULL", "NULL | NULL | 1"]),
        (&format!("SELECT count(k), sum(k) {full} WHERE k > 1"), &["2 | 5"]),
        ("SELECT k, id FROM (SELECT id, id AS k FROM t WHERE id < 2) x RIGHT JOIN u USING (k)", &["1 | 1", "2 | NULL", "2 | NULL", "NULL | NULL"]),
        ("SELECT k, v FROM u RIGHT JOIN (SELECT id AS k FROM t WHERE id IN (2, 7)) x USING (k)", &["2 | two", "2 | zwei", "7 | NULL"]),
        ("SELECT x.k AS xk, y.k AS yk, k FROM (SELECT 1 AS k) x FULL JOIN (SELECT 2 AS k) y USING (k)", &["1 | NULL | 1", "NULL | 2 | 2"]),
        ("SELECT x.k, y.k FROM (SELECT 1 AS k) x FULL JOIN (SELECT 2 AS k) y USING (k)", &["1 | NULL", "NULL | 2"]),
        ("SELECT * FROM (SELECT 1 AS k, 'l' AS l) x FULL JOIN (SELECT 2 AS k, 'r' AS r) y USING (k)", &["1 | l | NULL", "2 | NULL | r"]),
        ("SELECT k FROM (SELECT 1 AS k) a FULL JOIN (SELECT 2 AS k) b USING (k) FULL JOIN (SELECT 2 AS k UNION ALL SELECT 3) c USING (k)", &["1", "2", "3"]),
        ("SELECT k, count(*) FROM u a JOIN u b USING (k) JOIN u c USING (k) WHERE k > 1 GROUP BY k", &["2 | 8"]),
        ("SELECT k FROM (SELECT 1 AS k) x NATURAL FULL JOIN (SELECT 2 AS k) y", &["1", "2"]),
        ("SELECT k, l FROM (SELECT * FROM (SELECT 5 AS k, 'l' AS l) y LEFT JOIN (SELECT 6 AS k, 'r' AS r) x USING (k)) s", &["5 | l"]),
        ("SELECT z.id FROM (SELECT id, id AS k FROM t) z LEFT JOIN u USING (k) WHERE u.k IS NULL", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT c.id FROM (SELECT id, id AS k FROM t) c LEFT JOIN u USING (k) WHERE u.k IS NULL", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT k, count(*) FROM (SELECT id AS k FROM t) x FULL JOIN u USING (k) GROUP BY k HAVING count(*) > 1 ORDER BY k", &["2 | 2"]),
        ("SELECT k, count(*) FROM (SELECT id AS k FROM t) x NATURAL JOIN u WHERE k = 2 GROUP BY k", &["2 | 2"]),
        ("SELECT k FROM (SELECT 1 AS k UNION SELECT 3) x NATURAL FULL JOIN (SELECT 2 AS k) y WHERE k > 1", &["2", "3"]),
        ("SELECT k, l FROM (SELECT 1 AS k, 5 AS l UNION ALL SELECT 2, 6) x NATURAL JOIN (SELECT 1 AS k, 5 AS l UNION ALL SELECT 2, 6) y WHERE k + l > 6", &["2 | 6"]),
        ("SELECT k, m FROM (SELECT 1 AS k) x NATURAL LEFT JOIN (SELECT 2 AS k, 3 AS m) y WHERE k = 1", &["1 | NULL"]),
        ("SELECT k, m FROM (SELECT 1 AS k) x NATURAL JOIN (SELECT 1 AS k, 3 AS m) y NATURAL JOIN (SELECT 3 AS m) z WHERE m = 3 AND k = 1", &["1 | 3"]),
        ("SELECT count(*) FROM (SELECT DISTINCT a AS k FROM t) NATURAL JOIN u CROSS JOIN (SELECT DISTINCT b FROM t) z", &["18"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_knows_three_values_in_every_place() {
    check(&[], &[
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u) OR id = 5", &["5"]),
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u)", &[]),
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u WHERE k IS NOT NULL)", &["5", "6", "7"]),
        ("SELECT id FROM t WHERE (a NOT IN (SELECT k FROM u WHERE k IS NOT NULL)) IS NULL", &["4", "8"]),
        ("SELECT id FROM t WHERE NOT (a IN (SELECT k FROM u WHERE k IS NOT NULL) AND b < 3)", &["4", "5", "6", "7", "8"]),
        ("SELECT id, a IN (SELECT k FROM u) FROM t WHERE id < 6", &["1 | true", "2 | true", "3 | true", "4 | NULL", "5 | NULL"]),
        ("SELECT id, a NOT IN (SELECT k FROM u WHERE k > 9) FROM t WHERE id IN (3, 4)", &["3 | true", "4 | true"]),
        ("SELECT count(*) FROM t WHERE NULL NOT IN (SELECT k FROM u)", &["0"]),
        ("SELECT count(*) FROM t WHERE NULL NOT IN (SELECT k FROM u WHERE k > 9)", &["8"]),
        ("SELECT count(*) FROM t WHERE 7 NOT IN (SELECT k FROM u)", &["0"]),
        ("SELECT count(*) FROM t WHERE 7 NOT IN (SELECT id FROM t WHERE id < 5)", &["8"]),
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u WHERE u.k <= t.b)", &["1", "3", "5", "6", "7"]),
        ("SELECT id FROM t WHERE b NOT IN (SELECT x.b FROM t x WHERE x.a = t.a AND x.id <> t.id)", &["1", "2", "3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE b = 8 OR id IN (SELECT k FROM u)", &["1", "2", "8"]),
        ("SELECT CASE WHEN a IN (SELECT k FROM u WHERE k = 1) THEN 'one' ELSE 'other' END, count(*) FROM t GROUP BY 1", &["one | 2", "other | 6"]),
        ("SELECT id FROM t WHERE (a, b) IN (SELECT a, b FROM t WHERE id IN (2, 4))", &["2"]),
        ("SELECT id FROM t WHERE (a, b) NOT IN (SELECT k, k FROM u)", &[]),
        ("SELECT id FROM t WHERE (a, b) NOT IN (SELECT k, 2 FROM u WHERE k IS NOT NULL)", &["1", "3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE (a, b) IN ((1, 2), (3, 7)) OR (id, b) = (8, 8)", &["2", "7", "8"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exists_over_an_aggregate_and_in_every_place() {
    check(&[], &[
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id)", &["1", "2", "3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE NOT EXISTS (SELECT max(k) FROM u WHERE u.k = t.id)", &[]),
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id HAVING count(*) = 0)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id HAVING count(*) > 1)", &["2"]),
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id GROUP BY v)", &["1", "2"]),
        ("SELECT id FROM t WHERE 0 IN (SELECT count(*) FROM u WHERE u.k = t.id)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE 0 NOT IN (SELECT count(*) FROM u WHERE u.k = t.id)", &["1", "2"]),
        ("SELECT id, EXISTS (SELECT 1 FROM u WHERE u.k = t.id) FROM t WHERE id < 4", &["1 | true", "2 | true", "3 | false"]),
        ("SELECT EXISTS (SELECT 1 FROM t WHERE b > 7), NOT EXISTS (SELECT 1 FROM u), EXISTS (SELECT 1 FROM t WHERE b > 8)", &["true | false | false"]),
        ("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.id) OR b = 7", &["1", "2", "7"]),
        ("SELECT id FROM t ORDER BY id * (SELECT -1) LIMIT 2", &["7", "8"]),
        ("SELECT sum(id + (SELECT max(k) FROM u)) FROM t", &["52"]),
        ("SELECT (SELECT 42) AS n, count(*) FROM t GROUP BY n", &["42 | 8"]),
        ("SELECT id, sum(id + (SELECT 1)) OVER () FROM t WHERE id < 3", &["1 | 5", "2 | 5"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_operations_with_all_count_rows() {
    check(
        &[],
        &[
            ("SELECT a FROM t EXCEPT ALL SELECT k FROM u", &["1", "NULL", "3", "3", "3"]),
            ("SELECT a FROM t INTERSECT ALL SELECT k FROM u", &["1", "2", "NULL"]),
            ("SELECT k FROM u EXCEPT ALL SELECT a FROM t", &["2"]),
            ("SELECT a, b FROM t EXCEPT ALL SELECT a, b FROM t WHERE id > 2", &["1 | 0", "1 | 2"]),
            ("SELECT 'x' FROM t INTERSECT ALL SELECT 'x' FROM u", &["x", "x", "x", "x"]),
            ("SELECT a FROM t EXCEPT SELECT k FROM u", &["3"]),
            ("SELECT DISTINCT a FROM t INTERSECT ALL SELECT k FROM u", &["1", "2", "NULL"]),
            ("SELECT count(*) FROM (SELECT a FROM t EXCEPT ALL SELECT a FROM t WHERE id IN (1, 5, 6))", &["5"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_exact_whatever_the_order() {
    let most = i64::MAX;
    check(&[], &[
        (&format!("SELECT sum(CASE WHEN id < 5 THEN {most} ELSE -{most} END) FROM t"), &["0"]),
        (&format!("SELECT a, sum(CASE WHEN id % 2 = 0 THEN {most} ELSE -{most} END) AS x FROM t WHERE a = 1 GROUP BY a"), &["1 | 0"]),
        ("SELECT a, sum(id), sum(DISTINCT b) FROM t GROUP BY a", &["1 | 3 | 2", "2 | 3 | 0", "NULL | 12 | 12", "3 | 18 | 12"]),
        ("SELECT id, sum(b) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t WHERE id < 5", &["1 | 0", "2 | 2", "3 | 2", "4 | 4"]),
        ("SELECT sum(id) FROM t WHERE id > 99", &["NULL"]),
        ("SELECT sum(a) FILTER (WHERE id > 4), sum(CAST(id AS INT UNSIGNED)) FROM t", &["9 | 36"]),
        ("SELECT avg(CAST('999999999999999999999999999999999999' AS DECIMAL(38, 0))) = 999999999999999999999999999999999999 FROM t", &["true"]),
        ("SELECT avg(CAST(id AS DECIMAL(30, 2))) FROM t", &["4.500000"]),
("SELECT avg(CAST(id AS DECIMAL(38, 0))) OVER () FROM t LIMIT 1", &["4.5000"]),
("SELECT (SELECT 1), (SELECT 2), EXISTS (SELECT 1), EXISTS (SELECT 2) FROM t LIMIT 1", &["1 | 2 | true | true"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overflow_is_an_error_or_wraps() {
    let dir = tables();
    let most = i64::MAX;
    let long = "CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0))";
    let mut wrong = Vec::new();
    for sql in [
        format!("SELECT {most} + 1"),
        format!("SELECT id * {most} FROM t"),
        format!("SELECT -{most} - id - 1 FROM t"),
        "SELECT CAST(2147483647 AS INT) + CAST(id AS INT) FROM t".to_string(),
        format!("SELECT sum(x) FROM (SELECT {most} + id * 0 AS x FROM t)"),
        format!("SELECT a, sum(x) FROM (SELECT a, {most} + id * 0 AS x FROM t) GROUP BY a"),
        format!("SELECT sum({most} + id * 0) OVER () FROM t"),
        format!("SELECT count(*) FROM t WHERE id + {most} > 0"),
        format!("SELECT sum({long}) FROM t"),
        format!("SELECT {long} + id FROM t"),
        format!("SELECT -(-{most} - id) FROM t"),
    ] {
        for (zones, way) in WAYS {
            match ask(&statement(zones, &sql, &TABLES), dir.path(), way).await {
                Ok(answer) => wrong.push(format!("{zones} zones: {sql}: {:?}", sorted_text(&answer.rows))),
                Err(error) if error.kind == ErrorKind::Invalid && error.message.contains("exceeds the type") => {}
                Err(error) => wrong.push(format!("{zones} zones: {sql}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    check(
        &["overflow=wrap"],
        &[
            (&format!("SELECT {most} + 1"), &["-9223372036854775808"]),
            (&format!("SELECT sum(x) FROM (SELECT {most} + id * 0 AS x FROM t WHERE id < 3)"), &["-2"]),
            ("SELECT sum(a), sum(b) OVER () FROM (SELECT sum(a) AS a, 1 AS b FROM t) GROUP BY b", &["13 | 1"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simplified_conditions_keep_nulls() {
    check(
        &[],
        &[
            ("SELECT id FROM t WHERE (a IN (1) AND a IN (2)) IS NULL", &["4", "8"]),
            ("SELECT id FROM t WHERE a NOT IN (1) OR a NOT IN (2)", &["1", "2", "3", "5", "6", "7"]),
            ("SELECT id FROM t WHERE (a NOT IN (1, 2) OR a NOT IN (3, 4)) IS NULL", &["4", "8"]),
            ("SELECT id, a IN (1) AND b < 9 AND a IN (2) FROM t WHERE id IN (1, 4)", &["1 | false", "4 | NULL"]),
            ("SELECT id FROM t WHERE a IN (1, 2) AND a IN (2, 3)", &["3"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_are_those_of_the_standard() {
    check(&[], &[
        ("SELECT id FROM t WHERE s SIMILAR TO 'hel%'", &["1", "2"]),
        ("SELECT id FROM t WHERE s SIMILAR TO 'a.c'", &["3"]),
        ("SELECT id FROM t WHERE s SIMILAR TO 'a_c'", &["3", "4"]),
        ("SELECT id FROM t WHERE s SIMILAR TO '(hello|abc)'", &["1", "4"]),
        ("SELECT id FROM t WHERE s SIMILAR TO 'el'", &[]),
        (r"SELECT id FROM t WHERE s SIMILAR TO '[0-9]{2}\%'", &["5"]),
        ("SELECT id FROM t WHERE s SIMILAR TO '50#%' ESCAPE '#'", &["5"]),
        ("SELECT id FROM t WHERE s NOT SIMILAR TO 'hel%'", &["3", "4", "5", "6", "8"]),
        ("SELECT id FROM t WHERE s SIMILAR TO s || '%'", &["1", "2", "3", "4", "5", "6", "8"]),
        ("SELECT id FROM t WHERE arrow_cast(s, 'Dictionary(Int32, Utf8)') SIMILAR TO 'hel%'", &["1", "2"]),
        ("SELECT id FROM t WHERE s LIKE '50!%' ESCAPE '!'", &["5"]),
        ("SELECT id FROM t WHERE s LIKE '50#_' ESCAPE '#'", &[]),
        ("SELECT id FROM t WHERE s NOT LIKE 'h%' ESCAPE '$'", &["3", "4", "5", "6", "8"]),
        ("SELECT id FROM t WHERE s LIKE CASE WHEN id = 5 THEN '50!%' ELSE 'x' END ESCAPE '!'", &["5"]),
        ("SELECT id FROM t WHERE arrow_cast(s, 'Dictionary(Int32, Utf8)') LIKE 'h%' AND id > 1", &["2"]),
        ("SELECT count(*) FROM (SELECT arrow_cast(s, 'Dictionary(Int32, Utf8)') AS s FROM t WHERE id > 99) WHERE s LIKE 'h%'", &["0"]),
    ])
    .await;
}

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
            ("SELECT id FROM d WHERE tm > TIME '12:00:00'", &["2", "3"]),
            ("SELECT id FROM d WHERE TIME '12:30:00' = tm OR tm IN (TIME '11:00:00')", &["1", "2"]),
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
async fn conditions_guard_others() {
    check(
        &[],
        &[
            ("SELECT id FROM t WHERE b <> 0 AND 10 / b > 1", &["2", "4", "5"]),
            ("SELECT id FROM t WHERE 10 / b > 1 AND b <> 0", &["2", "4", "5"]),
            ("SELECT id FROM (SELECT * FROM t WHERE b <> 0) WHERE 10 / b > 1", &["2", "4", "5"]),
            ("SELECT id FROM (SELECT id, 10 / b AS q, b FROM t) WHERE b <> 0 AND q > 1", &["2", "4", "5"]),
            ("SELECT count(*) FROM t WHERE b > 0 AND id % b = 0", &["5"]),
            ("SELECT count(*) FROM t JOIN u ON t.b <> 0 AND u.k / t.b = 0", &["13"]),
            ("SELECT id FROM t WHERE s SIMILAR TO '[0-9]+' AND CAST(s AS INT) > 3", &[]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_clauses_are_accepted() {
    check(&[], &[
        ("SELECT id, id FROM t WHERE id = 1", &["1 | 1"]),
        ("SELECT count(*), count(*), count(*) AS n FROM t", &["8 | 8 | 8"]),
        ("SELECT n FROM (SELECT 0, 0, 1 AS n)", &["1"]),
        ("SELECT id FROM t ORDER BY id DESC FETCH FIRST 2 ROWS ONLY", &["7", "8"]),
        ("SELECT id FROM t ORDER BY id OFFSET 6 ROWS FETCH NEXT 1 ROW ONLY", &["7"]),
        ("SELECT count(DISTINCT DATE '2024-01-31' + id * INTERVAL '1 day') FROM t", &["8"]),
        ("SELECT DATE '2024-01-01' + INTERVAL '1 month' * 2 = DATE '2024-03-01', INTERVAL '1 day' * 1.5 = INTERVAL '1 day 12 hours'", &["true | true"]),
        ("SELECT DISTINCT a, count(*) OVER (PARTITION BY a) AS n FROM t LIMIT 30", &["1 | 2", "2 | 1", "NULL | 2", "3 | 3"]),
        ("SELECT id, row_number() OVER (ORDER BY struct(id)) FROM t WHERE id < 3", &["1 | 1", "2 | 2"]),
        ("SELECT id, sum(b) OVER (ORDER BY struct(a)) FROM t WHERE a < 3", &["1 | 2", "2 | 2", "3 | 2"]),
        ("SELECT count(*) FROM t GROUP BY GROUPING SETS (())", &["8"]),
        ("SELECT count(*), 1 FROM t WHERE id > 99 GROUP BY ()", &["0 | 1"]),
        ("WITH RECURSIVE r(i, s) AS (SELECT 0, 0 UNION ALL SELECT i + 1, s + i FROM r WHERE i < 4) SELECT max(s) FROM r", &["6"]),
        ("SELECT 0.1 + 0.2 = 0.3, 1.10 * 3 = 3.3", &["true | true"]),
        ("SELECT id FROM (SELECT id, CAST('12345678901234567.8' || id AS DECIMAL(20, 2)) AS d FROM t) WHERE d <= 12345678901234567.82", &["1", "2"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_do_not_drop_rows_that_a_distinct_or_a_filter_needs() {
    let thrice = "WITH s AS (SELECT id AS x FROM t ORDER BY x LIMIT 3), u AS (SELECT * FROM s UNION ALL SELECT * FROM s UNION ALL SELECT * FROM s)";
    check(&[], &[
        (&format!("{thrice} SELECT DISTINCT x FROM u ORDER BY x LIMIT 3"), &["1", "2", "3"]),
        (&format!("{thrice} SELECT x FROM u GROUP BY x ORDER BY x LIMIT 2"), &["1", "2"]),
        (&format!("{thrice} SELECT x, count(*) FROM u GROUP BY x ORDER BY x DESC LIMIT 2"), &["2 | 3", "3 | 3"]),
        ("SELECT id FROM (SELECT * FROM t ORDER BY id LIMIT 6) WHERE b > 3 ORDER BY id LIMIT 2", &["4", "5"]),
        ("SELECT id, sum(b) OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND 2 FOLLOWING) FROM t ORDER BY id LIMIT 2", &["1 | 2", "2 | 6"]),
        ("SELECT id, count(*) OVER () FROM t ORDER BY id LIMIT 2", &["1 | 8", "2 | 8"]),
        ("SELECT DISTINCT a FROM t ORDER BY a DESC NULLS LAST LIMIT 2", &["2", "3"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_unnested_beside_their_rows() {
    let lists = "(SELECT id, CASE WHEN id < 3 THEN [id, b] WHEN id = 4 THEN [] END AS l FROM t WHERE id < 5) q";
    check(
        &[],
        &[
            (&format!("SELECT id, x FROM {lists} CROSS JOIN UNNEST(l) AS y(x)"), &["1 | 1", "1 | 0", "2 | 2", "2 | 2"]),
            (
                &format!("SELECT id, sum(x) FROM {lists}, UNNEST(q.l) AS y(x) WHERE x > 0 GROUP BY id"),
                &["1 | 1", "2 | 4"],
            ),
            (
                &format!("SELECT id, x FROM {lists} LEFT JOIN UNNEST(l) AS y(x) ON true"),
                &["1 | 1", "1 | 0", "2 | 2", "2 | 2", "3 | NULL", "4 | NULL"],
            ),
            (
                &format!("SELECT id, x, n FROM {lists} CROSS JOIN UNNEST(l) WITH ORDINALITY AS y(x, n)"),
                &["1 | 1 | 1", "1 | 0 | 2", "2 | 2 | 1", "2 | 2 | 2"],
            ),
            ("SELECT id, x FROM t CROSS JOIN UNNEST([10, 20]) AS y(x) WHERE id = 1", &["1 | 10", "1 | 20"]),
            (&format!("SELECT id, y.l FROM {lists} CROSS JOIN UNNEST(l) AS y(l) WHERE id = 1"), &["1 | 1", "1 | 0"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn required_field_of_a_null_struct_is_null() {
    check(
        &[],
        &[
            ("SELECT sum(s['x']), count(s['x']), count(s) FROM g", &["4 | 2 | 2"]),
            ("SELECT id, s['x'], s['y'] FROM g", &["1 | 1 | p", "2 | NULL | NULL", "3 | 3 | q"]),
            ("SELECT id FROM g WHERE s['x'] IS NULL", &["2"]),
            ("SELECT id FROM g WHERE s['x'] > 0", &["1", "3"]),
            ("SELECT unnest(s) FROM g", &["1 | p", "NULL | NULL", "3 | q"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_mean_the_same_as_one_statement() {
    let dir = tables();
    let tables = [TABLES[0], TABLES[1]];
    let maps = [
        ("m", "SELECT id, id AS k, a, b, s FROM t WHERE b <> 0 AND 10 / b > 0 AND s NOT SIMILAR TO 'x%'"),
        ("n", "SELECT k, v FROM u"),
    ];
    for (sql, expected) in [
        ("SELECT k FROM (SELECT k FROM m WHERE k > 4) x FULL JOIN n USING (k)", vec!["1", "2", "2", "5", "8", "NULL"]),
        (
            "SELECT x.k AS x, y.k AS y FROM (SELECT k FROM m WHERE k > 4) x FULL JOIN (SELECT k FROM n WHERE k > 1) y USING (k)",
            vec!["5 | NULL", "8 | NULL", "NULL | 2", "NULL | 2"],
        ),
        ("SELECT id FROM m WHERE a NOT IN (SELECT k FROM n) OR id = 8", vec!["8"]),
        ("SELECT k FROM n EXCEPT ALL SELECT id FROM m", vec!["1", "2", "NULL"]),
        ("SELECT id FROM m ORDER BY id FETCH FIRST 2 ROWS ONLY", vec!["2", "4"]),
    ] {
        // The plan of a step that is read once is a part of the plan of its reader.
        for reduces in [vec![("r", sql)], vec![("r", sql), ("last", "SELECT * FROM r")]] {
            for zones in [1, 3] {
                let answer = ask(&steps(zones, &maps, &reduces, &tables), dir.path(), &["tasks=4"]).await;
                assert_eq!(sorted_text(&answer.unwrap().rows), expected, "{zones} zones: {reduces:?}");
            }
        }
    }
    let maps = [("m", "SELECT sum(9223372036854775807 + id * 0) AS x FROM t")];
    let error = ask(&steps(1, &maps, &[("r", "SELECT x FROM m")], &tables[..1]), dir.path(), &[]).await.unwrap_err();
    assert!(error.message.contains("exceeds the type Int64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_of_short_decimals_do_not_wrap() {
    let dir = tempdir().unwrap();
    let short = Decimal32Array::from_iter_values(vec![999_999_999; 300]).with_precision_and_scale(9, 2).unwrap();
    let long = Decimal64Array::from_iter_values(vec![999_999_999_999_999_999; 300]);
    let long = long.with_precision_and_scale(18, 2).unwrap();
    table(dir.path(), "t", &batch(vec![("a", Arc::new(short)), ("b", Arc::new(long))]));
    for (zones, way) in WAYS {
        let sql = "SELECT sum(a), sum(b), max(a + a) FROM t";
        let answer = ask(&statement(zones, sql, &TABLES[..1]), dir.path(), way).await.unwrap();
        let expected = "2999999997.00 | 2999999999999999997.00 | 19999999.98";
        assert_eq!(sorted_text(&answer.rows), [expected], "{zones} zones");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_column_does_not_become_text_by_a_schema() {
    let dir = tempdir().unwrap();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"\xff\xfe", b"ok"]));
    table(dir.path(), "t", &batch(vec![("v", bytes)]));
    let query = json!({
        "sql": "SELECT v FROM t",
        "catalogs": [{"name": "t", "type": "Parquet", "uri": "t", "schema": [{"name": "v", "type": "Utf8"}]}],
    });
    let error = ask(&query, dir.path(), &[]).await.unwrap_err();
    assert!(error.kind == ErrorKind::Data && error.message.contains("which `schema` cannot turn into text"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clauses_are_read_or_refused() {
    check(
        &[],
        &[
            (
                "SELECT a, count(*) FROM t WHERE id < 5 GROUP BY a WITH ROLLUP",
                &["1 | 2", "2 | 1", "NULL | 1", "NULL | 4"],
            ),
            (
                "SELECT count(*), grouping(a) FROM t WHERE id < 5 GROUP BY a WITH CUBE",
                &["1 | 0", "1 | 0", "2 | 0", "4 | 1"],
            ),
        ],
    )
    .await;
    let dir = tempdir().unwrap();
    table(dir.path(), "t", &batch(vec![("n", Arc::new(Int64Array::from(vec![1, 2])))]));
    for (sql, words) in [
        (
            "SELECT abs(n) FILTER (WHERE n > 1) FROM t",
            "FILTER is only for aggregate and window functions; `abs` is neither",
        ),
        ("SELECT ABS(DISTINCT n) FROM t", "DISTINCT or ALL is only for"),
        ("SELECT max(n), (SELECT upper('a' ORDER BY 1)) FROM t", "ORDER BY is only for"),
        ("SELECT abs(n) IGNORE NULLS FROM t", "IGNORE NULLS or RESPECT NULLS is only for"),
        ("SELECT n FROM t TABLESAMPLE (50 PERCENT)", "`TABLESAMPLE (50 PERCENT)` is not supported; filter by"),
    ] {
        let error = ask(&statement(1, sql, &TABLES[..1]), dir.path(), &[]).await.expect_err(sql);
        assert!(error.kind == ErrorKind::Invalid && error.to_string().contains(words), "{sql}: {error}");
    }
    // Aggregates and window functions have these clauses.
    let sql = "SELECT count(DISTINCT n) FILTER (WHERE n > 1), array_agg(n ORDER BY n DESC) FROM t";
    let answer = ask(&statement(1, sql, &TABLES[..1]), dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["1 | [2, 1]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn comparisons_are_of_the_values_that_are_written() {
    let dir = tempdir().unwrap();
    let prices = Decimal128Array::from(vec![419, 154, 250, 11_605_483]).with_precision_and_scale(10, 2).unwrap();
    let large = Int64Array::from(vec![1, 1 << 40, 3, 2]);
    let times = TimestampMillisecondArray::from(vec![1_704_067_200_000; 4]);
    table(dir.path(), "t", &batch(vec![("p", Arc::new(prices)), ("b", Arc::new(large)), ("ms", Arc::new(times))]));
    for (condition, rows) in [
        ("p = 4.19", 1),
        ("p IN (4.19, 8.05, 2.5)", 2),
        ("p < 116054.83", 3),
        ("p <= 116054.83", 4),
        ("p BETWEEN 1.54 AND 4.19", 3),
        ("CASE p WHEN 4.19 THEN true ELSE false END", 1),
        ("p = $price", 1),
        ("p IS NOT DISTINCT FROM -4.19", 0),
        ("CAST(p AS DECIMAL(10, 0)) = 3", 1),
        ("CAST(p AS DECIMAL(10, 1)) = 1.5", 1),
        ("CAST(p AS INT) = 2", 1),
        ("TRY_CAST(b AS INT) <> 1", 2),
        ("TRY_CAST(b AS SMALLINT) IS DISTINCT FROM 1", 3),
        ("CAST(p AS INT) IN (2, 7)", 1),
        ("CAST(b AS BIGINT) > 2", 2),
        ("ms = '2024-01-01'", 4),
    ] {
        for (zones, way) in WAYS {
            let sql = format!("SELECT count(*) FROM t WHERE {condition}");
            let mut query = statement(zones, &sql, &TABLES[..1]);
            if condition.contains('$') {
                query["params"] = json!({"price": 4.19});
            }
            let answer = ask(&query, dir.path(), way).await.unwrap();
            assert_eq!(sorted_text(&answer.rows), [rows.to_string()], "{condition}, {zones} zones");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn intervals_are_compared_by_their_length() {
    // Half days; in the second, the first row has the same length in another unit.
    let half_days = "id * INTERVAL '12 hours'";
    let mixed = format!("CASE WHEN id = 1 THEN INTERVAL '1 day' ELSE {half_days} END");
    let days = "k * INTERVAL '1 day'";
    check(&[], &[
        ("SELECT INTERVAL '1 month' = INTERVAL '720 hours', INTERVAL '1 day' <> '24 hours', INTERVAL '36 hours' > INTERVAL '1 day'", &["true | false | true"]),
        ("SELECT TIMESTAMP '2024-01-03' - TIMESTAMP '2024-01-01' > INTERVAL '1 day', TIMESTAMP '2024-01-03' - TIMESTAMP '2024-01-01' = '2 days'", &["true | true"]),
        ("SELECT id FROM d WHERE ns - TIMESTAMP '1970-01-01' > INTERVAL '1 day'", &["2"]),
        (&format!("SELECT id FROM t WHERE {half_days} > INTERVAL '3 days'"), &["7", "8"]),
        (&format!("SELECT id FROM t WHERE '1 day' = {half_days} OR {half_days} IS NOT DISTINCT FROM INTERVAL '2 days'"), &["2", "4"]),
        (&format!("SELECT id FROM t WHERE {half_days} BETWEEN '1 day' AND INTERVAL '2 days'"), &["2", "3", "4"]),
        (&format!("SELECT id FROM t WHERE {half_days} IN (INTERVAL '1 day', '3 days', NULL)"), &["2", "6"]),
        ("SELECT id FROM t WHERE a * INTERVAL '12 hours' < INTERVAL '1 day'", &["1", "2"]),
        (&format!("SELECT id FROM t WHERE CASE {half_days} WHEN INTERVAL '1 day' THEN true ELSE false END"), &["2"]),
        ("SELECT nullif(INTERVAL '1 day', INTERVAL '24 hours')", &["NULL"]),
        (&format!("SELECT id FROM t WHERE {half_days} IN (SELECT {days} FROM u WHERE k IS NOT NULL)"), &["2", "4"]),
        (&format!("SELECT id FROM t WHERE {half_days} NOT IN (SELECT {days} FROM u WHERE k IS NOT NULL)"), &["1", "3", "5", "6", "7", "8"]),
        (&format!("SELECT id, v FROM t JOIN u ON {half_days} = {days}"), &["2 | one", "4 | two", "4 | zwei"]),
        ("SELECT n, m FROM (SELECT INTERVAL '1 day' AS i, 1 AS n) x JOIN (SELECT INTERVAL '24 hours' AS i, 2 AS m) y USING (i)", &["1 | 2"]),
        (&format!("SELECT id FROM t ORDER BY {mixed} DESC LIMIT 1"), &["8"]),
        (&format!("SELECT id, rank() OVER (ORDER BY {mixed}), count(*) OVER (PARTITION BY {mixed}) FROM t WHERE id < 4"), &["1 | 1 | 2", "2 | 1 | 2", "3 | 3 | 1"]),
        (&format!("SELECT i, count(*), sum(id) FROM (SELECT id, {mixed} AS i FROM t WHERE id < 4) x GROUP BY i"), &["24 hours | 2 | 3", "36 hours | 1 | 3"]),
        (&format!("SELECT count(DISTINCT {mixed}), count(*) FROM t WHERE id < 4"), &["2 | 3"]),
        (&format!("SELECT count(*) FROM (SELECT DISTINCT {mixed} AS i FROM t WHERE id < 4) x"), &["2"]),
        ("SELECT INTERVAL '1 day' AS i UNION SELECT INTERVAL '24 hours'", &["24 hours"]),
        ("SELECT INTERVAL '1 day' AS i EXCEPT SELECT INTERVAL '24 hours'", &[]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_intervals_have_days_and_fractions() {
    let difference = "(SELECT TIMESTAMP '2024-01-03 05:06:01.5' - TIMESTAMP '2024-01-01' AS x) y";
    check(&[], &[
        (&format!("SELECT extract(epoch FROM x), extract(day FROM x), extract(hour FROM x), extract(minute FROM x) FROM {difference}"), &["1.911615000e5 | 2 | 5 | 6"]),
        (&format!("SELECT extract(second FROM x), extract(millisecond FROM x), extract(microsecond FROM x), extract(nanosecond FROM x) FROM {difference}"), &["1.500000000e0 | 1500 | 1500000 | 1500000000"]),
        ("SELECT extract(millisecond FROM INTERVAL '7.5 seconds'), extract(hour FROM INTERVAL '53 hours'), date_part('quarter', INTERVAL '7 months')", &["7500 | 53 | 3"]),
        ("SELECT date_part('epoch', INTERVAL '1 year 1 month')", &["3.414960000e7"]),
        ("SELECT id, extract(hour FROM ns - TIMESTAMP '1970-01-01'), extract(microseconds FROM ns - TIMESTAMP '1970-01-01') FROM d WHERE id = 2", &["2 | 12 | 0"]),
        ("SELECT extract(hour FROM x) FROM (SELECT CAST(NULL AS INTERVAL) AS x) y", &["NULL"]),
    ])
    .await;
    let dir = tables();
    let sql = "SELECT extract(dow FROM ns - TIMESTAMP '1970-01-01') FROM d";
    let error = ask(&statement(1, sql, &TABLES), dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("`dow` is not a part of an interval; use year"), "{error}");
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

#[tokio::test(flavor = "multi_thread")]
async fn windows_have_the_clauses_of_the_window_that_they_are_based_on() {
    check(&[], &[
        ("WITH x(k) AS (VALUES (1), (2), (3)) SELECT k, sum(k) OVER (w ORDER BY k) FROM x WINDOW w AS (PARTITION BY k)", &["1 | 1", "2 | 2", "3 | 3"]),
        ("SELECT id, sum(b) OVER (w ORDER BY id) FROM t WINDOW w AS (PARTITION BY a)", &["1 | 0", "2 | 2", "3 | 0", "4 | 4", "5 | 5", "6 | 5", "7 | 12", "8 | 12"]),
        ("SELECT id, count(*) OVER (w), sum(b) OVER (v ROWS 1 PRECEDING), min(id) OVER v FROM t WHERE a = 3 WINDOW w AS (PARTITION BY a), v AS (w ORDER BY id)", &["5 | 3 | 5 | 5", "6 | 3 | 5 | 5", "7 | 3 | 7 | 5"]),
        ("SELECT id FROM t WINDOW w AS (PARTITION BY a ORDER BY id) QUALIFY row_number() OVER w = 2", &["2", "6", "8"]),
        ("SELECT id FROM t WINDOW w AS (PARTITION BY a) QUALIFY row_number() OVER (w ORDER BY id) = 2", &["2", "6", "8"]),
        ("SELECT id FROM t WINDOW w AS (PARTITION BY a ORDER BY id DESC) ORDER BY row_number() OVER w, id LIMIT 3", &["2", "3", "7"]),
        ("SELECT id, row_number() OVER w FROM t WHERE id < 3 WINDOW w AS (ORDER BY id) UNION ALL SELECT id, row_number() OVER w FROM t WHERE id < 3 WINDOW w AS (ORDER BY id DESC)", &["1 | 1", "1 | 2", "2 | 1", "2 | 2"]),
    ])
    .await;
    let dir = tables();
    for (sql, words) in [
        ("SELECT sum(b) OVER (v) FROM t", "window `v` does not exist in this SELECT"),
        ("SELECT sum(b) OVER w FROM t WINDOW w AS (v), v AS (w)", "window `w` is based on window `v`, which"),
        (
            "SELECT sum(b) OVER w FROM t WINDOW w AS (PARTITION BY sum(b) OVER w)",
            "window `w` contains a window function",
        ),
    ] {
        let error = ask(&statement(1, sql, &TABLES[..1]), dir.path(), &[]).await.expect_err(sql);
        assert!(error.kind == ErrorKind::Invalid && error.to_string().contains(words), "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_distinct_from_binds_closer_than_and_or_and_not() {
    check(
        &[],
        &[
            ("SELECT true IS DISTINCT FROM false AND false", &["false"]),
            ("SELECT count(*) FROM t WHERE a IS DISTINCT FROM 3 AND b > 0", &["3"]),
            ("SELECT id FROM t WHERE a IS NOT DISTINCT FROM 3 AND b > 0 OR id = 1", &["1", "5", "7"]),
            ("SELECT id FROM t WHERE NOT a IS DISTINCT FROM 3 AND b = 0", &["6"]),
            ("SELECT id FROM t WHERE id < 6 AND a IS NOT DISTINCT FROM NULL OR id = 7", &["4", "7"]),
            ("SELECT t.id, u.v FROM t JOIN u ON t.a IS NOT DISTINCT FROM u.k AND t.id > 7", &["8 | none"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_column_of_a_name_gets_another() {
    check(
        &[],
        &[
            ("SELECT b, b::smallint FROM t WHERE id = 4", &["4 | 4"]),
            ("SELECT b, t.b FROM t WHERE id = 4", &["4 | 4"]),
            ("SELECT u.k, k FROM u JOIN (SELECT 1 AS k) x USING (k)", &["1 | 1"]),
            ("SELECT 1 AS b, t.b FROM t WHERE id = 4", &["1 | 4"]),
            ("SELECT t.b, 1 AS b FROM t WHERE id = 4", &["4 | 1"]),
            ("SELECT *, a::int FROM (SELECT id, a FROM t WHERE id = 3)", &["3 | 2 | 2"]),
            ("SELECT sum(x.b) FROM (SELECT id, b, t.b FROM t) x", &["26"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_is_null_if_all_its_parts_are() {
    check(&[], &[
        ("SELECT count(*) FROM t WHERE (a, s) IS NOT NULL", &["5"]),
        ("SELECT count(*) FROM t WHERE (a, s) IS NULL", &["0"]),
        ("SELECT count(*) FROM t WHERE NOT (a, s) IS NOT NULL", &["3"]),
        ("SELECT (NULL, NULL) IS NULL, (1, NULL) IS NULL, (1, NULL) IS NOT NULL, ROW(NULL, 1) IS NOT NULL, NOT (1, NULL) IS NULL", &["true | false | false | false | true"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_beyond_the_largest_bigint_reach_the_edge_of_the_table() {
    check(&[], &[
        ("SELECT id, count(*) OVER (ORDER BY id ROWS BETWEEN 18446744073709551615 PRECEDING AND 1 PRECEDING) FROM t WHERE id < 4", &["1 | 0", "2 | 1", "3 | 2"]),
        ("SELECT id, count(*) OVER (ORDER BY id ROWS BETWEEN 1 FOLLOWING AND 18446744073709551615 FOLLOWING) FROM t WHERE id < 4", &["1 | 2", "2 | 1", "3 | 0"]),
        ("SELECT id, count(*) OVER (ORDER BY id GROUPS BETWEEN 99999999999999999999 FOLLOWING AND UNBOUNDED FOLLOWING) FROM t WHERE id < 4", &["1 | 0", "2 | 0", "3 | 0"]),
    ])
    .await;
}
