//! The traits in which the cloud and one machine differ.

use std::fmt;

use async_trait::async_trait;
use buzz_protocol::{CombAddress, HBeeTask, QueryError, QueryId, Result, TaskOutcome};

/// Called each time that no worker takes a task and the call is repeated.
pub type Refused<'a> = &'a (dyn Fn() + Sync);

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

    /// Returns an estimate of the cost of `tasks` tasks that read `bytes` together, in US dollars. `None` where nothing is
    /// billed.
    fn estimated_usd(&self, _tasks: u64, _bytes: u64) -> Option<f64> {
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

    /// Records that the comb at `address` refused a query, so that others are preferred for some seconds.
    fn avoid(&self, _address: &CombAddress) {}

    /// Returns the error of a query that lost the comb at `address`, if the comb ended for a reason that would end
    /// another comb as well, such as running out of memory.
    async fn fate(&self, _address: &CombAddress) -> Option<QueryError> {
        None
    }

    /// Returns the number of partitions that each of `count` combs should work on at the same time.
    fn partitions_per_comb(&self, count: usize) -> usize;
}
