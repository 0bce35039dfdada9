//! Runs queries on the complete engine in one process.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_cli::local::{LocalCompute, LocalHost};
use buzz_cli::rows::Rows;
use buzz_fuse::{Compute, Fuse, Progress, QueryPlan, Refused, Request, Summary};
use buzz_protocol::{HBeeTask, Options, Query, Result, TaskOutcome};
use buzz_storage::Storage;
use serde_json::{Value, json};

/// The rows of an answer, with its summary, warnings and plan.
#[derive(Debug)]
pub struct Answer {
    pub rows: Vec<RecordBatch>,
    pub summary: Summary,
    pub warnings: Vec<String>,
    pub plan: QueryPlan,
    pub reruns: u64,
}

/// Parses options from `key=value` texts.
pub fn options(sets: &[&str]) -> Options {
    let mut options = Options::default();
    for assignment in sets {
        options.set(assignment).unwrap();
    }
    options
}

/// Runs `query` on a new host with 2 threads.
pub async fn ask(query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    ask_on(&host(sets), query, base, sets).await
}

/// Creates a host with 2 threads.
pub fn host(sets: &[&str]) -> LocalHost {
    LocalHost::new(Arc::new(Storage::default()), &options(sets), 2).unwrap()
}

/// Runs `query` on `host`. Tasks and outcomes are serialized to JSON and back, as between machines.
pub async fn ask_on(host: &LocalHost, query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    let compute = Arc::new(WiredCompute(Arc::clone(&host.compute)));
    let fuse = Fuse::new(Arc::clone(&host.storage), compute, Arc::clone(&host.combs) as _, Arc::clone(&host.network));
    ask_fuse(&fuse, query, base, sets).await
}

/// Runs tasks after a round trip through JSON.
#[derive(Debug)]
struct WiredCompute(Arc<LocalCompute>);

#[async_trait]
impl Compute for WiredCompute {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let sent = serde_json::to_string(task).expect("a task has a JSON form");
        let received: HBeeTask = serde_json::from_str(&sent).expect("a task's JSON is a task");
        let outcome = self.0.run(&received, refused).await?;
        let answered = serde_json::to_string(&outcome).expect("an outcome has a JSON form");
        Ok(serde_json::from_str(&answered).expect("an outcome's JSON is an outcome"))
    }

    fn concurrency(&self) -> usize {
        self.0.concurrency()
    }

    fn tasks_min(&self) -> usize {
        self.0.tasks_min()
    }
}

/// Runs `query` with `fuse`.
pub async fn ask_fuse(fuse: &Fuse, query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    let (query, mut warnings) = Query::parse(&query.to_string(), "query")?;
    let request = Request { query, base: PathBuf::from(base), options: options(sets) };
    let plan = fuse.plan(&request).await?;
    warnings.extend(plan.warnings.clone());
    let (progress, mut rows) = (Progress::default(), Rows::new());
    let summary = fuse.answer(&plan, &progress, &mut rows).await?;
    let rows = rows.batches()?.collect::<Result<Vec<_>>>()?;
    let reruns = Progress::get(&progress.reruns);
    Ok(Answer { rows, summary, warnings, plan, reruns })
}

/// Builds a query of HBee steps and HComb steps, each `(name, SQL)`, with catalog entries `(name, type, uri)`.
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

/// Builds a query of one statement, with catalog entries `(name, type, uri)`.
pub fn statement(zones: usize, sql: &str, catalogs: &[(&str, &str, &str)]) -> Value {
    let catalog = |(name, kind, uri): &(&str, &str, &str)| json!({"name": name, "type": kind, "uri": uri});
    json!({
        "sql": sql,
        "capacity": {"zones": zones},
        "catalogs": catalogs.iter().map(catalog).collect::<Vec<_>>(),
    })
}
