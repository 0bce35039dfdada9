//! Tests inline reduction: tasks return their rows to Fuse, and the query moves to combs if there are too many rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use buzz_engine::{Progress, Rows};
use buzz_fuse::Fuse;
use buzz_host::{Combs, Compute, Host, Refused};
use buzz_local::{LocalCombs, LocalCompute};
use buzz_protocol::{CombAddress, Delivered, ErrorKind, HBeeTask, QueryError, Result, TaskOutcome};
use buzz_testkit::sorted_text;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::tempdir;

use crate::common::{Answer, ask_fuse, host, question, statement};
use crate::tables::parquet_folder;

/// Runs tasks whose outcomes are limited to `inline_bytes`, and records the destination of each attempt.
#[derive(Debug)]
struct BoundedCompute {
    inner: Arc<LocalCompute>,
    inline_bytes: u64,
    /// Destinations of the attempts of each task: Fuse (`false`) or combs (`true`).
    ran: Mutex<HashMap<u32, Vec<bool>>>,
}

#[async_trait]
impl Compute for BoundedCompute {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        self.ran.lock().entry(task.task.0).or_default().push(!task.combs.is_empty());
        self.inner.run(task, refused).await
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    fn tasks_min(&self) -> usize {
        self.inner.tasks_min()
    }

    fn inline_bytes(&self) -> u64 {
        self.inline_bytes
    }
}

/// Combs that do not run before [`Combs::ready`] is called.
#[derive(Debug)]
struct ColdCombs {
    inner: Arc<LocalCombs>,
    started: AtomicUsize,
}

#[async_trait]
impl Combs for ColdCombs {
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>> {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.inner.ready(count).await
    }

    async fn warm(&self, _count: usize) -> Result<Vec<CombAddress>> {
        Ok(Vec::new())
    }

    fn partitions_per_comb(&self, count: usize) -> usize {
        self.inner.partitions_per_comb(count)
    }
}

struct Asked {
    answer: Result<Answer>,
    ran: HashMap<u32, Vec<bool>>,
    combs_started: usize,
}

async fn ask(query: &Value, base: &std::path::Path, inline_bytes: u64, sets: &[&str]) -> Asked {
    let host = host(sets);
    let compute = Arc::new(BoundedCompute { inner: Arc::clone(&host.compute), inline_bytes, ran: Mutex::default() });
    let combs = Arc::new(ColdCombs { inner: Arc::clone(&host.combs), started: AtomicUsize::new(0) });
    let parts = Host { compute: Arc::clone(&compute) as _, combs: Arc::clone(&combs) as _, ..host.host() };
    let fuse = Fuse::new(parts);
    let answer = ask_fuse(&fuse, query, base, sets).await;
    let ran = compute.ran.lock().clone();
    Asked { answer, ran, combs_started: combs.started.load(Ordering::Relaxed) }
}

fn grouped(zones: usize) -> Value {
    statement(zones, "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp", &[("rides", "Parquet", "rides")])
}

const EXPECTED: [&str; 3] = ["cash | 267", "credit | 267", "dispute | 266"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_result_without_warm_combs_is_reduced_inline() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let asked = ask(&grouped(1), dir.path(), u64::MAX, &["tasks=8"]).await;
    let answer = asked.answer.unwrap();
    assert_eq!(sorted_text(&answer.rows), EXPECTED);
    assert_eq!((answer.summary.combs, answer.reruns, asked.combs_started), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reducer_option_is_respected() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    for (choice, zones, combs) in [("comb", 1, 1), ("comb", 3, 3), ("inline", 3, 0), ("auto", 3, 0)] {
        let asked = ask(&grouped(zones), dir.path(), u64::MAX, &["tasks=8", &format!("reducer={choice}")]).await;
        let answer = asked.answer.unwrap();
        assert_eq!(sorted_text(&answer.rows), EXPECTED, "{choice}, {zones} zones");
        assert_eq!(answer.summary.combs, combs, "{choice}, {zones} zones");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_inline_rows_move_to_combs_without_losing_rows() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let all = statement(3, "SELECT grp, id FROM rides", &[("rides", "Parquet", "rides")]);
    let plain = ask(&all, dir.path(), u64::MAX, &["tasks=8", "concurrency=1"]).await;
    let expected = sorted_text(&plain.answer.unwrap().rows);
    assert_eq!(expected.len(), 800);
    let asked = ask(&all, dir.path(), 10, &["tasks=8", "concurrency=1"]).await;
    let answer = asked.answer.unwrap();
    assert_eq!(sorted_text(&answer.rows), expected);
    assert_eq!((answer.summary.combs, answer.reruns, asked.combs_started), (3, 0, 1));
    // The rows of the first task did not fit, so all other tasks delivered to combs.
    assert_eq!(asked.ran[&0], [false, true]);
    assert!(asked.ran.iter().all(|(task, ran)| *task == 0 || *ran == [true]), "{:?}", asked.ran);

    let forced = ask(&all, dir.path(), 10, &["tasks=8", "reducer=inline"]).await.answer.unwrap_err();
    assert_eq!(forced.kind, ErrorKind::Limit);
    assert!(forced.to_string().contains("option `reducer`"), "{forced}");
}

/// Returns an outcome that is too large for the last task.
#[derive(Debug)]
struct LastTooLarge(BoundedCompute);

#[async_trait]
impl Compute for LastTooLarge {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let outcome = self.0.run(task, refused).await?;
        let too_large = task.combs.is_empty() && task.task.0 == 7;
        Ok(if too_large { TaskOutcome { delivered: Delivered::TooLarge, ..outcome } } else { outcome })
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn tasks_min(&self) -> usize {
        self.0.tasks_min()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tasks_with_oversized_rows_run_again() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let sets = ["tasks=8"];
    let host = host(&sets);
    let inner = BoundedCompute { inner: Arc::clone(&host.compute), inline_bytes: u64::MAX, ran: Mutex::default() };
    let compute = Arc::new(LastTooLarge(inner));
    let combs = Arc::new(ColdCombs { inner: Arc::clone(&host.combs), started: AtomicUsize::new(0) });
    let fuse = Fuse::new(Host { compute: Arc::clone(&compute) as _, combs, ..host.host() });
    let answer = ask_fuse(&fuse, &grouped(3), dir.path(), &sets).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), EXPECTED);
    assert_eq!((answer.summary.combs, answer.summary.tasks), (3, 8));
    let ran = compute.0.ran.lock().clone();
    assert_eq!(ran[&7], [false, true]);
    assert!(ran.iter().all(|(task, ran)| *task == 7 || *ran == [false]), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_is_cancelled_through_its_progress() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let host = host(&[]);
    let fuse = Fuse::new(host.host());
    let plan = fuse.plan(&question(&grouped(1), dir.path(), &[]).0).await.unwrap();
    let (progress, mut rows) = (Progress::default(), Rows::new());
    progress.stop(QueryError::cancelled("the query was cancelled"));
    let error = fuse.run(&plan, &progress, &mut rows).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert!(error.to_string().starts_with("the query was cancelled (0 of "), "{error}");
    assert!(host.combs.combs().iter().all(|comb| comb.inboxes().open_queries() == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_rows_of_many_columns_fit_an_outcome() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 100);
    let sums: Vec<String> = (0..60).map(|column| format!("sum(id + {column}) AS s{column}")).collect();
    let sql = format!("SELECT grp, {} FROM rides GROUP BY grp", sums.join(", "));
    let query = statement(1, &sql, &[("rides", "Parquet", "rides")]);
    let asked = ask(&query, dir.path(), 1 << 20, &["tasks=2", "reducer=inline"]).await;
    assert_eq!(asked.answer.unwrap().summary.rows, 3);
}

/// Returns outcomes that count the rows of too few partitions.
#[derive(Debug)]
struct Miscounts(Arc<LocalCompute>);

#[async_trait]
impl Compute for Miscounts {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        Ok(TaskOutcome { rows: Vec::new(), ..self.0.run(task, refused).await? })
    }

    fn concurrency(&self) -> usize {
        2
    }

    fn tasks_min(&self) -> usize {
        2
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcome_with_a_wrong_number_of_partitions_fails_at_once() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 100);
    for reducer in ["reducer=inline", "reducer=comb"] {
        let host = host(&[reducer]);
        let fuse = Fuse::new(Host { compute: Arc::new(Miscounts(Arc::clone(&host.compute))), ..host.host() });
        let error = ask_fuse(&fuse, &grouped(1), dir.path(), &[reducer]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal, "{error}");
        assert!(error.message.contains("counts the rows of 0 partitions"), "{error}");
    }
}
