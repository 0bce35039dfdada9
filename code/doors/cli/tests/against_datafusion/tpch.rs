//! TPC-H, with each table in 16 files:
//! - against plain DataFusion, on one comb and on four, in memory and over TCP, and without combs, through objects;
//! - against the answers of DataFusion's own tests, at their scale factor, also through objects;
//! - against the answers of another engine, if this machine has the real tables.

use std::path::Path;
use std::time::Duration;

use buzz_protocol::Options;
use buzz_testkit::{Rows, TPCH_TABLES, tpch_statement};
use libtest_mimic::Failed;
use serde_json::Value;

use crate::common::{Answer, ask, statement};
use crate::inputs::Inputs;
use crate::plain::Asked;
use crate::script::is_ordered;
use crate::tables::{FILES, Tables, large_tpch};

/// The time that a statement may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Compares statement `number` with plain DataFusion, in all four ways.
pub(crate) async fn run(inputs: &Inputs, number: u64) -> Result<(), Failed> {
    let sql = tpch_statement(inputs.slt_files()?, number)?.sql;
    let tables = Tables::get(inputs).await?;
    let named: Vec<&str> = tables_of(&sql).collect();
    let asked = Asked {
        sql: sql.clone(),
        tables: named.iter().map(|name| (name.to_string(), tables.table(name).written.clone())).collect(),
        options: Options::default(),
        ordered: is_ordered(&sql),
        patience: PATIENCE,
    };
    let plain = asked.plain().await?;
    let folder = |name: &str| tables.table(name).written.files.to_string_lossy().into_owned();
    for zones in [1, 4] {
        for transport in ["transport=memory", "transport=tcp"] {
            let place = |told: String| Failed::from(format!("{zones} zones, {transport}: {told}"));
            let answer = answer(&sql, zones, &[transport], folder).await.map_err(place)?;
            let scanned = answer.summary.stages.iter().map(|stage| stage.tasks.len()).max();
            // The rows of a null-aware NOT IN must meet in one place.
            let combs = if number == 16 { 1 } else { zones };
            // No part of the small tables is one of statement 17. Its joins end without the rows of their other side, so that the
            // last of its tasks may not run.
            let is_complete = scanned == Some(FILES) || (number == 17 && scanned < Some(FILES));
            if !is_complete || answer.summary.combs != combs {
                return Err(place(format!("{} combs, at most {scanned:?} tasks of a stage", answer.summary.combs)));
            }
            if let Some(told) = asked.judge(&Rows::of(&answer.rows)?, plain.clone()).await? {
                return Err(place(told));
            }
        }
    }
    for sets in THROUGH_OBJECTS {
        let place = |told: String| Failed::from(format!("{sets:?}: {told}"));
        let answer = answer(&sql, 1, sets, folder).await.map_err(place)?;
        // Without rows, there is no object.
        if answer.summary.combs > 0 || (answer.summary.objects == 0 && answer.summary.rows_delivered > 0) {
            return Err(place(format!("{} combs, {} objects", answer.summary.combs, answer.summary.objects)));
        }
        if let Some(told) = asked.judge(&Rows::of(&answer.rows)?, plain.clone()).await? {
            return Err(place(told));
        }
    }
    Ok(())
}

/// The options of the exchange through objects: Fuse reads them, tasks read them, and tasks read both sides of each join.
const THROUGH_OBJECTS: [&[&str]; 3] = [
    &["reducer=objects"],
    &["reducer=objects", "inbox_memory_bytes=1"],
    &["reducer=objects", "inbox_memory_bytes=1", "build_bytes=0"],
];

/// Statements of which tasks reduce a part if all rows are exchanged, whatever the sizes of their tables.
const REDUCED_BY_TASKS: [u64; 3] = [1, 12, 18];

/// Compares statement `number` with the answer of DataFusion's own tests, with rows that go through objects.
pub(crate) async fn objects(inputs: &Inputs, number: u64) -> Result<(), Failed> {
    let statement = tpch_statement(inputs.slt_files()?, number)?;
    let tables = large_tpch(inputs).await?;
    let folder = |name: &str| tables.join(name).to_string_lossy().into_owned();
    let words = |line: &str| line.split_whitespace().map(str::to_string).collect();
    let stored: Vec<Vec<String>> = statement.answer.iter().map(|line| words(line)).collect();
    for sets in THROUGH_OBJECTS {
        let answer = answer(&statement.sql, 1, sets, folder).await?;
        let found: Vec<Vec<String>> = Rows::of(&answer.rows)?.rows.iter().map(|row| words(&row.join(" "))).collect();
        same(&found, &stored).map_err(|told| format!("{sets:?}: {told}"))?;
        let by_tasks = answer.summary.stages.iter().filter(|stage| stage.step.starts_with("reduce_")).count();
        let must = sets.len() == 3 && REDUCED_BY_TASKS.contains(&number);
        if answer.summary.combs > 0 || (must && by_tasks == 0) {
            return Err(format!("{sets:?}: {} combs, {by_tasks} stages of tasks", answer.summary.combs).into());
        }
    }
    Ok(())
}

/// Compares statement `number` with the answer of DataFusion's own tests.
pub(crate) async fn answers(inputs: &Inputs, number: u64) -> Result<(), Failed> {
    let statement = tpch_statement(inputs.slt_files()?, number)?;
    let tables = large_tpch(inputs).await?;
    let folder = |name: &str| tables.join(name).to_string_lossy().into_owned();
    let answer = answer(&statement.sql, 4, &["transport=memory"], folder).await?;
    // The answers have a space between cells, and some cells have spaces.
    let words = |line: &str| line.split_whitespace().map(str::to_string).collect();
    let found: Vec<Vec<String>> = Rows::of(&answer.rows)?.rows.iter().map(|row| words(&row.join(" "))).collect();
    let stored: Vec<Vec<String>> = statement.answer.iter().map(|line| words(line)).collect();
    Ok(same(&found, &stored)?)
}

/// Compares statement `number` with the answer that another engine stored beside the real tables.
pub(crate) async fn stored(inputs: &Inputs, number: u64) -> Result<(), Failed> {
    let queries = std::fs::read(inputs.shared()?.join("tables/tpch-sf0.01/queries.json"))?;
    let queries: Value = serde_json::from_slice(&queries)?;
    let query = queries["queries"].as_array().into_iter().flatten().find(|query| query["q"] == number);
    let query = query.ok_or("queries.json does not have the statement")?;
    let sql = query["sql"].as_str().ok_or("the statement has no SQL")?;
    let cell = |value: &Value| match value {
        Value::Null => "NULL".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let cells = |row: &Value| row.as_array().into_iter().flatten().map(cell).collect();
    let stored: Vec<Vec<String>> = query["rows"].as_array().into_iter().flatten().map(cells).collect();

    let tables = Tables::get(inputs).await?;
    let folder = |name: &str| tables.table(name).written.files.to_string_lossy().into_owned();
    let answer = answer(sql, 4, &["transport=memory"], folder).await?;
    Ok(same(&Rows::of(&answer.rows)?.rows, &stored)?)
}

/// Runs `sql` on the tables that it names; `folder` returns the place of each.
async fn answer(sql: &str, zones: usize, sets: &[&str], folder: impl Fn(&str) -> String) -> Result<Answer, String> {
    let uris: Vec<(&str, String)> = tables_of(sql).map(|name| (name, folder(name))).collect();
    let catalogs: Vec<(&str, &str, &str)> = uris.iter().map(|(name, uri)| (*name, "Parquet", uri.as_str())).collect();
    let sets = [sets, &["tasks=16", "timeout_seconds=300"]].concat();
    let answer = ask(&statement(zones, sql, &catalogs), Path::new("/"), &sets).await;
    answer.map_err(|error| format!("{:?}: {error}", error.kind))
}

/// Returns the tables that `sql` names.
fn tables_of(sql: &str) -> impl Iterator<Item = &'static str> {
    let words: Vec<&str> = sql.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    TPCH_TABLES.into_iter().filter(move |table| words.contains(table))
}

/// Compares in order. Stored decimals are rounded.
fn same(found: &[Vec<String>], stored: &[Vec<String>]) -> Result<(), String> {
    if found.len() != stored.len() {
        return Err(format!("{} rows instead of {}", found.len(), stored.len()));
    }
    let same_cell = |(found, stored): (&String, &String)| match (found.parse::<f64>(), stored.parse::<f64>()) {
        (Ok(found), Ok(stored)) => (found - stored).abs() <= 1e-6 * stored.abs().max(1.0),
        _ => found == stored,
    };
    let same_row = |(found, stored): (&Vec<String>, &Vec<String>)| {
        found.len() == stored.len() && found.iter().zip(stored).all(same_cell)
    };
    match found.iter().zip(stored).find(|pair| !same_row(*pair)) {
        Some((found, stored)) => Err(format!("{found:?} instead of {stored:?}")),
        None => Ok(()),
    }
}
