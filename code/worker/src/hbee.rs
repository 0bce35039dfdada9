//! HBee as a Lambda function: the event is a task, the response is its outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buzz_exchange::TcpNetwork;
use buzz_hbee::HBee;
use buzz_protocol::{HBeeTask, QueryError, Result, TaskOutcome};
use buzz_storage::{Location, Storage};
use serde::{Deserialize, Serialize};

use crate::process::{POOL_PERCENT, now_ms, unpanicked};

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
    /// Storage of tasks that are too large for an event. Separate from the storage of tables, whose bucket options
    /// change with each query.
    own: Storage,
    requests: Arc<AtomicU64>,
}

impl HBeeFunction {
    /// Creates an HBee for a function of `memory_mb` MiB. It reads tables from `tables` and large tasks from `own`;
    /// `requests` counts the requests to both.
    ///
    /// # Errors
    /// `Internal` if there is no directory for temporary files.
    pub fn new(tables: Arc<Storage>, own: Storage, requests: Arc<AtomicU64>, memory_mb: u64) -> Result<Self> {
        let pool = (memory_mb << 20) * POOL_PERCENT / 100;
        let hbee = HBee::new(tables, Arc::new(TcpNetwork::default()), pool)?;
        Ok(Self { hbee, own, requests })
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
        let place = format!("step `{}`, task {}", task.step, task.task);
        let end_ms = match task.deadline_ms {
            Some(query_ms) => query_ms.min(deadline_ms),
            None => deadline_ms,
        };
        let left = Duration::from_millis(end_ms.saturating_sub(now_ms())).saturating_sub(MARGIN);
        let before = self.requests.load(Ordering::Relaxed);
        let query = task.query;
        let ran = tokio::time::timeout(left, unpanicked(self.hbee.run(&task))).await.unwrap_or_else(|_| {
            let whose = if end_ms == deadline_ms {
                "the HBee function reached its timeout; raise the timeout, or make tasks smaller with the options \
                 `task_bytes` or `tasks`"
            } else {
                "the query reached its time limit; raise the option `timeout_seconds`"
            };
            Err(QueryError::limit(whose).at(&place))
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
        let bytes = self.own.read(&Location::parse(uri, std::path::Path::new("/"))?).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| QueryError::internal(format!("cannot decode the task at {uri}: {error}")))
    }
}
