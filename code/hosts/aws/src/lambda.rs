//! Runs HBee tasks as invocations of a Lambda function.

mod connections;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_lambda::operation::RequestId;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use buzz_engine::{Cost, Used};
use buzz_host::{Compute, Pace, Refused};
use buzz_protocol::{HBeeTask, QueryError, QueryId, Result, TaskOutcome};
use buzz_worker::hbee::{ENDED, HBeeAnswer, HBeeEvent};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::connections::{CALLS_PER_CONNECTION, Connections};
use crate::failure;
use crate::price::{HBEE_PACE, Sizes};
use crate::results::Results;
use crate::settings::HBeeSettings;

/// Maximum payload of a synchronous invocation. Lambda's limit is
/// [6 MB](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html); the rest is for headers.
const PAYLOAD_BYTES_MAX: usize = 11 << 19;

/// Maximum bytes in memory of the rows of an outcome. In base64 they stay below the 6 MB of an answer, even if
/// compression does not reduce them.
const INLINE_BYTES_MAX: u64 = 4_500_000;

/// File descriptors reserved for the store, combs, the log and the runtime.
const DESCRIPTORS_KEPT: usize = 100;

/// Maximum KiB of the payloads of all calls that run, approximately. They are in memory until their call ends.
const PAYLOADS_KIB_MAX: u32 = 256 << 10;

/// First and longest pause of the exponential backoff while all workers are busy or the function is not ready.
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Maximum time to wait for a worker. AWS takes minutes to restore the network of a function that was idle for weeks.
const WAIT_IN_ALL: Duration = Duration::from_secs(300);

/// Maximum time to tell HBees that their query has ended. The caller of the query waits for it.
const ABANDON_MAX: Duration = Duration::from_secs(2);

/// Maximum bytes of an unreadable answer in the error message.
const SHOWN_BYTES: usize = 200;

/// Runs each task as one invocation.
#[derive(Debug)]
pub struct LambdaCompute {
    /// Connections of the first attempts of tasks.
    first: Connections,
    /// Connections of other attempts, such as those beside a first attempt whose connection no longer responds.
    again: Connections,
    function: HBeeSettings,
    results: Results,
    sizes: Sizes,
    invocations: Arc<Semaphore>,
    /// KiB of payloads that may be in memory.
    payloads: Semaphore,
    concurrency: usize,
}

impl LambdaCompute {
    /// Creates a client that invokes `function`. The read timeout of `sdk` must exceed the function's timeout.
    /// Oversized payloads are passed through `results`. The cost of queries depends on the `sizes` of the stack.
    pub fn new(sdk: &SdkConfig, function: HBeeSettings, results: Results, sizes: Sizes) -> Self {
        let own_url = std::env::var("AWS_ENDPOINT_URL_LAMBDA").ok();
        let shared_by = calls_per_connection(sdk, own_url.as_deref());
        let concurrency = concurrency(function.concurrency, descriptors_max(), shared_by);
        let invocations = Arc::new(Semaphore::new(concurrency));
        let payloads = Semaphore::new(PAYLOADS_KIB_MAX as usize);
        let (first, again) = (Connections::new(sdk, shared_by), Connections::new(sdk, shared_by));
        Self { first, again, function, results, sizes, invocations, payloads, concurrency }
    }

    /// Opens a connection to the service, so that the first task does not wait for it. Nothing runs. A failure is only
    /// logged; the first task will report it.
    pub async fn connect(&self) {
        self.first.connect(&self.function.function).await;
    }

    /// Waits until the payload of `task` may be in memory, beside those of the calls that run.
    async fn room(&self, task: &HBeeTask) -> SemaphorePermit<'_> {
        let kib = u32::try_from(about_bytes(task) >> 10).unwrap_or(u32::MAX);
        let permits = kib.clamp(1, PAYLOADS_KIB_MAX);
        self.payloads.acquire_many(permits).await.expect("the semaphore is never closed")
    }

    async fn payload(&self, task: &HBeeTask) -> Result<Vec<u8>> {
        let payload = HBeeEvent::Task(Box::new(task.clone())).to_json()?;
        if payload.len() <= PAYLOAD_BYTES_MAX {
            return Ok(payload);
        }
        let name = format!("tasks/{}-{}-{}.json", task.stage, task.task, task.attempt);
        let place = self.results.of_query(task.query, &name)?;
        self.results.put_json(&place, task).await?;
        HBeeEvent::TaskAt(place.to_string()).to_json()
    }

    /// Invokes the function with `payload`, which has `task`. Returns its response.
    async fn invoke(
        &self,
        task: &HBeeTask,
        payload: Vec<u8>,
        deadline: Instant,
        refused: Refused<'_>,
    ) -> Result<Vec<u8>> {
        let function = &self.function.function;
        let payload = Blob::new(payload);
        let mut wait = WAIT_FIRST;
        loop {
            let connections = if task.attempt > 1 { &self.again } else { &self.first };
            let leased = connections.lease(function).await;
            let call = leased.client.invoke().function_name(function).payload(payload.clone());
            let error = match call.invocation_type(InvocationType::RequestResponse).send().await {
                Ok(answer) => {
                    log_attempt(task, answer.request_id(), answer.function_error());
                    let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
                    return match answer.function_error {
                        None => Ok(payload),
                        Some(_) => Err(failure::of_function(function, &payload)),
                    };
                }
                Err(error) => error,
            };
            // Half of the pause is random, so that invocations throttled together do not retry together. The service may
            // require a longer pause.
            let pause = wait.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            let pause = pause.max(failure::retry_after(&error).unwrap_or_default());
            if !failure::came_too_early(&error) || Instant::now() + pause > deadline {
                return Err(failure::of_call("invoke", &format!("function {function}"), &error));
            }
            tracing::debug!(function, %error, ?pause, "no worker available, retrying");
            drop(leased);
            refused();
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}

#[async_trait]
impl Compute for LambdaCompute {
    /// Runs `task` as one invocation. Retries for up to five minutes while no worker is available, then fails with
    /// `Unavailable`.
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let place = |error: QueryError| error.at_task(&task.step, task.task);
        let _permit = self.invocations.acquire().await.expect("the semaphore is never closed");
        let _room = self.room(task).await;
        let payload = self.payload(task).await.map_err(place)?;
        let answer = self.invoke(task, payload, Instant::now() + WAIT_IN_ALL, refused).await.map_err(place)?;
        let answer: HBeeAnswer = serde_json::from_slice(&answer).map_err(|error| {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN_BYTES)]).into_owned();
            place(QueryError::internal(format!("an HBee's answer is not readable: {error}: {shown}")))
        })?;
        // The HBee could not name the task if it failed to read it.
        Result::from(answer).map_err(|error| if error.step().is_some() { error } else { place(error) })
    }

    /// Stores an object that HBees look for while they run a task.
    async fn abandon(&self, query: QueryId) {
        let stored = async {
            let place = self.results.of_query(query, ENDED)?;
            self.results.put(&place, "{}").await
        };
        let silent = |_| Err(QueryError::unavailable("storage did not answer"));
        if let Err(error) = tokio::time::timeout(ABANDON_MAX, stored).await.unwrap_or_else(silent) {
            tracing::warn!(query_id = %query, %error, "failed to tell HBees that their query has ended");
        }
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn inline_bytes(&self) -> u64 {
        INLINE_BYTES_MAX
    }

    fn pace(&self) -> Pace {
        HBEE_PACE
    }

    fn cost(&self, used: &Used) -> Option<Cost> {
        Some(self.sizes.cost(used))
    }

    fn tasks_min(&self) -> usize {
        // A function starts in the time that another needs to read some megabytes, so the bytes alone decide.
        1
    }
}

/// Logs the id of the invocation that ran an attempt, under which the service keeps its log.
fn log_attempt(task: &HBeeTask, request_id: Option<&str>, failure: Option<&str>) {
    let (query_id, step, attempt) = (task.query, &task.step, task.attempt);
    match failure {
        None => tracing::debug!(%query_id, step, task = %task.task, attempt, request_id, "an attempt has ended"),
        Some(failure) => {
            tracing::warn!(%query_id, step, task = %task.task, attempt, request_id, failure, "an attempt has failed");
        }
    }
}

/// Limits the concurrent invocations by the file descriptors: each connection has one.
fn concurrency(wanted: usize, descriptors: Option<usize>, calls_per_connection: usize) -> usize {
    let free = |descriptors: usize| descriptors.saturating_sub(DESCRIPTORS_KEPT).saturating_mul(calls_per_connection);
    wanted.min(descriptors.map_or(usize::MAX, free)).max(1)
}

/// Returns the calls that share a connection. Without TLS, as to the local cloud, HTTP/1.1 has a connection for each. `own_url` is
/// the endpoint that is set for Lambda alone; it precedes that of all services, which may be another kind of server.
fn calls_per_connection(sdk: &SdkConfig, own_url: Option<&str>) -> usize {
    let url = own_url.filter(|url| !url.is_empty()).or(sdk.endpoint_url());
    if url.is_some_and(|url| url.starts_with("http://")) { 1 } else { CALLS_PER_CONNECTION }
}

/// Returns the approximate bytes of the payload of `task`.
fn about_bytes(task: &HBeeTask) -> usize {
    /// Bytes of a file, of an evaluation's input and of a segment as JSON.
    const EACH: usize = 150;
    let files: usize = task.scans.iter().map(|scan| scan.files.len()).sum();
    let slices: usize = task.evaluations.iter().flat_map(|evaluation| &evaluation.inputs).map(Vec::len).sum();
    let deliveries = task.inputs.iter().flat_map(|input| &input.deliveries);
    let segments: usize = deliveries.map(|delivered| 1 + delivered.segments.len()).sum();
    // Bytes are written in base64.
    let bytes = task.fragment.len() + task.scans.iter().map(|scan| scan.constants.len()).sum::<usize>();
    bytes / 3 * 4 + (files + slices + segments) * EACH
}

/// Returns the kernel's limit of file descriptors for this process.
fn descriptors_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests;
