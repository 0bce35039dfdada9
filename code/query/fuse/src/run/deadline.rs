//! The moment at which a query ends in any case.

use std::time::Duration;

use buzz_engine::Progress;
use buzz_plan::QueryPlan;
use buzz_protocol::{QueryError, Result, now_ms};

/// The deadline of a query, and the progress by which it can be stopped earlier.
pub(crate) struct Deadline<'a> {
    pub(crate) progress: &'a Progress,
    /// The time that the query may take in total.
    timeout: Duration,
    at: tokio::time::Instant,
    /// The deadline in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

impl<'a> Deadline<'a> {
    pub(crate) fn new(plan: &QueryPlan, progress: &'a Progress) -> Self {
        let timeout = plan.options.timeout();
        let left = timeout.saturating_sub(plan.opened_in + plan.planned_in);
        let at_ms = now_ms().saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX / 2));
        let at = tokio::time::Instant::now() + left;
        Self { progress, timeout, at, at_ms }
    }

    /// Runs `work` until it completes, the query is stopped or its deadline passes.
    pub(crate) async fn unless<T, E: From<QueryError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            reason = self.progress.stopped() => Err(E::from(self.with_done(reason))),
            done = work => done,
            () = tokio::time::sleep_until(self.at) => {
                Err(E::from(self.with_done(out_of_time(self.timeout))))
            }
        }
    }

    /// Appends the number of finished tasks to the message of `error`.
    fn with_done(&self, error: QueryError) -> QueryError {
        let (tasks, done) = (Progress::get(&self.progress.tasks), Progress::get(&self.progress.tasks_done));
        QueryError { message: format!("{} ({done} of {tasks} tasks were done)", error.message), ..error }
    }
}

/// Returns the error of a query that exceeds `timeout`.
pub(crate) fn out_of_time(timeout: Duration) -> QueryError {
    let seconds = timeout.as_secs();
    QueryError::limit(format!("the query took more than {seconds} seconds; raise the option `timeout_seconds`"))
}
