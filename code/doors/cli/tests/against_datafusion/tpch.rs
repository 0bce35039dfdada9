//! TPC-H with every table divided into 16 files, on one comb and on four, in memory and over TCP, against the answers that
//! another engine stored.

use std::path::Path;

use buzz_testkit::Rows;
use libtest_mimic::Failed;
use serde_json::Value;

use crate::common::{ask, statement};
use crate::shared_tables::{FILES, SharedTables, TPCH};

/// One query, in all four ways.
pub(crate) async fn run(data: &Path, number: u64) -> Result<(), Failed> {
    let queries = std::fs::read(data.join("tables/tpch-sf0.01/queries.json"))?;
    let queries: Value = serde_json::from_slice(&queries)?;
    let query = queries["queries"].as_array().into_iter().flatten().find(|query| query["q"] == number);
    let query = query.ok_or("the query is not there")?;
    let sql = query["sql"].as_str().ok_or("the query has no SQL")?;
    let stored: Vec<Vec<&Value>> = query["rows"].as_array().into_iter().flatten().map(cells).collect();

    let words: Vec<&str> = sql.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let shared = SharedTables::get(data).await?;
    let tables = TPCH.into_iter().filter(|table| words.contains(table));
    let folder = |table: &str| shared.table(table).written.files.to_string_lossy().into_owned();
    let uris: Vec<(&str, String)> = tables.map(|table| (table, folder(table))).collect();
    let catalogs: Vec<(&str, &str, &str)> = uris.iter().map(|(name, uri)| (*name, "Parquet", uri.as_str())).collect();
    for zones in [1, 4] {
        for transport in ["transport=memory", "transport=tcp"] {
            let place = |what: String| Failed::from(format!("{zones} zones, {transport}: {what}"));
            let sets = [transport, "tasks=16", "timeout_seconds=300"];
            let answer = ask(&statement(zones, sql, &catalogs), Path::new("/"), &sets).await;
            let answer = answer.map_err(|error| place(format!("{:?}: {error}", error.kind)))?;
            let scanned = answer.summary.stages.iter().map(|stage| stage.tasks.len()).max();
            // The rows of a null-aware NOT IN must meet in one place.
            let combs = if number == 16 { 1 } else { zones };
            if scanned != Some(FILES) || answer.summary.combs != combs {
                return Err(place(format!("{} combs, at most {scanned:?} tasks of a stage", answer.summary.combs)));
            }
            let found = Rows::of(&answer.rows)?;
            same(&found, &stored).map_err(place)?;
        }
    }
    Ok(())
}

fn cells(row: &Value) -> Vec<&Value> {
    row.as_array().into_iter().flatten().collect()
}

/// Compares in order. Decimals are stored rounded, and some numbers as numbers.
fn same(found: &Rows, stored: &[Vec<&Value>]) -> Result<(), String> {
    if found.rows.len() != stored.len() {
        return Err(format!("{} rows instead of {}", found.rows.len(), stored.len()));
    }
    let same_cell = |(found, stored): (&String, &&Value)| {
        let stored = match stored {
            Value::Null => "NULL".to_string(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match (found.parse::<f64>(), stored.parse::<f64>()) {
            (Ok(found), Ok(stored)) => (found - stored).abs() <= 1e-6 * stored.abs().max(1.0),
            _ => *found == stored,
        }
    };
    let same_row = |(found, stored): (&Vec<String>, &Vec<&Value>)| {
        found.len() == stored.len() && found.iter().zip(stored).all(same_cell)
    };
    match found.rows.iter().zip(stored).find(|pair| !same_row(*pair)) {
        Some((found, stored)) => Err(format!("{found:?} instead of {stored:?}")),
        None => Ok(()),
    }
}
