//! Runs queries on the whole engine in one process.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use buzz_cli::local::LocalHost;
use buzz_cli::rows::Rows;
use buzz_fuse::{Fuse, Progress, QueryPlan, Request, Summary};
use buzz_protocol::{Options, Query, Result};
use buzz_storage::Storage;
use serde_json::{Value, json};

/// An answer and how it came about.
#[derive(Debug)]
pub struct Answer {
    pub rows: Vec<RecordBatch>,
    pub summary: Summary,
    pub warnings: Vec<String>,
    pub plan: QueryPlan,
    pub reruns: u64,
}

/// Options from `key=value` texts.
pub fn options(sets: &[&str]) -> Options {
    let mut options = Options::default();
    for assignment in sets {
        options.set(assignment).unwrap();
    }
    options
}

/// Answers `query` on a fresh host with 2 threads.
pub async fn ask(query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    ask_on(&host(sets), query, base, sets).await
}

/// A host with 2 threads.
pub fn host(sets: &[&str]) -> LocalHost {
    LocalHost::new(Arc::new(Storage::default()), &options(sets), 2).unwrap()
}

/// Answers `query` on `host`.
pub async fn ask_on(host: &LocalHost, query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    ask_fuse(&host.fuse(), query, base, sets).await
}

/// Answers `query` with `fuse`.
pub async fn ask_fuse(fuse: &Fuse, query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    let (query, mut warnings) = Query::parse(&query.to_string(), "query")?;
    let request = Request { query, base: PathBuf::from(base), options: options(sets) };
    let plan = fuse.plan(&request).await?;
    warnings.extend(plan.warnings.clone());
    let (progress, mut rows) = (Progress::default(), Rows::new());
    let summary = fuse.answer(&plan, &progress, &mut rows).await?;
    let rows = rows.into_batches()?.collect::<Result<Vec<_>>>()?;
    let reruns = Progress::get(&progress.reruns);
    Ok(Answer { rows, summary, warnings, plan, reruns })
}

/// A query of HBee steps and HComb steps, each `(name, SQL)`, over `(name, type, uri)` catalogs.
pub fn steps(zones: usize, maps: &[(&str, &str)], reduces: &[(&str, &str)], catalogs: &[(&str, &str, &str)]) -> Value {
    let step = |kind: &str, (name, sql): &(&str, &str)| json!({"name": name, "sql": sql, "step_type": kind});
    let maps = maps.iter().map(|named| step("HBee", named));
    let reduces = reduces.iter().map(|named| step("HComb", named));
    let catalog = |(name, kind, uri): &(&str, &str, &str)| json!({"name": name, "type": kind, "uri": uri});
    json!({
        "steps": maps.chain(reduces).collect::<Vec<_>>(),
        "capacity": {"zones": zones},
        "catalogs": catalogs.iter().map(catalog).collect::<Vec<_>>(),
    })
}

/// One statement over `(name, type, uri)` catalogs.
pub fn statement(zones: usize, sql: &str, catalogs: &[(&str, &str, &str)]) -> Value {
    let catalog = |(name, kind, uri): &(&str, &str, &str)| json!({"name": name, "type": kind, "uri": uri});
    json!({
        "sql": sql,
        "capacity": {"zones": zones},
        "catalogs": catalogs.iter().map(catalog).collect::<Vec<_>>(),
    })
}
