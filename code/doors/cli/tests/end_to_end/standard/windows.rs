//! Windows and their frames.

use buzz_protocol::ErrorKind;

use super::{TABLES, check, tables};
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
