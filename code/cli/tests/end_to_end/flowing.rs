//! Tests flowing deliveries, which are read before they are committed. Each task runs once, in this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use buzz_cli::local::{LocalCompute, LocalHost};
use buzz_fuse::{Compute, Fuse, Refused};
use buzz_protocol::{HBeeTask, QueryError, Result, TaskOutcome};
use buzz_testkit::sorted_text;
use serde_json::Value;
use tempfile::tempdir;

use crate::common::{ask_fuse, host, statement, steps};
use crate::tables::parquet_folder;

fn totals(zones: usize) -> Value {
    steps(
        zones,
        &[("m", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp")],
        &[("r", "SELECT grp, SUM(n) AS n FROM m GROUP BY grp")],
        &[("rides", "Parquet", "rides")],
    )
}

fn fuse(host: &LocalHost, compute: impl Compute + 'static) -> Fuse {
    let (storage, network) = (Arc::clone(&host.storage), Arc::clone(&host.network));
    Fuse::new(storage, Arc::new(compute), Arc::clone(&host.combs) as _, network)
}

/// Loses the outcome of the first task after its delivery. Deliveries are flowing.
#[derive(Debug)]
struct FlowsAndDies {
    inner: Arc<LocalCompute>,
    died: AtomicBool,
}

#[async_trait]
impl Compute for FlowsAndDies {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let outcome = self.inner.run(task, refused).await?;
        if self.died.swap(true, Ordering::Relaxed) { Ok(outcome) } else { Err(QueryError::unavailable("it died")) }
    }

    fn concurrency(&self) -> usize {
        2
    }

    fn tasks_min(&self) -> usize {
        4
    }

    fn runs_once(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_read_from_a_lost_task_are_not_counted_twice() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    for zones in [1, 3] {
        let host = host(&[]);
        let fuse = fuse(&host, FlowsAndDies { inner: Arc::clone(&host.compute), died: AtomicBool::new(false) });
        let answer = ask_fuse(&fuse, &totals(zones), dir.path(), &[]).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), ["cash | 267", "credit | 267", "dispute | 266"]);
        assert_eq!((answer.reruns, answer.summary.retries), (1, 1));
        assert!(host.combs.combs().iter().all(|comb| comb.inboxes().open_queries() == 0));
    }
}

/// Records the order in which tasks of each step begin and end.
#[derive(Debug)]
struct Remembers {
    inner: Arc<LocalCompute>,
    events: Arc<Mutex<Vec<(String, &'static str)>>>,
}

#[async_trait]
impl Compute for Remembers {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        self.events.lock().unwrap().push((task.step.clone(), "begins"));
        let outcome = self.inner.run(task, refused).await;
        self.events.lock().unwrap().push((task.step.clone(), "ends"));
        outcome
    }

    fn concurrency(&self) -> usize {
        3
    }

    fn tasks_min(&self) -> usize {
        4
    }

    fn runs_once(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_side_of_a_join_starts_after_its_build_side_is_complete() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let sql = "SELECT COUNT(*), MAX(b.id) FROM rides a JOIN rides b ON a.id = b.id + 1";
    for zones in [1, 3] {
        let host = host(&[]);
        let events = Arc::new(Mutex::new(Vec::new()));
        let fuse = fuse(&host, Remembers { inner: Arc::clone(&host.compute), events: Arc::clone(&events) });
        let query = statement(zones, sql, &[("rides", "Parquet", "rides")]);
        let sets = ["build_bytes=0", "split_bytes=1"];
        let answer = ask_fuse(&fuse, &query, dir.path(), &sets).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), ["799 | 798"]);
        let events = events.lock().unwrap();
        let last = events.iter().rposition(|event| *event == ("map_0".to_string(), "ends")).unwrap();
        let first = events.iter().position(|event| *event == ("map_1".to_string(), "begins")).unwrap();
        assert!(last < first || zones > 1, "{events:?}");
        assert_eq!(events.len(), 16, "four tasks of each step begin and end");
    }
}
