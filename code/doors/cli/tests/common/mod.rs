//! Runs queries on the complete engine in one process.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_engine::{Engine, Question, Summary};
use buzz_fuse::Fuse;
use buzz_host::{Compute, Host, Refused};
use buzz_local::{LocalCompute, LocalHost};
use buzz_plan::QueryPlan;
use buzz_protocol::{HBeeTask, Options, Query, Result, TaskOutcome};
use buzz_storage::Stores;
use serde_json::{Value, json};

/// The rows of an answer, with its summary, warnings and plan.
#[derive(Debug)]
pub struct Answer {
    pub rows: Vec<RecordBatch>,
    pub summary: Summary,
    pub warnings: Vec<String>,
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
    LocalHost::new(Arc::new(Stores::default()), &options(sets), 2).unwrap()
}

/// Runs `query` on `host`. Tasks and outcomes are serialized to JSON and back, as between machines.
pub async fn ask_on(host: &LocalHost, query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    let compute = Arc::new(WiredCompute(Arc::clone(&host.compute)));
    let fuse = Fuse::new(Host { compute, ..host.host() });
    ask_fuse(&fuse, query, base, sets).await
}

/// Runs tasks after a round trip through JSON.
#[derive(Debug)]
pub struct WiredCompute(pub Arc<LocalCompute>);

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

/// Makes the question of `query`, and returns the warnings of parsing it.
pub fn question(query: &Value, base: &Path, sets: &[&str]) -> (Question, Vec<String>) {
    let (query, warnings) = Query::parse(&query.to_string(), "query").unwrap();
    (Question::new(query, base).with_options(options(sets)), warnings)
}

/// Plans `query` on a fresh host with 2 threads.
pub async fn plan(query: &Value, base: &Path, sets: &[&str]) -> Result<QueryPlan> {
    Fuse::new(host(sets).host()).plan(&question(query, base, sets).0).await
}

/// Answers `query` with `engine`, as every way in does.
pub async fn ask_fuse(engine: &dyn Engine, query: &Value, base: &Path, sets: &[&str]) -> Result<Answer> {
    let (query, mut warnings) = Query::parse(&query.to_string(), "query")?;
    let mut running = engine.start(Question::new(query, base).with_options(options(sets)));
    let answer = running.answer().await?;
    warnings.extend(running.progress().warnings());
    let summary = answer.summary.clone();
    let rows = answer.into_rows().batches()?.collect::<Result<Vec<_>>>()?;
    Ok(Answer { rows, reruns: summary.reruns, summary, warnings })
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
