//! The traits that hide the differences between the cloud and one machine.

use std::fmt;

use async_trait::async_trait;
use buzz_protocol::{CombAddress, HBeeTask, QueryError, Result, TaskOutcome};

/// Callback for each time that no worker accepts a task and the call is repeated.
pub type Refused<'a> = &'a (dyn Fn() + Sync);

/// Runs HBee tasks.
#[async_trait]
pub trait Compute: fmt::Debug + Send + Sync {
    /// Runs `task` once and waits for its end. Does not retry a failed task: the caller has the attempts and the
    /// deadline. Dropping the future may stop the task or let it run on; its outcome is discarded in both cases. If no
    /// worker accepts the call, nothing ran, so an implementation may repeat it; it then calls `refused`.
    ///
    /// # Errors
    /// `Unavailable` when no worker accepted the task; otherwise the error that the worker itself reported. Each call
    /// has one outcome, even if the worker dies.
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome>;

    /// Returns the default maximum number of concurrent tasks; an option can override it.
    fn concurrency(&self) -> usize;

    /// Returns the minimum number of tasks that a stage with enough splits should have, so that no worker is idle.
    fn tasks_min(&self) -> usize;

    /// Returns true if a call of [`Compute::run`] runs the task at most once and dropping its future stops the task.
    /// Deliveries within this process can then be read before they are accepted.
    fn runs_once(&self) -> bool {
        false
    }

    /// Returns the maximum bytes of rows, in memory, that one outcome can carry to Fuse. More rows must go to combs.
    /// Within one process rows are passed by reference, and there is no bound.
    fn inline_bytes(&self) -> u64 {
        u64::MAX
    }
}

/// Provides combs that are ready to reduce.
#[async_trait]
pub trait Combs: fmt::Debug + Send + Sync {
    /// Returns `count` combs of this build that passed a health check, starting them if necessary. The caller reserves
    /// them by opening an inbox.
    ///
    /// # Errors
    /// `Unavailable` when fewer than `count` combs are ready.
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>>;

    /// Returns the combs of this build that respond now, and starts none. Combs within this process are available at
    /// any time, so the default returns [`Combs::ready`].
    ///
    /// # Errors
    /// `Unavailable` when the running combs cannot be listed.
    async fn warm(&self, count: usize) -> Result<Vec<CombAddress>> {
        self.ready(count).await
    }

    /// Reports that the comb at `address` refused a query, so that [`Combs::ready`] prefers other combs.
    fn avoid(&self, _address: &CombAddress) {}

    /// Returns the error to fail the query with if the comb at `address` stopped for a reason that would also stop the
    /// next comb.
    async fn fate(&self, _address: &CombAddress) -> Option<QueryError> {
        None
    }

    /// Returns the number of partitions that each of `count` combs should process at the same time.
    fn partitions_per_comb(&self, count: usize) -> usize;
}
