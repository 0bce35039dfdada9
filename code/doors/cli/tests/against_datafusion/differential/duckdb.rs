//! Writes random queries with their answers for another oracle, DuckDB: `code/testkit/duckdb/differential.py` runs them
//! there. So the faults of plain DataFusion are found too.
//!
//! `BUZZ_DIFFERENTIAL_WRITE` names the folder: a folder of Parquet files for each table, and a file of JSON lines for each
//! test.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use libtest_mimic::Failed;
use serde_json::json;

use crate::plain::Asked;
use crate::tables::Tables;

/// Returns the folder to write to, if any.
pub(super) fn folder() -> Option<PathBuf> {
    std::env::var_os("BUZZ_DIFFERENTIAL_WRITE").map(PathBuf::from)
}

/// Writes the query `seed` and its answer in plain DataFusion to a file of `folder`.
pub(super) async fn write(folder: &Path, file: u64, seed: u64, asked: &Asked, all: &Tables) -> Result<(), Failed> {
    static TABLES: Once = Once::new();
    TABLES.call_once(|| copy_tables(folder, all).expect("the folder can be written"));
    let rows = asked.plain().await?.rows;
    let line = json!({"seed": seed, "sql": asked.sql, "rows": rows});
    let path = folder.join(format!("{file:08}.jsonl"));
    let mut out = fs::OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(out, "{line}")?;
    Ok(())
}

fn copy_tables(folder: &Path, all: &Tables) -> std::io::Result<()> {
    for table in &all.tables {
        let target = folder.join("tables").join(&table.name);
        fs::create_dir_all(&target)?;
        for entry in fs::read_dir(&table.written.files)? {
            let entry = entry?;
            fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
    }
    Ok(())
}
