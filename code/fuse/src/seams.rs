//! What differs between the cloud and one machine.

use std::fmt;

use async_trait::async_trait;
use buzz_protocol::{CombAddress, HBeeTask, QueryError, Result, TaskOutcome};

/// Called each time that no worker takes a task and it is asked again.
pub type Refused<'a> = &'a (dyn Fn() + Sync);

/// Runs HBee tasks somewhere.
#[async_trait]
pub trait Compute: fmt::Debug + Send + Sync {
    /// Runs `task` once and waits for its end. A task that failed is not run again: the caller knows how often it may.
    /// Dropping the future may stop the task or let it run on; either way nothing of it counts. A call that no worker took
    /// may be repeated here, since nothing ran; `refused` hears of it.
    ///
    /// # Errors
    /// `Unavailable` when no worker took the task; otherwise the error that the worker itself reported. There is one
    /// outcome per call, also when the worker dies.
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome>;

    /// Tasks that may run at the same time, unless an option says otherwise.
    fn concurrency(&self) -> usize;

    /// Tasks that a stage should at least have, if it has as many splits, so that no worker idles.
    fn tasks_min(&self) -> usize;

    /// Whether a call of [`Compute::run`] runs the task at most once, and nothing of it goes on when its future is dropped.
    /// Then deliveries within this process need not be held back until they are accepted.
    fn runs_once(&self) -> bool {
        false
    }

    /// Bytes of rows, in memory, that one outcome can carry to Fuse; more of them must go to combs. Within a process
    /// they are handed over as they are, and there is no bound.
    fn inline_bytes(&self) -> u64 {
        u64::MAX
    }
}

/// Has combs ready.
#[async_trait]
pub trait Combs: fmt::Debug + Send + Sync {
    /// `count` combs of this build that answered a health check. The caller reserves them by opening an inbox.
    ///
    /// # Errors
    /// `Unavailable` when there are not so many.
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>>;

    /// The combs of this build that answer right now; nothing is started. Those that run in this process can be there at
    /// any time, so that they count.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be found out.
    async fn warm(&self, count: usize) -> Result<Vec<CombAddress>> {
        self.ready(count).await
    }

    /// Says that the comb at `address` refused a query: another one should be offered for a while.
    fn avoid(&self, _address: &CombAddress) {}

    /// What a query fails with because of how the comb at `address` ended, if it is gone for a reason that another comb
    /// would soon have as well.
    async fn fate(&self, _address: &CombAddress) -> Option<QueryError> {
        None
    }

    /// Partitions that each of `count` combs should work on at the same time.
    fn partitions_per_comb(&self, count: usize) -> usize;
}
