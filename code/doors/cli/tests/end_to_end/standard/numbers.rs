//! Sums, overflow, decimals and literals.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal32Array, Decimal64Array, Decimal128Array, Float64Array, Int64Array, TimestampMillisecondArray,
};
use buzz_protocol::ErrorKind;
use buzz_testkit::sorted_text;
use serde_json::json;
use tempfile::tempdir;

use super::{TABLES, WAYS, batch, check, check_on, table, tables};
use crate::common::{ask, statement};

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
        ("SELECT round(1e300, 10) = 1e300, round(1.256, 2) = 1.26, round(-2.5) = -3, round(CAST(2.345 AS DECIMAL(5, 3)), 1) FROM t LIMIT 1", &["true | true | true | 2.3"]),
        ("SELECT id FROM t WHERE round(id * 1e300, 10) > 7e300", &["8"]),
        ("SELECT trunc(1.5, 400) = 1.5, trunc(-1e300, 10) = -1e300, trunc(1.5, -400) = 0, trunc(1.5, 4294967296) = 1.5, trunc(1.28, 1) = 1.2 FROM t LIMIT 1", &["true | true | true | true | true"]),
        ("SELECT id FROM t WHERE trunc(id + 0.5, id * 100) = id + 0.5 AND trunc(id * 1e300, id) > 7.5e300", &["8"]),
        ("SELECT id FROM t WHERE round(id + 0.0, -id * 100) = 0 AND id > 3 AND trunc(id + 0.0, -id * 100) = 0", &["4", "5", "6", "7", "8"]),
        ("SELECT x, count(*), min(id) FROM (SELECT id, CASE WHEN id < 4 THEN (b - b) / 0.0 WHEN id < 7 THEN CAST('NaN' AS DOUBLE) WHEN id < 8 THEN -0.0 ELSE 0.0 END AS x FROM t) y GROUP BY x", &["NaN | 6 | 1", "0.000000000e0 | 2 | 7"]),
        ("SELECT x, id > 4 AS late, count(*) FROM (SELECT id, CASE WHEN id < 4 THEN (b - b) / 0.0 WHEN id < 7 THEN CAST('NaN' AS DOUBLE) WHEN id < 8 THEN -0.0 ELSE 0.0 END AS x FROM t) y GROUP BY x, id > 4", &["NaN | false | 4", "NaN | true | 2", "0.000000000e0 | true | 2"]),
        ("SELECT count(*) FROM (SELECT DISTINCT x FROM (SELECT id, CASE WHEN id < 4 THEN (b - b) / 0.0 WHEN id < 7 THEN CAST('NaN' AS DOUBLE) WHEN id < 8 THEN -0.0 ELSE 0.0 END AS x FROM t) y) z", &["2"]),
        ("SELECT x, count(*) FROM (SELECT id, CASE WHEN id < 4 THEN (b - b) / 0.0 WHEN id < 7 THEN CAST('NaN' AS DOUBLE) WHEN id < 8 THEN -0.0 ELSE 0.0 END AS x FROM t) y GROUP BY CUBE (x)", &["NaN | 6", "0.000000000e0 | 2", "NULL | 8"]),
        ("SELECT count(DISTINCT x), count(*) FROM (SELECT id, CASE WHEN id < 4 THEN (b - b) / 0.0 WHEN id < 7 THEN CAST('NaN' AS DOUBLE) WHEN id < 8 THEN -0.0 ELSE 0.0 END AS x FROM t) y", &["2 | 8"]),
        ("SELECT x FROM (SELECT id, CASE WHEN id < 4 THEN (b - b) / 0.0 WHEN id < 7 THEN CAST('NaN' AS DOUBLE) WHEN id < 8 THEN -0.0 ELSE 0.0 END AS x FROM t) y UNION SELECT CAST('NaN' AS DOUBLE)", &["NaN", "0.000000000e0"]),
("SELECT avg(CAST(id AS DECIMAL(38, 0))) OVER () FROM t LIMIT 1", &["4.5000"]),
("SELECT id, avg(CAST(id AS DECIMAL(30, 2))) OVER (ORDER BY id), avg(CAST(id AS DECIMAL(30, 2))) OVER () FROM t WHERE id < 3", &["1 | 1.000000 | 1.500000", "2 | 1.500000 | 1.500000"]),
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
        ("b + 9007199254740990 IN (9007199254740993, 0.5)", 1),
        ("b + 9007199254740990 NOT IN (9007199254740993, 0.5)", 3),
        ("b + 9007199254740990 BETWEEN 0.5 AND 9007199254740992", 2),
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
async fn zeros_of_both_signs_are_equal() {
    let dir = tempdir().unwrap();
    let doubles = Float64Array::from(vec![Some(-0.0), Some(0.0), Some(1.5), None, Some(-f64::NAN), Some(f64::NAN)]);
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5, 6]));
    table(dir.path(), "t", &batch(vec![("id", ids), ("f", Arc::new(doubles))]));
    let cases: [(&str, &[&str]); 7] = [
        ("SELECT id FROM t WHERE nullif(f, 0.0) IS NULL", &["1", "2", "4"]),
        ("SELECT id FROM t WHERE nullif(f, 0) IS NULL", &["1", "2", "4"]),
        ("SELECT id FROM t WHERE CASE f WHEN 0.0 THEN true WHEN 1.5 THEN false END", &["1", "2"]),
        ("SELECT id FROM t WHERE f IN (0.0, 1.5, 2.5, 3.5, 4.5)", &["1", "2", "3"]),
        ("SELECT id FROM t WHERE f NOT IN (0, 2.5, 3.5, 4.5)", &["3", "5", "6"]),
        ("SELECT id, rank() OVER (ORDER BY f) FROM t", &["1 | 1", "2 | 1", "3 | 3", "4 | 6", "5 | 4", "6 | 4"]),
        ("SELECT id, count(*) OVER (PARTITION BY f) FROM t", &["1 | 2", "2 | 2", "3 | 1", "4 | 1", "5 | 2", "6 | 2"]),
    ];
    check_on(&dir, &TABLES[..1], &[], &cases).await;
}
