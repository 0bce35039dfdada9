//! Statements whose meaning in Buzz is not that of DataFusion. The values are those of `buzz sql` for the same rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use buzz_protocol::Result;

use crate::harness::{Cut, input_of, run, texts};

/// Returns rows of `(t, k, n, m, s)`, one for each second from 1970-01-01T00:00:01.
fn rows(values: &[(i64, i64, i64, &str)]) -> RecordBatch {
    let times = (1..).take(values.len()).map(|second: i64| second * 1_000_000_000);
    let integers = |value: fn(&(i64, i64, i64, &str)) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values.iter().map(value)))
    };
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(times));
    let strings: ArrayRef = Arc::new(StringArray::from_iter_values(values.iter().map(|value| value.3)));
    let columns = [
        ("t", times),
        ("k", integers(|value| value.0)),
        ("n", integers(|value| value.1)),
        ("m", integers(|value| value.2)),
        ("s", strings),
    ];
    RecordBatch::try_from_iter(columns).expect("the columns have equal lengths")
}

/// Runs `script` over `l` and `r` in epochs of one row each, whose state goes through files.
async fn rows_of(script: &str, l: &RecordBatch, r: &RecordBatch) -> Result<Vec<String>> {
    let source = |rows: &RecordBatch| (rows.clone(), input_of(rows, Some("t"), 0));
    let sources = BTreeMap::from([("l".to_string(), source(l)), ("r".to_string(), source(r))]);
    let cuts = [Cut { events: 1, reload: Some(2), snapshot: true }; 4];
    Ok(texts(&run(script, &sources, &cuts).await?))
}

fn left() -> RecordBatch {
    rows(&[(1, 6, 0, "a1"), (1, 6, 2, "b1"), (2, 1, 3, "c_1")])
}

fn right() -> RecordBatch {
    rows(&[(1, 4, 1, "x"), (3, 5, 1, "y")])
}

async fn check(script: &str, expected: &[&str]) {
    let rows = rows_of(script, &left(), &right()).await.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert_eq!(rows, expected, "{script}");
}

async fn check_fails(script: &str, expected: &str) {
    match rows_of(script, &left(), &right()).await {
        Ok(rows) => panic!("{script}: {rows:?} instead of an error with `{expected}`"),
        Err(error) => assert!(error.to_string().contains(expected), "{script}: {error}"),
    }
}

#[tokio::test]
async fn expressions_are_those_of_batch() {
    check(
        "SELECT s SIMILAR TO 'a|b%', s LIKE '%!_%' ESCAPE '!', 0.1 + 0.2 = 0.3, \
         12345678901234567.89 = 12345678901234567.88, t < '9999-12-31', t + n * INTERVAL '1 day' FROM l",
        &[
            "false | false | true | false | true | 1970-01-07T00:00:01",
            "false | true | true | false | true | 1970-01-02T00:00:03",
            "true | false | true | false | true | 1970-01-07T00:00:02",
        ],
    )
    .await;
    check("SELECT k, k FROM l WHERE n = 1", &["2 | 2"]).await;
    let first = "(SELECT column1 AS k FROM (VALUES (2), (1)) AS v ORDER BY k FETCH FIRST 1 ROW ONLY)";
    check(&format!("SELECT l.n FROM l JOIN {first} AS f ON l.k = f.k"), &["6", "6"]).await;
}

#[tokio::test]
async fn condition_guards_one_that_can_fail() {
    check("SELECT n, m FROM l WHERE m <> 0 AND n / m >= 1", &["6 | 2"]).await;
    check("SELECT n, m FROM l WHERE n / m >= 1 AND m <> 0", &["6 | 2"]).await;
    // The condition is below a stage.
    let total = "SELECT sum(n) FROM l WHERE n / m >= 1 AND m <> 0 GROUP BY tumble(interval '1 day')";
    check(total, &["6"]).await;
    check_fails("SELECT n FROM l WHERE n / m >= 1", "division by zero").await;
}

#[tokio::test]
async fn overflow_is_an_error_or_wraps_as_the_script_sets() {
    let max = "exceeds the type Int64";
    check_fails("SELECT n + 9223372036854775807 FROM l", max).await;
    let total = "SELECT sum(n + 9223372036854775801) FROM l GROUP BY tumble(interval '1 day')";
    check_fails(total, max).await;
    let wraps = "SET overflow = 'wrap'; SELECT n + 9223372036854775807 FROM l WHERE k = 2";
    check(wraps, &["-9223372036854775808"]).await;
    check(&format!("SET overflow = 'wrap'; {total}"), &["9223372036854775800"]).await;
    check_fails(&format!("SET overflow = 'ignore'; {total}"), "error or wrap").await;
}

#[tokio::test]
async fn sum_is_kept_in_more_bits_than_its_result() {
    let most = i64::MAX;
    let rows = rows(&[(1, most, 0, ""), (1, most, 0, ""), (1, -most, 0, "")]);
    for window in ["tumble(interval '1 day')", "session(interval '1 day')"] {
        let script = format!("SELECT sum(n) FROM l GROUP BY {window}");
        let total = rows_of(&script, &rows, &rows).await.unwrap_or_else(|error| panic!("{script}: {error}"));
        assert_eq!(total, [most.to_string()], "{script}");
    }
}

#[tokio::test]
async fn computed_columns_and_watermarks_have_the_meaning_of_statements() {
    let table = |column: &str| {
        format!(
            "CREATE TABLE l (t TIMESTAMP, k BIGINT, n BIGINT, m BIGINT, s VARCHAR, {column}, \
             WATERMARK FOR t AS t - m * INTERVAL '1 second') WITH (connector = 'single_file');"
        )
    };
    let similar = table("found BOOLEAN AS s SIMILAR TO 'a|b%'");
    check(&format!("{similar} SELECT s, found FROM l"), &["a1 | false", "b1 | true", "c_1 | false"]).await;
    let big = table("big BIGINT GENERATED ALWAYS AS (n + 9223372036854775807) STORED");
    check_fails(&format!("{big} SELECT big FROM l"), "exceeds the type Int64").await;
}

/// Returns a statement over the joined rows of a day.
fn joined(join: &str) -> String {
    format!(
        "SELECT k, x.k AS xk, y.k AS yk, a, b FROM \
         (SELECT k, n AS a, window_end AS e FROM TUMBLE(l, t, INTERVAL '1 day')) x {join} \
         (SELECT k, n AS b, window_end AS e FROM TUMBLE(r, t, INTERVAL '1 day')) y USING (k, e)"
    )
}

#[tokio::test]
async fn merged_columns_have_the_value_of_the_side_with_a_row() {
    let full = ["1 | 1 | 1 | 6 | 4", "1 | 1 | 1 | 6 | 4", "2 | 2 | NULL | 1 | NULL", "3 | NULL | 3 | NULL | 5"];
    let right = ["1 | 1 | 1 | 6 | 4", "1 | 1 | 1 | 6 | 4", "3 | NULL | 3 | NULL | 5"];
    for (join, expected) in [("FULL JOIN", full.as_slice()), ("RIGHT JOIN", right.as_slice())] {
        let statement = joined(join);
        check(&statement, expected).await;
        // The plan of a view is a part of the plan of the statement.
        check(&format!("CREATE VIEW v AS {statement}; SELECT * FROM v"), expected).await;
    }
    // The merged window is a window.
    let by_window = "SELECT count(*) FROM (SELECT e FROM \
                     (SELECT count(*) AS a, window_end AS e FROM TUMBLE(l, t, INTERVAL '2 seconds') GROUP BY window_end) x FULL JOIN \
                     (SELECT count(*) AS b, window_end AS e FROM TUMBLE(r, t, INTERVAL '2 seconds') GROUP BY window_end) y USING (e)) \
                     GROUP BY e";
    check(by_window, &["1", "1"]).await;
}

#[tokio::test]
async fn set_operations_count_equal_rows() {
    let l = rows(&[(1, 0, 0, ""), (1, 0, 0, ""), (1, 0, 0, ""), (2, 0, 0, ""), (2, 0, 0, ""), (2, 0, 0, "")]);
    let r = rows(&[(1, 0, 0, ""), (2, 0, 0, ""), (2, 0, 0, "")]);
    let side = |name: &str| format!("SELECT k, window_end FROM TUMBLE({name}, t, INTERVAL '1 day')");
    for (operation, expected) in [("EXCEPT ALL", ["1", "1", "2"]), ("INTERSECT ALL", ["1", "2", "2"])] {
        let statement = format!("SELECT k FROM ({} {operation} {})", side("l"), side("r"));
        for script in [statement.clone(), format!("CREATE VIEW v AS {statement}; SELECT k FROM v")] {
            let rows = rows_of(&script, &l, &r).await.unwrap_or_else(|error| panic!("{script}: {error}"));
            assert_eq!(rows, expected, "{script}");
        }
    }
}
