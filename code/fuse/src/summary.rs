//! Counts of the work that a query did, during the run and at its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use buzz_protocol::{QueryError, QueryId, Result, StageId, TaskIndex, TaskOutcome};
use tokio::sync::watch;

use crate::plan::MapStage;

/// Counters that grow while a query runs. Other threads may read them at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tasks of all map stages.
    pub tasks: AtomicU64,
    /// Tasks whose delivery was accepted.
    pub tasks_done: AtomicU64,
    /// Attempts after the first of each task.
    pub retries: AtomicU64,
    /// Retries because no worker accepted the task, so that nothing ran.
    pub refusals: AtomicU64,
    /// Rows that the scans of the accepted tasks returned.
    pub rows_scanned: AtomicU64,
    /// Bytes that the scans of the accepted tasks read.
    pub bytes_scanned: AtomicU64,
    /// Rows that the accepted tasks delivered.
    pub rows_delivered: AtomicU64,
    /// Size in memory of those rows, in bytes.
    pub bytes_delivered: AtomicU64,
    /// Runs of the whole query after the first.
    pub reruns: AtomicU64,
    /// Sum of the milliseconds of all attempts, including failed ones and earlier runs of the query.
    pub task_milliseconds: AtomicU64,
    /// Requests to storage by tasks that succeeded, if they are counted.
    pub requests: AtomicU64,
    /// The reason to end the query early, once [`Progress::stop`] was called.
    stop: watch::Sender<Option<QueryError>>,
    /// Attempts that ended, in all runs of the query.
    pub invocations: AtomicU64,
    /// Milliseconds for which combs were reserved, summed over all combs and all runs of the query.
    pub comb_milliseconds: AtomicU64,
    /// The work of the accepted tasks, by stage.
    stages: Mutex<BTreeMap<StageId, StageSummary>>,
    /// The id of the query's first run; taken when that run begins.
    first_run: Mutex<Option<QueryId>>,
}

impl Progress {
    /// Creates the counters of a query whose first run has the id `query`. The default uses a random id.
    pub fn of(query: QueryId) -> Self {
        Self { first_run: Mutex::new(Some(query)), ..Self::default() }
    }

    /// Returns the id of the next run. Every run of a query has its own.
    pub(crate) fn next_run(&self) -> QueryId {
        let first = self.first_run.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(QueryId::fresh)
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the current value of a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Ends the query with `reason`, after its tasks and combs were cancelled.
    pub fn stop(&self, reason: QueryError) {
        self.stop.send_replace(Some(reason));
    }

    /// Runs `work` until it completes or [`Progress::stop`] is called.
    ///
    /// # Errors
    /// The error of `work`, or the reason passed to [`Progress::stop`].
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            reason = self.stopped() => Err(reason),
            done = work => done,
        }
    }

    /// Waits until [`Progress::stop`] is called and returns the reason.
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

    /// Resets the counters for a rerun of the query. Retries are kept.
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

    /// Returns the work of the accepted tasks so far, in order of stages.
    pub fn stages(&self) -> Vec<StageSummary> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The work of the accepted tasks of one stage.
#[derive(Debug, Clone, Default)]
pub struct StageSummary {
    /// The stage.
    pub stage: StageId,
    /// The step's name.
    pub step: String,
    /// The milliseconds and the index of each task.
    pub tasks: Vec<(u64, TaskIndex)>,
    /// Sum of the attempts of these tasks.
    pub attempts: u32,
    /// Rows that the scans returned.
    pub rows_scanned: u64,
    /// Bytes that the scans read from storage.
    pub bytes_scanned: u64,
    /// Size in memory of the delivered rows, in bytes.
    pub bytes_delivered: u64,
    /// Rows delivered to each partition, over all combs.
    pub rows_by_partition: Vec<u64>,
}

impl StageSummary {
    /// Returns the rows that were delivered to each of `combs` combs.
    pub fn rows_by_comb(&self, combs: usize) -> Vec<u64> {
        let share = (self.rows_by_partition.len() / combs.max(1)).max(1);
        self.rows_by_partition.chunks(share).map(|rows| rows.iter().sum()).collect()
    }

    /// Returns the median of the tasks' milliseconds, the maximum, and the index of the slowest task. `None` without
    /// tasks.
    pub fn median_and_slowest(&self) -> Option<(u64, u64, TaskIndex)> {
        let mut tasks = self.tasks.clone();
        tasks.sort_unstable();
        let (slowest, task) = *tasks.last()?;
        Some((tasks[(tasks.len() - 1) / 2].0, slowest, task))
    }
}

/// The work of a query that succeeded.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Rows of the result.
    pub rows: u64,
    /// Files that the catalogs list, for all map stages.
    pub files_found: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Tasks of all map stages.
    pub tasks: u64,
    /// Attempts after the first of each task.
    pub retries: u64,
    /// Retries because no worker accepted the task, so that nothing ran.
    pub refusals: u64,
    /// Rows delivered to combs.
    pub rows_delivered: u64,
    /// Bytes delivered to combs.
    pub bytes_delivered: u64,
    /// Combs that reduced; 0 if Fuse reduced.
    pub combs: usize,
    /// The work of the accepted tasks, by stage. A query with a LIMIT may end before all its tasks do.
    pub stages: Vec<StageSummary>,
    /// Time to open the catalogs.
    pub opened_in: Duration,
    /// Time to plan.
    pub planned_in: Duration,
    /// Time from dispatch to the last row.
    pub ran_in: Duration,
}
