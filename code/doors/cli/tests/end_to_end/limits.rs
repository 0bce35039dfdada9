//! Tests the bounds of a query. Each has a name in its error.

use std::fmt::Write;

use buzz_engine::Engine;
use buzz_fuse::Fuse;
use buzz_protocol::ErrorKind;
use buzz_testkit::sorted_text;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{ask, host, question, statement};
use crate::tables::parquet_folder;

#[track_caller]
fn assert_limit<T: std::fmt::Debug>(answer: buzz_protocol::Result<T>, named: &str) {
    let error = answer.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains(named), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_files_and_results_are_bounded_by_options() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 100);
    let all = statement(1, "SELECT * FROM rides", &[("rides", "Parquet", "rides")]);
    assert_limit(ask(&all, dir.path(), &["tasks=4", "max_tasks=3"]).await, "the query has 4 tasks, more than 3;");
    assert_limit(ask(&all, dir.path(), &["max_scan_bytes=1KB"]).await, "or raise `max_scan_bytes`");
    assert_limit(ask(&all, dir.path(), &["max_result_bytes=1KB"]).await, "raise the option `max_result_bytes`");
    let within = ["tasks=4", "max_tasks=4", "max_scan_bytes=1MB", "max_result_bytes=1MB"];
    assert_eq!(ask(&all, dir.path(), &within).await.unwrap().summary.rows, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_were_not_set_by_text_are_bounded_too() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    let all = statement(1, "SELECT * FROM rides", &[("rides", "Parquet", "rides")]);
    let (mut question, _) = question(&all, dir.path(), &[]);
    question.options.batch_size = usize::MAX;
    let mut running = Fuse::new(host(&[]).host()).start(question);
    let error = running.answer().await.unwrap_err();
    assert!(
        error.kind == ErrorKind::Invalid && error.message.contains("use a whole number from 1 to 1048576"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn number_of_tasks_is_bounded_for_any_split_size() {
    let dir = tempdir().unwrap();
    let mut text = String::from("id\n");
    (0..200_000).for_each(|id| _ = writeln!(text, "{id}"));
    std::fs::write(dir.path().join("a.csv"), text).unwrap();
    let mut query = statement(1, "SELECT count(*) AS n FROM t", &[("t", "Csv", "a.csv")]);
    query["catalogs"][0]["newlines_in_values"] = json!(false);
    let sets = ["tasks=1000000", "split_bytes=1"];
    assert_limit(ask(&query, dir.path(), &sets).await, "more than 100000; raise `task_bytes`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifest_is_bounded_by_its_option() {
    let dir = tempdir().unwrap();
    let file = json!({"uri": "a.parquet", "size": 1});
    let manifest = json!({"schema": [{"name": "id", "type": "Int64"}], "files": vec![file; 100]});
    std::fs::write(dir.path().join("list.json"), manifest.to_string()).unwrap();
    let query = statement(1, "SELECT count(id) AS n FROM t", &[("t", "Static", "list.json")]);
    assert_limit(ask(&query, dir.path(), &["max_manifest_bytes=1KB"]).await, "raise `max_manifest_bytes`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_whose_values_grow_are_bounded() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    let catalogs = [("rides", "Parquet", "rides")];
    let run = async |sql: &str| {
        let query: Value = statement(1, sql, &catalogs);
        ask(&query, dir.path(), &[]).await
    };
    for sql in [
        "SELECT repeat('x', 2000000000) AS x",
        "SELECT length(repeat(repeat('x', 60000), 60000)) AS x",
        "SELECT length(x) AS x FROM (SELECT repeat(y, 2000000000) AS x FROM (SELECT 'x' AS y))",
        "SELECT lpad('x', 2000000000) AS x",
        "SELECT cardinality(range(0, 2000000000)) AS x",
        "SELECT cardinality(generate_series(0, 2000000000)) AS x",
        "SELECT cardinality(array_repeat(1, 2000000000)) AS x",
        "SELECT count(*) AS x FROM rides WHERE grp < repeat('x', 2000000000)",
        "SELECT grp || repeat('x', 2000000000) AS x FROM rides",
    ] {
        let answer = run(sql).await;
        assert!(answer.is_err(), "{sql}");
        assert_limit(answer, "makes a value of more than 64 MiB of constants");
    }
    for sql in [
        "SELECT max(length(lpad(grp, 2000000000))) AS x FROM rides",
        "SELECT max(length(repeat(grp, 200000000))) AS x FROM rides",
        "SELECT max(cardinality(range(0, id * 0 + 2000000000))) AS x FROM rides",
    ] {
        let answer = run(sql).await;
        assert!(answer.is_err(), "{sql}");
        assert_limit(answer, "makes values of more than 1024 MiB for a batch of");
    }
    let rows = run("SELECT length(repeat('ab', 1000)) AS x, cardinality(range(3, 9, 2)) AS y, lpad('x', 3) AS z").await;
    assert_eq!(sorted_text(&rows.unwrap().rows), ["2000 | 3 |   x"]);
    let rows = run("SELECT max(length(repeat(grp, 100))) AS x FROM rides").await;
    assert_eq!(sorted_text(&rows.unwrap().rows), ["700"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_of_text_is_bounded() {
    let dir = tempdir().unwrap();
    let mut text = String::from("id,name\n1,\"");
    text.push_str(&"never closed\n".repeat((65 << 20) / 13));
    std::fs::write(dir.path().join("a.csv"), text).unwrap();
    let mut query = statement(1, "SELECT count(name) AS n FROM t", &[("t", "Csv", "a.csv")]);
    query["catalogs"][0]["schema"] = json!([{"name": "id", "type": "Int64"}, {"name": "name", "type": "Utf8"}]);
    query["catalogs"][0]["header"] = json!(true);
    assert_limit(ask(&query, dir.path(), &[]).await, "a record has more than 64 MiB");
}
