//! HBee as a Lambda function: the event is a task, the response is its outcome or its failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buzz_exchange::TcpNetwork;
use buzz_hbee::HBee;
use buzz_protocol::{HBeeTask, QueryError, Result, TaskOutcome};
use buzz_storage::{Location, Stores};
use serde::{Deserialize, Serialize};

use crate::process::{POOL_PERCENT, unpanicked};

/// Time before the deadline at which a task is stopped, so that the failure is still reported with its kind.
const MARGIN: Duration = Duration::from_millis(500);

/// An event sent to the HBee function.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HBeeEvent {
    /// A task.
    Task(Box<HBeeTask>),
    /// The URI of a task that is too large for an event.
    TaskAt(String),
}

/// The answer of the HBee function to an event. The failure of a task is an answer, so that it reaches Fuse whole: the
/// service keeps only two texts of an error. The invocation fails only if the process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HBeeAnswer {
    /// The outcome of the task.
    Done(Box<TaskOutcome>),
    /// The failure of the task.
    Failed(QueryError),
}

impl From<Result<TaskOutcome>> for HBeeAnswer {
    fn from(ran: Result<TaskOutcome>) -> Self {
        match ran {
            Ok(outcome) => Self::Done(Box::new(outcome)),
            Err(error) => Self::Failed(error),
        }
    }
}

impl From<HBeeAnswer> for Result<TaskOutcome> {
    fn from(answer: HBeeAnswer) -> Self {
        match answer {
            HBeeAnswer::Done(outcome) => Ok(*outcome),
            HBeeAnswer::Failed(error) => Err(error),
        }
    }
}

impl HBeeEvent {
    /// Encodes the event as JSON.
    ///
    /// # Errors
    /// `Internal` if it cannot be encoded.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| QueryError::internal(format!("cannot encode a task as JSON: {error}")))
    }
}

/// Handles the events of one process, one at a time.
#[derive(Debug)]
pub struct HBeeFunction {
    hbee: HBee,
    stores: Arc<Stores>,
    requests: Arc<AtomicU64>,
}

impl HBeeFunction {
    /// Creates an HBee for a function of `memory_mb` MiB. It reads tables and large tasks from `stores`, whose requests
    /// `requests` counts.
    ///
    /// # Errors
    /// `Internal` if there is no directory for temporary files.
    pub fn new(stores: Arc<Stores>, requests: Arc<AtomicU64>, memory_mb: u64) -> Result<Self> {
        let pool = (memory_mb << 20) * POOL_PERCENT / 100;
        let hbee = HBee::new(Arc::clone(&stores), Arc::new(TcpNetwork::default()), pool)?;
        Ok(Self { hbee, stores, requests })
    }

    /// Runs the task of `event` until the earlier of the function's deadline and the query's. `deadline_ms` is the
    /// function's deadline in milliseconds since 1970.
    ///
    /// # Errors
    /// The errors of [`HBee::run`], and `Limit` if the deadline passes.
    pub async fn answer(&self, event: HBeeEvent, deadline_ms: u64) -> Result<TaskOutcome> {
        let task = match event {
            HBeeEvent::Task(task) => task,
            HBeeEvent::TaskAt(uri) => Box::new(self.read_task(&uri).await?),
        };
        let end_ms = match task.deadline_ms {
            Some(query_ms) => query_ms.min(deadline_ms),
            None => deadline_ms,
        };
        let left = Duration::from_millis(end_ms.saturating_sub(buzz_protocol::now_ms())).saturating_sub(MARGIN);
        let before = self.requests.load(Ordering::Relaxed);
        let query = task.query;
        let ran = tokio::time::timeout(left, unpanicked(self.hbee.run(&task))).await.unwrap_or_else(|_| {
            let whose = if end_ms == deadline_ms {
                "the HBee function reached its timeout; raise the timeout, or make tasks smaller with the options \
                 `task_bytes` or `tasks`"
            } else {
                "the query reached its time limit; raise the option `timeout_seconds`"
            };
            Err(QueryError::limit(whose).at_task(&task.step, task.task))
        });
        let mut outcome = ran.inspect_err(|error| {
            tracing::error!(query_id = %query, attempt = task.attempt, kind = %error.kind, %error, "task failed");
        })?;
        outcome.requests = self.requests.load(Ordering::Relaxed) - before;
        tracing::info!(
            query_id = %query,
            step = task.step,
            task = %task.task,
            attempt = task.attempt,
            rows_scanned = outcome.rows_scanned,
            bytes_scanned = outcome.bytes_scanned,
            requests = outcome.requests,
            rows_delivered = outcome.rows.iter().sum::<u64>(),
            milliseconds = outcome.milliseconds,
            "task done"
        );
        Ok(outcome)
    }

    async fn read_task(&self, uri: &str) -> Result<HBeeTask> {
        let bytes = self.stores.for_query().read(&Location::parse(uri, std::path::Path::new("/"))?).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| QueryError::internal(format!("cannot decode the task at {uri}: {error}")))
    }
}
