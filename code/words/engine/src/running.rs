//! A query that runs.

use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{Answer, Progress};

/// A query that runs. Dropping it cancels the query: its tasks and combs are released in the background.
#[derive(Debug)]
pub struct Running {
    progress: Arc<Progress>,
    work: JoinHandle<Result<Answer>>,
    ended: bool,
}

impl Running {
    /// Spawns `work`, which must end soon after [`Progress::stop`] is called on `progress`.
    pub fn spawn(progress: Arc<Progress>, work: impl Future<Output = Result<Answer>> + Send + 'static) -> Self {
        let work = tokio::spawn(work.in_current_span());
        Self { progress, work, ended: false }
    }

    /// Returns the counts and warnings of the query, which grow while it runs.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Cancels the query. [`Running::answer`] then fails with `Cancelled`, once tasks and combs are released.
    pub fn cancel(&self) {
        self.stop(QueryError::cancelled("the query was cancelled"));
    }

    /// Ends the query with `reason`, as [`Running::cancel`] does. The first reason counts.
    pub fn stop(&self, reason: QueryError) {
        self.progress.stop(reason);
    }

    /// Waits for the end of the query. May be dropped and called again until it has returned once.
    ///
    /// # Errors
    /// The first failure of any role, with its kind; the reason that [`Running::stop`] was given; `Internal` after a
    /// panic, or if called again after it has returned.
    pub async fn answer(&mut self) -> Result<Answer> {
        if self.ended {
            return Err(QueryError::internal("the answer of a query was taken twice"));
        }
        let ended = (&mut self.work).await;
        self.ended = true;
        ended.unwrap_or_else(|ended| {
            Err(match ended.try_into_panic() {
                Ok(panic) => QueryError::panicked(panic.as_ref()),
                Err(_) => QueryError::cancelled("the query was stopped because the program ends"),
            })
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.progress.stop(QueryError::cancelled("the query was cancelled: its caller went away"));
        }
    }
}
