//! The traits in which the cloud and one machine differ.

use std::fmt;

use async_trait::async_trait;
use buzz_engine::{Between, CombStarts, Cost, Used};
use buzz_protocol::{CombAddress, HBeeTask, QueryError, QueryId, Result, TaskOutcome};

/// Called each time that no worker takes a task and the call is repeated.
pub type Refused<'a> = &'a (dyn Fn() + Sync);

/// Time that tasks are expected to take at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Bytes that one task reads, decodes and processes in a second. The high bound is the fastest.
    pub bytes_per_second: Between<f64>,
    /// Seconds of a task beside that.
    pub task_seconds: Between<f64>,
}

impl Pace {
    /// Tasks that share the processors and the disks of one machine: from the decompression and aggregation of many columns
    /// (50 MB/s of compressed bytes per thread) to the sum of one (500 MB/s).
    pub const ONE_MACHINE: Self =
        Self { bytes_per_second: Between { low: 50e6, high: 500e6 }, task_seconds: Between { low: 0.001, high: 0.02 } };

    /// Returns the seconds of one task that reads `bytes`.
    pub fn seconds(&self, bytes: u64) -> Between<f64> {
        let (rate, beside) = (&self.bytes_per_second, &self.task_seconds);
        Between { low: beside.low + bytes as f64 / rate.high, high: beside.high + bytes as f64 / rate.low }
    }
}

/// Runs HBee tasks.
#[async_trait]
pub trait Compute: fmt::Debug + Send + Sync {
    /// Runs `task` once and waits for its end. A task that failed is not retried: the caller counts the attempts. A call
    /// that no worker took may be repeated, since nothing ran; `refused` is called each time.
    ///
    /// Dropping the future may stop the task or let it run on. Either way, nothing of it counts.
    ///
    /// # Errors
    /// `Unavailable` if no worker took the task or the worker was lost; otherwise the worker's own error. Each call has
    /// one outcome.
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome>;

    /// Notifies the workers that no outcome of `query` counts any more, if dropping the futures of [`Compute::run`] does not
    /// stop them. Called when a run ends before its tasks.
    async fn abandon(&self, _query: QueryId) {}

    /// Returns the number of tasks that may run at the same time, unless an option overrides it.
    fn concurrency(&self) -> usize;

    /// Returns the time that tasks are expected to take.
    fn pace(&self) -> Pace {
        Pace::ONE_MACHINE
    }

    /// Returns the cost of `used` at list prices. `None` where nothing is billed.
    fn cost(&self, _used: &Used) -> Option<Cost> {
        None
    }

    /// Returns the number of tasks that a stage should have at least, if it has as many splits, so that no worker idles.
    fn tasks_min(&self) -> usize;

    /// Returns true if [`Compute::run`] runs the task at most once and stops it when its future is dropped. Then
    /// deliveries within this process may be read before they are accepted.
    fn runs_once(&self) -> bool {
        false
    }

    /// Returns the bytes of rows, in memory, that one outcome can carry to Fuse; rows beyond it must go to combs. There
    /// is no limit within a process.
    fn inline_bytes(&self) -> u64 {
        u64::MAX
    }
}

/// Has combs ready.
#[async_trait]
pub trait Combs: fmt::Debug + Send + Sync {
    /// Returns `count` combs of this build that passed a health check, and starts those that are missing. The caller
    /// reserves them by opening an inbox on each.
    ///
    /// # Errors
    /// `Unavailable` if fewer can be had.
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>>;

    /// Returns the combs of this build that respond now, at most `count`. Starts none, unless a comb starts at once.
    ///
    /// # Errors
    /// `Unavailable` if the service that knows the combs does not respond.
    async fn warm(&self, count: usize) -> Result<Vec<CombAddress>> {
        self.ready(count).await
    }

    /// Returns false where no comb can be started, as on a stack without combs: there Fuse reduces every query itself.
    fn are_possible(&self) -> bool {
        true
    }

    /// Records that the comb at `address` refused a query, so that others are preferred for some seconds.
    fn avoid(&self, _address: &CombAddress) {}

    /// Returns the error of a query that lost the comb at `address`, if the comb ended for a reason that would end
    /// another comb as well, such as running out of memory.
    async fn fate(&self, _address: &CombAddress) -> Option<QueryError> {
        None
    }

    /// Returns the starts of combs by this value so far. Zero where a comb starts at once and costs nothing.
    fn starts(&self) -> CombStarts {
        CombStarts::default()
    }

    /// Returns the seconds that combs need to start; zero where they start at once.
    fn start_seconds(&self) -> Between<f64> {
        Between::default()
    }

    /// Returns the number of partitions that each of `count` combs should work on at the same time.
    fn partitions_per_comb(&self, count: usize) -> usize;
}
