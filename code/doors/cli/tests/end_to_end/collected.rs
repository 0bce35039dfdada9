//! Joins whose smaller side the planner collects, with rows that go through objects: tasks run them, and return the rows of plain
//! DataFusion.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use buzz_testkit::sorted_text;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::common::{Answer, ask_on, host, statement};

/// Both sides are exchanged, and their rows exceed the inbox of Fuse.
const BY_TASKS: [&str; 4] = ["reducer=objects", "tasks=4", "inbox_memory_bytes=1", "build_bytes=0"];

/// Joins of `small` and `large` of each kind.
const JOINS: [&str; 13] = [
    "SELECT s.w, l.v FROM small s JOIN large l ON s.k = l.k",
    "SELECT s.w, l.v FROM large l LEFT JOIN small s ON s.k = l.k",
    "SELECT s.w, l.v FROM small s LEFT JOIN large l ON s.k = l.k",
    "SELECT s.w, l.v FROM small s FULL JOIN large l ON s.k = l.k",
    "SELECT v FROM large l WHERE EXISTS (SELECT 1 FROM small s WHERE s.k = l.k)",
    "SELECT v FROM large l WHERE NOT EXISTS (SELECT 1 FROM small s WHERE s.k = l.k)",
    "SELECT w FROM small s WHERE EXISTS (SELECT 1 FROM large l WHERE s.k = l.k)",
    "SELECT w FROM small s WHERE NOT EXISTS (SELECT 1 FROM large l WHERE s.k = l.k)",
    "SELECT v FROM large WHERE v IN (SELECT k FROM small WHERE k IS NOT NULL) OR v > 1500",
    "SELECT s.w, l.v FROM small s JOIN large l ON s.k > l.k",
    "SELECT s.w, l.v FROM small s CROSS JOIN large l WHERE l.v < 50",
    "SELECT l.v, t.n FROM large l JOIN (SELECT AVG(v) AS n FROM large) t ON l.v > t.n",
    // The rows of `small` without a match are known only once all rows of `large` are.
    "SELECT s.w, l.v FROM small s LEFT JOIN large l ON s.k > l.k AND l.v < 20",
];

/// Writes a table of `files` files with columns `k`, which may be null, and `name`, a text, and a unique `number`.
fn write(folder: &Path, number: &str, files: i64, rows: i64, key: impl Fn(i64) -> Option<i64>) {
    std::fs::create_dir_all(folder).unwrap();
    for file in 0..files {
        let ids = file * rows..(file + 1) * rows;
        let columns: [(&str, ArrayRef, bool); 3] = [
            ("k", Arc::new(ids.clone().map(&key).collect::<Int64Array>()), true),
            (number, Arc::new(Int64Array::from_iter_values(ids.clone())), false),
            ("name", Arc::new(StringArray::from_iter_values(ids.map(|id| format!("row {id}")))), false),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let out = File::create(folder.join(format!("part-{file}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(out, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// Makes `small`, of 12 rows, and `large`, of 1,600. Both have null keys, repeated ones, and ones that the other has not.
fn tables() -> TempDir {
    let dir = tempdir().unwrap();
    write(&dir.path().join("small"), "w", 2, 6, |id| (id % 5 != 0).then_some(id * 7 % 24 - 2));
    write(&dir.path().join("large"), "v", 8, 200, |id| (id % 9 != 0).then_some(id % 20));
    dir
}

fn asked(sql: &str) -> Value {
    statement(1, sql, &[("small", "Parquet", "small"), ("large", "Parquet", "large")])
}

async fn plain(dir: &TempDir, sql: &str) -> Vec<String> {
    let ctx = SessionContext::new();
    for name in ["small", "large"] {
        let path = format!("{}/", dir.path().join(name).display());
        ctx.register_parquet(name, &path, ParquetReadOptions::default()).await.unwrap();
    }
    sorted_text(&ctx.sql(sql).await.unwrap().collect().await.unwrap())
}

async fn by_tasks(dir: &TempDir, sql: &str) -> Answer {
    let answer = ask_on(&host(&BY_TASKS), &asked(sql), dir.path(), &BY_TASKS).await;
    answer.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Checks if a stage of a single task computed the side that a join collects.
fn computes_what_is_collected(answer: &Answer) -> bool {
    let mut stages = answer.summary.stages.iter();
    stages.any(|stage| stage.step.starts_with("reduce_") && stage.tasks.len() == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_run_joins_of_every_kind_whose_smaller_side_is_collected() {
    let dir = tables();
    let mut of_one_task = Vec::new();
    for sql in JOINS {
        let answer = by_tasks(&dir, sql).await;
        let expected = plain(&dir, sql).await;
        assert!(!expected.is_empty(), "{sql}");
        assert_eq!(sorted_text(&answer.rows), expected, "{sql}");
        of_one_task.extend(computes_what_is_collected(&answer).then_some(sql));
    }
    assert!(of_one_task.len() >= 9, "the smaller side of few joins is a stage of one task: {of_one_task:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_be_empty() {
    let dir = tables();
    for sql in JOINS {
        for (table, none) in
            [("small s", "(SELECT * FROM small WHERE w < 0) s"), ("large l", "(SELECT * FROM large WHERE v < 0) l")]
        {
            let sql = sql.replace(&format!("FROM {table}"), &format!("FROM {none}"));
            let sql = sql.replace(&format!("JOIN {table}"), &format!("JOIN {none}"));
            assert_eq!(sorted_text(&by_tasks(&dir, &sql).await.rows), plain(&dir, &sql).await, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_of_a_list_keep_their_meaning() {
    let dir = tables();
    // With a null in the list, no row is outside of it. Fuse runs this join.
    for list in ["SELECT k FROM small", "SELECT k FROM small WHERE k IS NOT NULL", "SELECT k FROM small WHERE w < 0"] {
        let sql = format!("SELECT v FROM large WHERE k NOT IN ({list})");
        assert_eq!(sorted_text(&by_tasks(&dir, &sql).await.rows), plain(&dir, &sql).await, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_a_collected_side_is_the_failure_of_the_query() {
    let dir = tables();
    let sql = "SELECT l.v FROM large l JOIN (SELECT SUM(v) / SUM(v - v) AS n FROM large) t ON l.v > t.n";
    let by_tasks = ask_on(&host(&BY_TASKS), &asked(sql), dir.path(), &BY_TASKS).await.unwrap_err();
    let by_combs = ask_on(&host(&[]), &asked(sql), dir.path(), &[]).await.unwrap_err();
    assert_eq!(by_tasks.kind, by_combs.kind, "{by_tasks}");
    assert!(by_tasks.to_string().contains("division by zero"), "{by_tasks}");
}
