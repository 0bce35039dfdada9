//! HBee as a Lambda function: the event is a task, the response is its outcome or its failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_exchange::{InboxNetwork, TcpNetwork};
use buzz_hbee::HBee;
use buzz_protocol::{ErrorKind, HBeeTask, QueryError, QueryId, Result, TaskOutcome, exchange_of, milliseconds};
use buzz_storage::{Location, QueryStores, Stores};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::metrics::Measured;
use crate::process::{POOL_PERCENT, unpanicked};

/// Time before the deadline at which a task is stopped, so that the failure is still reported with its kind.
const MARGIN: Duration = Duration::from_millis(500);

/// Interval at which a task looks if its query is still open on a comb.
const LOOK_AT_COMB_EVERY: Duration = Duration::from_secs(1);

/// Interval at which a task looks in storage if its query has ended.
const LOOK_AT_STORE_EVERY: Duration = Duration::from_secs(3);

/// Name of the object that Fuse stores for a query whose tasks do not count any more, below the query's objects.
pub const ENDED: &str = "tasks/ended";

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
    hbee: Arc<HBee>,
    network: Arc<TcpNetwork>,
    /// Reaches the stack's own objects, and counts the requests to them.
    stack: Arc<QueryStores>,
    /// Location of the stack's own objects.
    own: Location,
}

impl HBeeFunction {
    /// Creates an HBee for a function of `memory_mb` MiB. It reads tables from `stores`, and large tasks
    /// from below `own`.
    ///
    /// # Errors
    /// `Internal` if there is no directory for temporary files.
    pub fn new(stores: Arc<Stores>, own: Location, memory_mb: u64) -> Result<Self> {
        let pool = (memory_mb << 20) * POOL_PERCENT / 100;
        let network = Arc::new(TcpNetwork::default());
        let hbee = Arc::new(HBee::new(Arc::clone(&stores), Arc::clone(&network) as _, pool)?);
        Ok(Self { hbee, network, stack: stores.for_stack(), own })
    }

    /// Runs the task of `event` until the earlier of the function's deadline and the query's. `deadline_ms` is the
    /// function's deadline in milliseconds since 1970.
    ///
    /// # Errors
    /// The errors of [`HBee::run`], and `Limit` if the deadline passes.
    pub async fn answer(&self, event: HBeeEvent, deadline_ms: u64) -> Result<TaskOutcome> {
        let before = self.stack.requests();
        let task = match event {
            HBeeEvent::Task(task) => Arc::from(task),
            HBeeEvent::TaskAt(uri) => Arc::new(self.read_task(&uri).await?),
        };
        if let Some(objects) = &task.objects
            && !is_exchange(objects, task.query, &self.own)
        {
            return Err(QueryError::invalid("the task does not name a place for deliveries of this stack"));
        }
        let end_ms = match task.deadline_ms {
            Some(query_ms) => query_ms.min(deadline_ms),
            None => deadline_ms,
        };
        let left = Duration::from_millis(end_ms.saturating_sub(buzz_protocol::now_ms())).saturating_sub(MARGIN);
        let (query, started) = (task.query, Instant::now());
        let ran = tokio::time::timeout(left, self.run(&task)).await.unwrap_or_else(|_| {
            let whose = if end_ms == deadline_ms {
                "the HBee function reached its timeout; raise the timeout, or make tasks smaller with the options \
                 `task_bytes` or `tasks`"
            } else {
                "the query reached its time limit; raise the option `timeout_seconds`"
            };
            Err(QueryError::limit(whose).at_task(&task.step, task.task))
        });
        Measured::of_task(query, milliseconds(started.elapsed()), &ran).write();
        let mut outcome = ran.inspect_err(|error| {
            let (kind, error) = (error.kind, error.without_values());
            tracing::error!(query_id = %query, attempt = task.attempt, %kind, error, "task failed");
        })?;
        outcome.requests += self.stack.requests() - before;
        tracing::info!(
            query_id = %query,
            step = task.step,
            task = %task.task,
            attempt = task.attempt,
            comb = task.combs.first().map(tracing::field::display),
            rows_scanned = outcome.rows_scanned,
            bytes_scanned = outcome.bytes_scanned,
            requests = outcome.requests.total(),
            rows_delivered = outcome.rows.iter().sum::<u64>(),
            milliseconds = outcome.milliseconds,
            "task done"
        );
        Ok(outcome)
    }

    /// Runs `task` until its query ends. It runs beside this future, which an operator could keep waiting for seconds.
    async fn run(&self, task: &Arc<HBeeTask>) -> Result<TaskOutcome> {
        let (hbee, own) = (Arc::clone(&self.hbee), Arc::clone(task));
        let mut running = JoinSet::new();
        running.spawn(async move { unpanicked(hbee.run(&own)).await });
        tokio::select! {
            ran = running.join_next() => match ran {
                Some(Ok(ran)) => ran,
                _ => Err(QueryError::internal("the thread of a task was lost")),
            },
            () = self.query_ended(task) => {
                Err(QueryError::cancelled("the query has ended").at_task(&task.step, task.task))
            }
        }
    }

    /// Waits until no outcome of `task` counts any more: a comb has closed the query, or Fuse has stored that it has ended.
    async fn query_ended(&self, task: &HBeeTask) {
        let Some(comb) = task.combs.first() else {
            return self.end_is_stored(task.query).await;
        };
        loop {
            tokio::time::sleep(LOOK_AT_COMB_EVERY).await;
            let looked = match self.network.inbox(comb, &task.token).await {
                Ok(inbox) => inbox.check_open(task.query).await,
                Err(error) => Err(error),
            };
            if looked.is_err_and(|error| error.kind == ErrorKind::Cancelled) {
                return;
            }
        }
    }

    /// Waits until the object exists with which Fuse ends a query that it reduces itself. Most tasks are done before the
    /// first request, each of which is paid for.
    async fn end_is_stored(&self, query: QueryId) {
        let Ok(place) = self.own.join(&format!("queries/{query}/{ENDED}")) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK_AT_STORE_EVERY).await;
            if self.stack.size(&place).await.is_ok() {
                return;
            }
        }
    }

    async fn read_task(&self, uri: &str) -> Result<HBeeTask> {
        let place = Location::parse(uri, std::path::Path::new("/"))?;
        if !is_task(&place, &self.own) {
            return Err(QueryError::invalid("the event does not name a task of this stack"));
        }
        let bytes = self.stack.read(&place).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| QueryError::internal(format!("cannot decode the task at {uri}: {error}")))
    }
}

/// Returns true if `objects` is the place of the deliveries of `query` below `own`.
fn is_exchange(objects: &str, query: QueryId, own: &Location) -> bool {
    let place = Location::parse(objects, std::path::Path::new("/"));
    let expected = own.join(&exchange_of(query));
    matches!((place, expected), (Ok(place), Ok(expected)) if place == expected)
}

/// Returns true if `place` is that of a task, `queries/<query id>/tasks/<name>`, below `own`.
fn is_task(place: &Location, own: &Location) -> bool {
    let Some(parts) = place.path.prefix_match(&own.path) else {
        return false;
    };
    let parts: Vec<_> = parts.collect();
    place.store == own.store
        && matches!(parts.as_slice(), [queries, _, tasks, _] if queries.as_ref() == "queries" && tasks.as_ref() == "tasks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tasks_are_read_from_the_stacks_own_objects() {
        let place = |uri: &str| Location::parse(uri, std::path::Path::new("/")).unwrap();
        let own = place("s3://stack/results/");
        assert!(is_task(&place("s3://stack/results/queries/7/tasks/0-1-1.json"), &own));
        for other in [
            "s3://stack/results/queries/7/request.json",
            "s3://stack/results/queries/7/tasks",
            "s3://other/results/queries/7/tasks/0-1-1.json",
            "s3://stack/other/queries/7/tasks/0-1-1.json",
            "/results/queries/7/tasks/0-1-1.json",
        ] {
            assert!(!is_task(&place(other), &own), "{other}");
        }
    }

    #[test]
    fn deliveries_are_written_only_to_the_place_of_their_query() {
        let own = Location::parse("s3://stack/results/", std::path::Path::new("/")).unwrap();
        let query = QueryId::fresh();
        assert!(is_exchange(&format!("s3://stack/results/exchange/{query}"), query, &own));
        for other in [
            format!("s3://stack/results/exchange/{}", QueryId::fresh()),
            format!("s3://stack/results/exchange/{query}/.."),
            format!("s3://other/results/exchange/{query}"),
            "s3://stack/results/names.json".to_string(),
            "elsewhere".to_string(),
        ] {
            assert!(!is_exchange(&other, query, &own), "{other}");
        }
    }
}
