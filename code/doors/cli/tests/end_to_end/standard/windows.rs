//! Windows and their frames.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use buzz_protocol::ErrorKind;
use tempfile::tempdir;

use super::{TABLES, batch, check, check_on, table, tables};
use crate::common::{ask, statement};

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
async fn frames_beyond_the_largest_bigint_reach_the_edge_of_the_table() {
    check(&[], &[
        ("SELECT id, count(*) OVER (ORDER BY id ROWS BETWEEN 18446744073709551615 PRECEDING AND 1 PRECEDING) FROM t WHERE id < 4", &["1 | 0", "2 | 1", "3 | 2"]),
        ("SELECT id, count(*) OVER (ORDER BY id ROWS BETWEEN 1 FOLLOWING AND 18446744073709551615 FOLLOWING) FROM t WHERE id < 4", &["1 | 2", "2 | 1", "3 | 0"]),
        ("SELECT id, count(*) OVER (ORDER BY id GROUPS BETWEEN 99999999999999999999 FOLLOWING AND UNBOUNDED FOLLOWING) FROM t WHERE id < 4", &["1 | 0", "2 | 0", "3 | 0"]),
        ("SELECT id FROM t ORDER BY id LIMIT 9223372036854775807 OFFSET 6", &["7", "8"]),
        ("SELECT id FROM t ORDER BY id LIMIT 18446744073709551615 OFFSET 7", &["8"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_before_a_null_key_is_all_of_its_peers() {
    let dir = tempdir().unwrap();
    let keys: Vec<Option<i64>> = [1, 2].map(Some).into_iter().chain([None; 8]).chain([3, 4].map(Some)).collect();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=12));
    table(dir.path(), "t", &batch(vec![("id", ids), ("k", Arc::new(Int64Array::from(keys)))]));
    let query = |order: &str| {
        format!("SELECT k, n, count(*) FROM (SELECT k, count(*) OVER (ORDER BY k {order}) AS n FROM t) x GROUP BY k, n")
    };
    let before = query("RANGE BETWEEN 2 PRECEDING AND 1 PRECEDING");
    let first = query("NULLS FIRST RANGE BETWEEN 2 PRECEDING AND 1 PRECEDING");
    let unbounded = query("RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING");
    let cases: [(&str, &[&str]); 3] = [
        (&before, &["1 | 0 | 1", "2 | 1 | 1", "3 | 2 | 1", "4 | 2 | 1", "NULL | 8 | 8"]),
        (&first, &["1 | 0 | 1", "2 | 1 | 1", "3 | 2 | 1", "4 | 2 | 1", "NULL | 8 | 8"]),
        (&unbounded, &["1 | 0 | 1", "2 | 1 | 1", "3 | 2 | 1", "4 | 3 | 1", "NULL | 12 | 8"]),
    ];
    check_on(&dir, &TABLES[..1], &["batch_size=2"], &cases).await;
}
