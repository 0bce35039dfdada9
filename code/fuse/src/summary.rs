//! What a query did, while it runs and at its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use buzz_protocol::{QueryError, QueryId, Result, StageId, TaskIndex, TaskOutcome};
use tokio::sync::watch;

use crate::plan::MapStage;

/// Counts that grow while a query runs, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tasks of all map stages.
    pub tasks: AtomicU64,
    /// Tasks whose delivery was accepted.
    pub tasks_done: AtomicU64,
    /// Attempts beyond each task's first.
    pub retries: AtomicU64,
    /// Those of them that no worker took, so that nothing ran.
    pub refusals: AtomicU64,
    /// Rows that the accepted tasks' scans gave.
    pub rows_scanned: AtomicU64,
    /// Bytes that the accepted tasks' scans read.
    pub bytes_scanned: AtomicU64,
    /// Rows that the accepted tasks delivered.
    pub rows_delivered: AtomicU64,
    /// Bytes of those rows in memory.
    pub bytes_delivered: AtomicU64,
    /// Runs of the whole query, beyond the first.
    pub reruns: AtomicU64,
    /// Milliseconds of all accepted tasks together, those of earlier runs of the query among them.
    pub task_milliseconds: AtomicU64,
    /// Requests to storage of the same, where they are counted.
    pub requests: AtomicU64,
    /// Why the query should end, once somebody wants it to.
    stop: watch::Sender<Option<QueryError>>,
    /// Runs of tasks that were begun, in all runs of the query.
    pub invocations: AtomicU64,
    /// Milliseconds in which combs were reserved, of all combs and all runs of the query.
    pub comb_milliseconds: AtomicU64,
    /// What the accepted tasks of each stage did.
    stages: Mutex<BTreeMap<StageId, StageSummary>>,
    /// The id of the query's first run, until that begins.
    first_run: Mutex<Option<QueryId>>,
}

impl Progress {
    /// Of a query whose first run is called `query`. Without it, that has an id that nobody knows.
    pub fn of(query: QueryId) -> Self {
        Self { first_run: Mutex::new(Some(query)), ..Self::default() }
    }

    /// The id of the next run: every run of a query has its own.
    pub(crate) fn next_run(&self) -> QueryId {
        let first = self.first_run.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(QueryId::fresh)
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// The present value of one of the counters.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Ends the query with `reason`, once its tasks and combs were told.
    pub fn stop(&self, reason: QueryError) {
        self.stop.send_replace(Some(reason));
    }

    /// What `work` comes to, unless somebody wants the query to end before.
    ///
    /// # Errors
    /// What [`Progress::stop`] was given.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            reason = self.stopped() => Err(reason),
            done = work => done,
        }
    }

    /// Waits until somebody wants the query to end.
    pub(crate) async fn stopped(&self) -> QueryError {
        let mut stop = self.stop.subscribe();
        loop {
            if let Some(reason) = stop.borrow_and_update().clone() {
                return reason;
            }
            if stop.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Back to the start, for another run of the query; retries are kept.
    pub(crate) fn restart(&self) {
        let counters =
            [&self.tasks_done, &self.rows_scanned, &self.bytes_scanned, &self.rows_delivered, &self.bytes_delivered];
        for counter in counters {
            counter.store(0, Ordering::Relaxed);
        }
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn task_done(&self, stage: &MapStage, task: TaskIndex, outcome: &TaskOutcome, attempts: u32) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = stages.entry(stage.id).or_insert_with(|| StageSummary {
            stage: stage.id,
            step: stage.step.clone(),
            rows_by_partition: vec![0; outcome.rows.len()],
            ..StageSummary::default()
        });
        summary.tasks.push((outcome.milliseconds, task));
        summary.attempts += attempts;
        summary.rows_scanned += outcome.rows_scanned;
        summary.bytes_scanned += outcome.bytes_scanned;
        summary.bytes_delivered += outcome.bytes_delivered;
        for (sum, rows) in summary.rows_by_partition.iter_mut().zip(&outcome.rows) {
            *sum += rows;
        }
    }

    /// What the accepted tasks of each stage did so far, by stage.
    pub fn stages(&self) -> Vec<StageSummary> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// What the accepted tasks of one stage did.
#[derive(Debug, Clone, Default)]
pub struct StageSummary {
    /// The stage.
    pub stage: StageId,
    /// The step's name.
    pub step: String,
    /// Milliseconds that each task took, and which it was.
    pub tasks: Vec<(u64, TaskIndex)>,
    /// Attempts of all of them.
    pub attempts: u32,
    /// Rows that the scans gave.
    pub rows_scanned: u64,
    /// Bytes that the scans read from storage.
    pub bytes_scanned: u64,
    /// Bytes of the delivered rows in memory.
    pub bytes_delivered: u64,
    /// Rows that were delivered, by partition of all combs.
    pub rows_by_partition: Vec<u64>,
}

impl StageSummary {
    /// Rows that were delivered to each of `combs` combs.
    pub fn rows_by_comb(&self, combs: usize) -> Vec<u64> {
        let share = (self.rows_by_partition.len() / combs.max(1)).max(1);
        self.rows_by_partition.chunks(share).map(|rows| rows.iter().sum()).collect()
    }

    /// The median of the tasks' milliseconds, and the slowest task's with its place. None without tasks.
    pub fn median_and_slowest(&self) -> Option<(u64, u64, TaskIndex)> {
        let mut tasks = self.tasks.clone();
        tasks.sort_unstable();
        let (slowest, task) = *tasks.last()?;
        Some((tasks[(tasks.len() - 1) / 2].0, slowest, task))
    }
}

/// What an answered query did.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Rows of the result.
    pub rows: u64,
    /// Files that the catalogs named, for all map stages.
    pub files_found: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Tasks.
    pub tasks: u64,
    /// Attempts beyond each task's first.
    pub retries: u64,
    /// Those of them that no worker took, so that nothing ran.
    pub refusals: u64,
    /// Rows delivered to combs.
    pub rows_delivered: u64,
    /// Bytes delivered to combs.
    pub bytes_delivered: u64,
    /// Combs that reduced; 0 if Fuse did.
    pub combs: usize,
    /// What the tasks of each stage did. A query with a LIMIT may end before all its tasks have.
    pub stages: Vec<StageSummary>,
    /// Time to open the catalogs.
    pub opened_in: Duration,
    /// Time to plan.
    pub planned_in: Duration,
    /// Time from dispatch to the last row.
    pub ran_in: Duration,
}
