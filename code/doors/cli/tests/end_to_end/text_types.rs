//! Tests the types of values in CSV and JSON files: each is inferred so that no value changes, and what does not fit a type is
//! an error with its place.

use serde_json::json;
use tempfile::tempdir;

use crate::text::{error, rows, write};

#[tokio::test]
async fn csv_values_keep_signs_blanks_zones_and_digits() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(
        dir,
        "a.csv",
        "tel,odd, n,big,x,b\n+4917012345,--5, 1,9007199254740993 ,1.5, true\n+4917099999,+-10, 2 ,9007199254740992 ,nan,false \n\
         ,x,  ,1,-inf,\n",
    );
    let sql = "SELECT tel, odd, n, big, x, b FROM t ORDER BY big DESC";
    assert_eq!(
        rows(dir, sql, json!({"uri": "a.csv"})).await,
        [
            "+4917012345 | --5 | 1 | 9007199254740993 | 1.500000000e0 | true",
            "+4917099999 | +-10 | 2 | 9007199254740992 | NaN | false",
            "NULL | x | NULL | 1 | -inf | NULL"
        ]
    );
    let sql = "SELECT sum(n), arrow_typeof(n), arrow_typeof(x), arrow_typeof(tel) FROM t GROUP BY 2, 3, 4";
    assert_eq!(rows(dir, sql, json!({"uri": "a.csv"})).await, ["3 | Int64 | Float64 | Utf8View"]);

    write(dir, "t.csv", "t,u\n2024-01-01 10:00:00 Europe/Berlin,2024-01-01 10:00:00.123456789\n");
    let sql = "SELECT t::varchar, u::varchar FROM t";
    assert_eq!(rows(dir, sql, json!({"uri": "t.csv"})).await, ["2024-01-01T09:00:00Z | 2024-01-01T10:00:00.123456789"]);
    for (kind, value) in
        [("Timestamp(µs)", "2024-01-01 10:00:00.123456789"), ("Date32", "2024-01-01 10:00:00.123456789")]
    {
        let entry = json!({"uri": "t.csv", "schema": [{"name": "u", "type": kind}]});
        let error = error(dir, "SELECT u FROM t", entry).await;
        assert!(error.contains(&format!("line 2, column `u`: `{value}` is not ")), "{error}");
    }
}

#[tokio::test]
async fn csv_times_of_every_year_and_without_seconds_are_times() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let text = "t,u,v,code\n0001-01-01 00:00:00,2024-01-31 10:05,2024-01-31T10:05+01:00,001.1\n\
                9999-12-31 23:59:59.5,2024-01-31 10:05:30,2024-01-31 10:05 UTC,01.1\n";
    write(dir, "t.csv", text);
    let sql = "SELECT arrow_typeof(t), arrow_typeof(u), arrow_typeof(v), arrow_typeof(code) FROM t LIMIT 1";
    assert_eq!(
        rows(dir, sql, json!({"uri": "t.csv"})).await,
        ["Timestamp(µs) | Timestamp(µs) | Timestamp(µs, \"UTC\") | Utf8View"]
    );
    let sql = "SELECT t::varchar, u::varchar, v::varchar, code FROM t";
    assert_eq!(
        rows(dir, sql, json!({"uri": "t.csv"})).await,
        [
            "0001-01-01T00:00:00 | 2024-01-31T10:05:00 | 2024-01-31T09:05:00Z | 001.1",
            "9999-12-31T23:59:59.500 | 2024-01-31T10:05:30 | 2024-01-31T10:05:00Z | 01.1"
        ]
    );
    // Nanoseconds end in 2262.
    write(dir, "n.csv", "t\n2024-01-31 10:05:00.123456789\n9999-12-31\n");
    let sql = "SELECT t, arrow_typeof(t) FROM t ORDER BY 1";
    assert_eq!(
        rows(dir, sql, json!({"uri": "n.csv"})).await,
        ["2024-01-31 10:05:00.123456789 | Utf8View", "9999-12-31 | Utf8View"]
    );
    write(dir, "j.json", "{\"t\":\"2024-01-31T10:05\"}\n{\"t\":\"9999-12-31 00:00\"}\n");
    let schema = json!([{"name": "t", "type": "Timestamp(ms)"}]);
    assert_eq!(
        rows(dir, "SELECT t::varchar FROM t", json!({"uri": "j.json", "schema": schema})).await,
        ["2024-01-31T10:05:00", "9999-12-31T00:00:00"]
    );
}

#[tokio::test]
async fn blanks_of_unicode_around_csv_values_do_not_count() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(
        dir,
        "a.csv",
        "n,d,b,s\n\u{a0}5,2024-01-31\u{a0},true\u{202f},\u{a0}x\n6\u{b},2024-02-01,false,y\n\u{3000},,,z\n",
    );
    let sql = "SELECT sum(n), count(n), max(d)::varchar, bool_or(b), min(octet_length(s)), max(octet_length(s)) FROM t";
    assert_eq!(rows(dir, sql, json!({"uri": "a.csv"})).await, ["11 | 2 | 2024-02-01 | true | 1 | 3"]);
}

#[tokio::test]
async fn number_that_a_small_float_cannot_hold_is_an_error() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(dir, "a.csv", "x\n0.5\n1e-60\n");
    write(dir, "a.json", "{\"x\":0.5}\n{\"x\":1e-60}\n");
    for uri in ["a.csv", "a.json"] {
        let entry = |kind: &str| json!({"uri": uri, "schema": [{"name": "x", "type": kind}]});
        let text = error(dir, "SELECT x FROM t", entry("Float32")).await;
        assert!(text.contains("column `x`: `1e-60` is not Float32"), "{text}");
        assert_eq!(rows(dir, "SELECT count(x) FROM t WHERE x > 0", entry("Float64")).await, ["2"], "{uri}");
    }
}

#[tokio::test]
async fn number_of_json_that_is_too_large_is_an_error() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let entry = |name: &str| json!({"uri": name, "schema": [{"name": "a", "type": "Float64"}]});
    write(dir, "large.json", "{\"a\": 1.5}\n{\"a\": 1e400}\n");
    let text = error(dir, "SELECT max(a) FROM t", entry("large.json")).await;
    assert!(text.contains("column `a`: `1e400` is not Float64"), "{text}");
    write(dir, "named.json", "{\"a\": 1.5}\n{\"a\": \"Infinity\"}\n");
    assert_eq!(rows(dir, "SELECT count(a), max(a) FROM t", entry("named.json")).await, ["2 | inf"]);
}

#[tokio::test]
async fn value_that_the_sample_does_not_show_is_read_or_named() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let many = (0..600_000).map(|n| format!("{n},{n}.5\n")).collect::<String>();
    write(dir, "fine.csv", format!("a,b\n{many} 7 , 8\n3.0,9\n"));
    let entry = || json!({"uri": "fine.csv"});
    assert_eq!(rows(dir, "SELECT count(*), arrow_typeof(min(a)) FROM t", entry()).await, ["600002 | Int64"]);
    write(dir, "odd.csv", format!("a,b\n{many}1,oops\n"));
    let text = error(dir, "SELECT sum(b) FROM t", json!({"uri": "odd.csv"})).await;
    assert!(text.contains("line 600002, column `b`: `oops` is not Float64; set `schema`"), "{text}");
}
