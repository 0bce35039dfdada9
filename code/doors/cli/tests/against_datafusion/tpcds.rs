//! TPC-DS: the 99 statements on one comb and on four, in memory and over TCP, compared with plain DataFusion and with
//! DuckDB on the same files.
//!
//! `code/testkit/duckdb/tpcds.py` makes the tables, the statements and DuckDB's answers, in the folder that `BUZZ_TPCDS` names. The
//! tests are ignored if the folder does not exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use buzz_protocol::Options;
use buzz_testkit::{Rows, disagreement, not_among};
use libtest_mimic::{Completion, Failed};
use serde_json::Value;

use crate::common::{ask, statement};
use crate::parquet::Written;
use crate::plain::Asked;
use crate::script::is_ordered;

/// The number of statements.
pub(crate) const STATEMENTS: u32 = 99;

/// The time that a statement may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Relative tolerance of DuckDB's numbers: DataFusion averages decimals as decimals of six digits.
const TOLERANCE: f64 = 2e-6;

/// Combs and options. Without broadcast joins, all joins are divided among the combs. Joins run in both orders.
const WAYS: [(usize, &[&str]); 4] = [
    (1, &["transport=memory"]),
    (4, &["transport=memory", "build_bytes=0", "join_order=written"]),
    (1, &["transport=tcp", "build_bytes=0"]),
    (4, &["transport=tcp"]),
];

/// Statements whose answer in plain DataFusion is not that of DuckDB, and why.
const NOT_AS_DUCKDB: &[(u32, &str)] = &[];

/// Returns the folder of the tables, or the reason why the tests are ignored.
fn folder() -> Result<PathBuf, &'static str> {
    let folder = std::env::var_os("BUZZ_TPCDS").map(PathBuf::from);
    let complete = folder.filter(|folder| folder.join("complete").is_file());
    complete.ok_or("no tables: BUZZ_TPCDS names no folder; `make test-tpcds` makes it")
}

/// Compares statement `number` in all ways. The test is ignored without the tables.
pub(crate) async fn run(number: u32) -> Result<Completion, Failed> {
    let folder = match folder() {
        Ok(folder) => folder,
        Err(reason) => return Ok(Completion::ignored_with(reason)),
    };
    let sql = std::fs::read_to_string(folder.join(format!("statements/{number:02}.sql")))?;
    let tables = tables_of(&folder, &sql)?;
    let asked = Asked {
        sql: sql.clone(),
        tables: tables.clone(),
        options: Options::default(),
        ordered: is_ordered(&sql),
        patience: PATIENCE,
    };
    let plain = asked.plain().await?;
    compare_with_duckdb(&folder, number, plain.clone())?;
    let uris: Vec<(String, String)> =
        tables.into_iter().map(|(name, written)| (name, written.files.to_string_lossy().into_owned())).collect();
    let catalogs: Vec<_> = uris.iter().map(|(name, uri)| (name.as_str(), "Parquet", uri.as_str())).collect();
    for (zones, sets) in WAYS {
        let place = |told: String| Failed::from(format!("{zones} zones, {sets:?}: {told}"));
        let sets: Vec<&str> = sets.iter().copied().chain(["tasks=4", "timeout_seconds=300"]).collect();
        let answer = ask(&statement(zones, &sql, &catalogs), Path::new("/"), &sets).await;
        let answer = answer.map_err(|error| place(format!("{:?}: {error}", error.kind)))?;
        if let Some(told) = asked.judge(&Rows::of(&answer.rows)?, plain.clone()).await? {
            return Err(place(told));
        }
    }
    Ok(Completion::Completed)
}

/// Returns the tables that `sql` names.
fn tables_of(folder: &Path, sql: &str) -> Result<Vec<(String, Written)>, Failed> {
    let words: BTreeSet<&str> = sql.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let mut tables = Vec::new();
    for entry in std::fs::read_dir(folder.join("tables"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if words.contains(name.as_str()) {
            let way = |way: &str| path.join(way);
            tables.push((name, Written { files: way("files"), turned: way("turned"), mixed: way("mixed") }));
        }
    }
    Ok(tables)
}

/// Compares the rows of plain DataFusion with those of DuckDB. A LIMIT may choose among ties.
fn compare_with_duckdb(folder: &Path, number: u32, plain: Rows) -> Result<(), Failed> {
    let stored: Value = serde_json::from_slice(&std::fs::read(folder.join(format!("answers/{number:02}.json")))?)?;
    let rows = |key: &str| {
        let cells =
            |row: &Value| row.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        Rows::of_texts(stored[key].as_array().into_iter().flatten().map(cells).collect())
    };
    let (plain, duckdb) = (plain.estimated(TOLERANCE), rows("rows").estimated(TOLERANCE));
    let differs = disagreement(&plain, std::slice::from_ref(&duckdb), false).filter(|_| {
        plain.rows.len() != duckdb.rows.len() || not_among(&plain, &rows("all").estimated(TOLERANCE)).is_some()
    });
    let known = NOT_AS_DUCKDB.iter().find(|(known, _)| *known == number);
    match (differs, known) {
        (Some(told), None) => Err(format!("plain DataFusion does not agree with DuckDB: {told}").into()),
        (None, Some((_, reason))) => Err(format!("plain DataFusion agrees with DuckDB, although {reason}").into()),
        _ => Ok(()),
    }
}
