//! Counts of a query that runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use buzz_protocol::{QueryError, QueryId, Requests, Result, StageId, TaskIndex, TaskOutcome, milliseconds};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Attempt, CombStarts, StageSummary, Timeline, Used};

/// Counts that grow while a query runs, its warnings, and the switch that ends it.
#[derive(Debug)]
pub struct Progress {
    /// Tasks of all map stages.
    pub tasks: AtomicU64,
    /// Tasks whose delivery was accepted.
    pub tasks_done: AtomicU64,
    /// Attempts beyond each task's first.
    pub retries: AtomicU64,
    /// Attempts that no worker took. They are among the retries, and nothing of them ran.
    pub refusals: AtomicU64,
    /// Attempts beside one that took much longer than the other tasks. They are among the retries.
    pub stragglers: AtomicU64,
    /// Rows that the scans of accepted tasks produced.
    pub rows_scanned: AtomicU64,
    /// Bytes that the scans of accepted tasks read.
    pub bytes_scanned: AtomicU64,
    /// Rows that accepted tasks delivered.
    pub rows_delivered: AtomicU64,
    /// Bytes of these rows in memory.
    pub bytes_delivered: AtomicU64,
    /// Accepted tasks whose rows an earlier query kept.
    pub tasks_reused: AtomicU64,
    /// Runs of the whole query beyond the first.
    pub reruns: AtomicU64,
    /// Milliseconds of all attempts, in all runs of the query.
    pub task_milliseconds: AtomicU64,
    /// Attempts that were started, in all runs of the query.
    pub invocations: AtomicU64,
    /// Milliseconds for which combs were reserved, summed over combs and runs of the query.
    pub comb_milliseconds: AtomicU64,
    /// Combs that were started for the query.
    pub combs_started: AtomicU64,
    /// Milliseconds of these starts, summed.
    pub comb_start_milliseconds: AtomicU64,
    started: Instant,
    status: Mutex<Status>,
    stop: watch::Sender<Option<QueryError>>,
    warnings: Mutex<Vec<String>>,
    stages: Mutex<BTreeMap<StageId, StageSummary>>,
    first_run: Mutex<Option<QueryId>>,
    requests: Mutex<Requests>,
    timeline: Mutex<Timeline>,
    timeline_max: AtomicUsize,
}

/// State of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for an invocation that answers it.
    Submitted,
    /// It is planned or runs.
    #[default]
    Running,
    /// It is being stopped.
    Cancelling,
}

/// Part of a query's work that is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Planning.
    Plan,
    /// Tasks run.
    Map,
    /// All tasks are done.
    Reduce,
}

/// A copy of the counts at one moment: what a stack reports of a query that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// State of the query.
    pub status: Status,
    /// Id of the query.
    pub query_id: QueryId,
    /// Part of the work that is going on.
    pub phase: Phase,
    /// Tasks of all map stages.
    pub tasks: u64,
    /// Tasks whose delivery was accepted.
    pub tasks_done: u64,
    /// Rows that the scans of accepted tasks produced.
    pub rows_scanned: u64,
    /// Bytes that the scans of accepted tasks read.
    pub bytes_scanned: u64,
    /// Attempts beyond each task's first.
    pub retries: u64,
    /// Milliseconds since the query was started.
    pub milliseconds: u64,
    /// Time at which the report was written, in milliseconds since 1970; 0 if it was not.
    #[serde(default)]
    pub written_ms: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self::of(QueryId::fresh())
    }
}

impl Progress {
    /// Makes the progress of a query whose first run has the id `query`.
    pub fn of(query: QueryId) -> Self {
        Self {
            tasks: AtomicU64::default(),
            tasks_done: AtomicU64::default(),
            retries: AtomicU64::default(),
            refusals: AtomicU64::default(),
            stragglers: AtomicU64::default(),
            rows_scanned: AtomicU64::default(),
            bytes_scanned: AtomicU64::default(),
            rows_delivered: AtomicU64::default(),
            bytes_delivered: AtomicU64::default(),
            tasks_reused: AtomicU64::default(),
            reruns: AtomicU64::default(),
            task_milliseconds: AtomicU64::default(),
            requests: Mutex::default(),
            invocations: AtomicU64::default(),
            comb_milliseconds: AtomicU64::default(),
            combs_started: AtomicU64::default(),
            comb_start_milliseconds: AtomicU64::default(),
            started: Instant::now(),
            status: Mutex::default(),
            stop: watch::Sender::new(None),
            warnings: Mutex::default(),
            stages: Mutex::default(),
            first_run: Mutex::new(Some(query)),
            timeline: Mutex::default(),
            timeline_max: AtomicUsize::default(),
        }
    }

    /// Returns the id of the next run. Every run of a query has its own; the first has the query's.
    pub fn next_run(&self) -> QueryId {
        self.first_run.lock().take().unwrap_or_else(QueryId::fresh)
    }

    /// Adds to one of the counts.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the present value of one of the counts.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Adds requests to buckets: of planning, and of a task that succeeded.
    pub fn add_requests(&self, requests: Requests) {
        *self.requests.lock() += requests;
    }

    /// Returns the requests to buckets so far, in all runs of the query. Those of tasks that failed are not among them.
    pub fn requests(&self) -> Requests {
        *self.requests.lock()
    }

    /// Adds combs that were started for the query.
    pub fn add_starts(&self, starts: CombStarts) {
        Self::add(&self.combs_started, starts.combs);
        Self::add(&self.comb_start_milliseconds, starts.milliseconds);
    }

    /// Returns the resources that the query used so far, in all its runs. Fuse counts from the question until now.
    pub fn used(&self) -> Used {
        Used {
            task_milliseconds: Self::get(&self.task_milliseconds),
            invocations: Self::get(&self.invocations),
            fuse_milliseconds: milliseconds(self.elapsed()),
            comb_milliseconds: Self::get(&self.comb_milliseconds),
            starts: CombStarts {
                combs: Self::get(&self.combs_started),
                milliseconds: Self::get(&self.comb_start_milliseconds),
            },
            requests: self.requests(),
        }
    }

    /// Returns the time since the query was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds warnings for the user.
    pub fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.lock().extend(warnings);
    }

    /// Returns all warnings so far, in order.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// Ends the query with `reason`, once its tasks and combs are released. The first reason counts.
    pub fn stop(&self, reason: QueryError) {
        *self.status.lock() = Status::Cancelling;
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(reason);
            first
        });
    }

    /// Runs `work` unless the query is stopped first.
    ///
    /// # Errors
    /// The errors of `work`, and the reason that [`Progress::stop`] was given.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            reason = self.stopped() => Err(reason),
            done = work => done,
        }
    }

    /// Waits until the query is stopped and returns the reason.
    pub async fn stopped(&self) -> QueryError {
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

    /// Resets the counts of a run before the query is run again. Counts of retries, reruns and cost stay.
    pub fn restart(&self) {
        let counters = [
            &self.tasks_done,
            &self.tasks_reused,
            &self.rows_scanned,
            &self.bytes_scanned,
            &self.rows_delivered,
            &self.bytes_delivered,
        ];
        for counter in counters {
            counter.store(0, Ordering::Relaxed);
        }
        self.stages.lock().clear();
    }

    /// Adds an accepted task of stage `stage`, which belongs to `step`. `attempts` counts the refused ones too.
    pub fn task_done(&self, stage: StageId, step: &str, task: TaskIndex, outcome: &TaskOutcome, attempts: u32) {
        Self::add(&self.tasks_done, 1);
        Self::add(&self.rows_scanned, outcome.rows_scanned);
        Self::add(&self.bytes_scanned, outcome.bytes_scanned);
        Self::add(&self.rows_delivered, outcome.rows.iter().sum());
        Self::add(&self.bytes_delivered, outcome.bytes_delivered);
        self.stages
            .lock()
            .entry(stage)
            .or_insert_with(|| StageSummary::new(stage, step, outcome.rows.len()))
            .add(task, outcome, attempts);
    }

    /// Keeps the first `attempts_max` attempts that end from now on.
    pub fn keep_attempts(&self, attempts_max: usize) {
        self.timeline_max.store(attempts_max, Ordering::Relaxed);
    }

    /// Adds an attempt that has ended to the timeline, if it is kept.
    pub fn attempt_ended(&self, attempt: impl FnOnce() -> Attempt) {
        let attempts_max = self.timeline_max.load(Ordering::Relaxed);
        if attempts_max > 0 {
            self.timeline.lock().add(attempt(), attempts_max);
        }
    }

    /// Returns the attempts that have ended so far and were kept.
    pub fn timeline(&self) -> Timeline {
        self.timeline.lock().clone()
    }

    /// Returns a summary of the accepted tasks of each stage so far, in the order of stages.
    pub fn stages(&self) -> Vec<StageSummary> {
        self.stages.lock().values().cloned().collect()
    }

    /// Copies the counts.
    pub fn report(&self, query: QueryId) -> ProgressReport {
        let (tasks, tasks_done) = (Self::get(&self.tasks), Self::get(&self.tasks_done));
        let phase = match (tasks, tasks_done) {
            (0, _) => Phase::Plan,
            (tasks, done) if done < tasks => Phase::Map,
            _ => Phase::Reduce,
        };
        ProgressReport {
            status: *self.status.lock(),
            query_id: query,
            phase,
            tasks,
            tasks_done,
            rows_scanned: Self::get(&self.rows_scanned),
            bytes_scanned: Self::get(&self.bytes_scanned),
            retries: Self::get(&self.retries),
            milliseconds: milliseconds(self.elapsed()),
            written_ms: 0,
        }
    }

    /// Takes over the counts of a report, from an engine elsewhere.
    pub fn update(&self, report: &ProgressReport) {
        let counts = [
            (&self.tasks, report.tasks),
            (&self.tasks_done, report.tasks_done),
            (&self.rows_scanned, report.rows_scanned),
            (&self.bytes_scanned, report.bytes_scanned),
            (&self.retries, report.retries),
        ];
        for (counter, value) in counts {
            counter.store(value, Ordering::Relaxed);
        }
        *self.status.lock() = report.status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_reason_to_stop_counts() {
        let progress = Progress::default();
        progress.stop(QueryError::limit("too long"));
        progress.stop(QueryError::cancelled("cancelled"));
        assert_eq!(progress.stopped().await.message, "too long");
        let never = progress.unless_stopped(std::future::pending::<Result<()>>()).await;
        assert_eq!(never.unwrap_err().message, "too long");
    }

    #[test]
    fn first_run_has_the_id_of_the_query() {
        let id = QueryId::fresh();
        let progress = Progress::of(id);
        assert_eq!(progress.next_run(), id);
        assert_ne!(progress.next_run(), id);
    }

    #[test]
    fn reports_travel_as_json_with_the_names_of_the_first_version() {
        let id = QueryId::fresh();
        let progress = Progress::of(id);
        progress.tasks.store(2, Ordering::Relaxed);
        let report = progress.report(id);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["status"], &json["phase"]), (&"running".into(), &"map".into()));
        let copy = Progress::default();
        copy.update(&serde_json::from_value(json).unwrap());
        assert_eq!(Progress::get(&copy.tasks), 2);
    }
}
