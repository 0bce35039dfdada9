//! Clauses that are accepted, or refused with a reason.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array};
use buzz_protocol::ErrorKind;
use buzz_testkit::sorted_text;
use serde_json::json;
use tempfile::tempdir;

use super::{TABLES, batch, check, table, tables};
use crate::common::{ask, statement};

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
        ("FROM u ORDER BY v LIMIT 1", &["NULL | none"]),
        ("WITH q AS (FROM u) FROM q", &["1 | one", "2 | two", "2 | zwei", "NULL | none"]),
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
async fn second_column_of_a_name_gets_another() {
    check(
        &[],
        &[
            ("SELECT b, b::smallint FROM t WHERE id = 4", &["4 | 4"]),
            ("SELECT b, t.b FROM t WHERE id = 4", &["4 | 4"]),
            ("SELECT *, v FROM u WHERE k = 1", &["1 | one | one"]),
            ("SELECT k, u.*, u.v FROM u WHERE k = 1 ORDER BY k", &["1 | 1 | one | one"]),
            ("SELECT sum(\"b (1)\") FROM (SELECT *, b FROM t) x", &["26"]),
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
async fn inner_names_of_common_table_expressions_hide_outer_ones() {
    let outer = "WITH x AS (SELECT id AS a FROM t WHERE id < 3)";
    check(&[], &[
        (&format!("{outer} SELECT * FROM (WITH x AS (SELECT 7 AS a) SELECT x.a FROM x) y"), &["7"]),
        (&format!("{outer} SELECT y.a, x.a AS b FROM (WITH x AS (SELECT 7 AS a) SELECT * FROM x) y, x"), &["7 | 1", "7 | 2"]),
        (&format!("{outer} SELECT * FROM (WITH x AS (SELECT a + 10 AS a FROM x), z AS (SELECT a + 100 AS a FROM x) SELECT a FROM z) y"), &["111", "112"]),
        (&format!("{outer} SELECT a FROM x WHERE a IN (WITH x AS (SELECT 2 AS a) SELECT a FROM x)"), &["2"]),
        (&format!("{outer}, w AS (WITH x AS (WITH x AS (SELECT 5 AS a) SELECT a + 1 AS a FROM x) SELECT a * 2 AS a FROM x) SELECT w.a, count(*) FROM w, x GROUP BY 1"), &["12 | 2"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_arguments_of_table_functions() {
    let dir = tables();
    let mut query = statement(1, "SELECT value AS n FROM generate_series(1, $last) WHERE value > $first", &TABLES);
    query["params"] = json!({"last": 4, "first": 2});
    let answer = ask(&query, dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_clauses_are_named_without_the_parsed_statement() {
    let dir = tables();
    for (sql, words) in [
        ("SELECT t.id FROM t, LATERAL (SELECT v FROM u WHERE u.k = t.id LIMIT 1) l", "write it as a join"),
        ("SELECT s FROM t ORDER BY s COLLATE \"de_DE\"", "texts are compared byte by byte"),
        ("SELECT id FROM t WHERE row_number() OVER (ORDER BY id) = 1", "write QUALIFY"),
        ("SELECT rank() FROM t", "function `rank` needs a window"),
        ("SELECT to_char(day, 'YYYY-MM') FROM d", "the format `YYYY-MM` has no `%`"),
        ("SELECT date_diff('day', day, day) FROM d", "function `date_diff` does not exist; write `day2 - day1`"),
        ("SELECT id FROM other.t", "tables have no schema but `public`: write FROM t"),
        ("SELECT TOP 2 id FROM t", "write `LIMIT n`"),
        ("SELECT a, count(*) FROM t", "column `t.a` stands neither in GROUP BY"),
        ("SELECT id FROM t WHERE id > 1_000", "`1_000` is not a number; write 1000"),
    ] {
        let error = ask(&statement(1, sql, &TABLES), dir.path(), &[]).await.expect_err(sql);
        let message = error.to_string();
        assert!(error.kind == ErrorKind::Invalid && message.contains(words), "{sql}: {message}");
        assert!(!message.contains("Ident {") && !message.contains("Field {"), "{sql}: {message}");
    }
    check(
        &[],
        &[
            ("SELECT t.id FROM t SEMI JOIN u ON t.id = u.k", &["1", "2"]),
            ("SELECT t.id FROM t ANTI JOIN u ON t.id = u.k WHERE t.id < 5", &["3", "4"]),
            ("SELECT id FROM t WHERE s COLLATE \"C\" = 'help'", &["2"]),
        ],
    )
    .await;
}
