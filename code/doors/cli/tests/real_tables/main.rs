//! Reads every real table that has an `expected.json` with the complete engine. Compares the row count, and for each
//! column the non-null count, distinct count, minimum, maximum and sum. The rows of Delta's golden tables are compared
//! with those that Spark stored.
//!
//! `not_yet.txt` lists the tables that may fail, each with its reason. A listed table that passes fails the test, so
//! the list stays accurate. The numbers of passed and tested tables are printed by folder.

#![expect(clippy::print_stdout, reason = "a test reports what it skips")]

#[path = "../common/mod.rs"]
mod common;

mod compare;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use buzz_protocol::{ErrorKind, QueryError};
use buzz_testkit::{NO_SHARED_DATA, plain_rows, shared_data, sorted_text};
use common::ask;
use compare::{Counted, differences};
use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Tables that may fail, with the reason: `folder/table: reason`.
const NOT_YET: &str = include_str!("not_yet.txt");

/// A table and the answers of another reader.
#[derive(Debug, Clone)]
struct Table {
    /// Folder of the `expected.json`, such as `delta/golden`.
    folder: String,
    /// Path of the table in the folder.
    path: String,
    kind: &'static str,
    /// Expected counts. `None` if the other readers failed: then any answer and any error except a bug is accepted.
    expected: Option<Value>,
    /// Folder of Parquet files with the rows that Spark read.
    rows: Option<PathBuf>,
}

/// Number of passed and of tested tables, by folder.
type Score = Mutex<BTreeMap<String, (usize, usize)>>;

fn main() {
    let arguments = Arguments::from_args();
    let Some(data) = shared_data() else {
        println!("{NO_SHARED_DATA}; their tests are ignored");
        let nothing = Trial::test("real_tables", || Ok(())).with_ignored_flag(true);
        libtest_mimic::run(&arguments, vec![nothing]).exit();
    };
    let score: Arc<Score> = Arc::default();
    let lines = NOT_YET.lines().filter(|line| !line.starts_with('#'));
    let mut allowed: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(": ")).collect();
    let mut trials = Vec::new();
    for table in tables(&data) {
        let name = format!("{}/{}", table.folder, table.path);
        let reason = allowed.remove(&*name).map(str::to_string);
        let (data, score) = (data.clone(), Arc::clone(&score));
        trials.push(Trial::test(name, move || judged(&data, &table, reason.as_deref(), &score)));
    }
    for (name, _) in allowed {
        trials.push(Trial::test(format!("not_yet/{name}"), || {
            Err("the table does not exist in the data; remove it from not_yet.txt".into())
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (folder, (passed, tried)) in score.lock().iter() {
        println!("{folder}: {passed} of {tried} tables");
    }
    conclusion.exit();
}

/// Runs the test of a table. Inverts the outcome of a listed table, except that a bug always fails.
fn judged(data: &Path, table: &Table, reason: Option<&str>, score: &Score) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(tried(data, table));
    let mut score = score.lock();
    let (passed, tried) = score.entry(table.folder.clone()).or_default();
    *tried += 1;
    *passed += usize::from(outcome.is_ok());
    match (outcome, reason) {
        (Ok(()), Some(reason)) => {
            Err(format!("the table passes; remove it from not_yet.txt, where its reason is: {reason}").into())
        }
        (Err(error), Some(_)) if error.starts_with("Internal") => Err(error.into()),
        (Err(_), Some(_)) => Ok(()),
        (outcome, None) => outcome.map_err(Failed::from),
    }
}

/// Returns all tables with expected answers, in a stable order.
fn tables(data: &Path) -> Vec<Table> {
    let mut found = Vec::new();
    for group in ["delta", "parquet", "tables", "csv-json"] {
        let mut folders: Vec<String> = std::fs::read_dir(data.join(group))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(format!("{group}/{}", entry.ok()?.file_name().to_str()?)))
            .chain([group.to_string()])
            .collect();
        folders.sort();
        for folder in folders {
            let Ok(json) = std::fs::read(data.join(&folder).join("expected.json")) else {
                continue;
            };
            let json: Value = serde_json::from_slice(&json).expect("expected.json is JSON");
            let entries = ["tables", "files"].iter().find_map(|key| json[*key].as_object());
            let entries = entries.expect("expected.json has tables or files").iter();
            // For some files the data has only the answers.
            for (path, expected) in entries.filter(|(path, _)| data.join(&folder).join(path).exists()) {
                found.push(table(data, &folder, path, expected));
            }
        }
    }
    found
}

fn table(data: &Path, folder: &str, path: &str, expected: &Value) -> Table {
    let kind = match path {
        _ if folder.starts_with("delta/") => "DeltaLake",
        path if path.ends_with(".json") => "Json",
        path if path.contains(".csv") || path.contains(".tsv") => "Csv",
        _ => "Parquet",
    };
    let readers = ["expected_dir", "deltalake", "duckdb"].iter().map(|by| &expected[*by]);
    let counted = readers.chain([expected]).find(|by| by["rows"].is_u64()).cloned();
    // If only pyarrow read the table, only the row count is known.
    let pyarrow = expected["pyarrow"]["rows"].as_u64().map(|rows| json!({ "rows": rows }));
    let spark = path.strip_suffix("/delta").map(|name| data.join(folder).join(name).join("expected"));
    Table {
        folder: folder.to_string(),
        path: path.to_string(),
        kind,
        expected: counted.or(pyarrow),
        rows: spark.filter(|folder| folder.is_dir()),
    }
}

async fn tried(data: &Path, table: &Table) -> Result<(), String> {
    let base = data.join(&table.folder);
    let Some(expected) = &table.expected else {
        return match whole(&base, table, "SELECT COUNT(*) FROM m").await {
            Err(error) if matches!(error.kind, ErrorKind::Internal | ErrorKind::Unavailable) => Err(shown(&error)),
            _ => Ok(()),
        };
    };
    let names = column_names(&base, table).await.map_err(|error| shown(&error))?;
    let counted = Counted::new(expected, &names);
    let rows = whole(&base, table, &counted.sql("m")).await.map_err(|error| shown(&error))?;
    let found = differences(&counted, &rows)?;
    if !found.is_empty() {
        return Err(found.join("; "));
    }
    let bounds = counted.bounds(expected);
    let query = json!({"sql": bounds.sql("t"), "catalogs": [catalog(table)]});
    let answer = ask(&query, &base, &[]).await.map_err(|error| shown(&error))?;
    let found = differences(&bounds, &answer.rows)?;
    if !found.is_empty() {
        return Err(format!("in one statement of {} tasks: {}", answer.summary.tasks, found.join("; ")));
    }
    match &table.rows {
        Some(folder) => spark_rows(&base, table, folder, &names).await,
        None => Ok(()),
    }
}

/// Runs `reduce` over the step `m`, which returns all rows of the table and is read by several tasks.
async fn whole(base: &Path, table: &Table, reduce: &str) -> Result<Vec<arrow::array::RecordBatch>, QueryError> {
    let query = json!({
        "steps": [
            {"name": "m", "step_type": "HBee", "sql": "SELECT * FROM t", "split": "row_groups"},
            {"name": "r", "step_type": "HComb", "sql": reduce},
        ],
        "capacity": {"zones": 2},
        "catalogs": [catalog(table)],
    });
    Ok(ask(&query, base, &["tasks=3", "split_bytes=64KB"]).await?.rows)
}

fn catalog(table: &Table) -> Value {
    json!({"name": "t", "type": table.kind, "uri": table.path})
}

async fn column_names(base: &Path, table: &Table) -> Result<Vec<String>, QueryError> {
    let entry = serde_json::from_value(catalog(table)).expect("an entry");
    let opened =
        buzz_catalog::open(&entry, base, &std::sync::Arc::new(buzz_storage::Stores::default()).for_query()).await?;
    Ok(opened.schema.fields().iter().map(|field| field.name().clone()).collect())
}

/// Compares all rows with those that Spark stored.
async fn spark_rows(base: &Path, table: &Table, folder: &Path, names: &[String]) -> Result<(), String> {
    let columns: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let columns = columns.join(", ");
    let place = format!("{}/", folder.display());
    let expected = plain_rows(&format!("SELECT {columns} FROM t"), &[("t", &place)], 2).await;
    let expected = sorted_text(&expected.map_err(|error| error.to_string())?);
    let rows = whole(base, table, &format!("SELECT {columns} FROM m")).await.map_err(|error| shown(&error))?;
    let found = sorted_text(&rows);
    match found.iter().zip(&expected).find(|(found, expected)| !compare::same_text(found, expected)) {
        Some((found, expected)) => Err(format!("Spark has the row {expected}, Buzz has {found}")),
        None if found.len() != expected.len() => {
            Err(format!("Spark has {} rows, Buzz has {}", expected.len(), found.len()))
        }
        None => Ok(()),
    }
}

fn shown(error: &QueryError) -> String {
    format!("{:?}: {error}", error.kind)
}
