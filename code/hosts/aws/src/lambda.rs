//! Runs HBee tasks as invocations of a Lambda function.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use buzz_fuse::{Compute, Refused};
use buzz_protocol::{HBeeTask, QueryError, Result, TaskOutcome};
use buzz_worker::hbee::HBeeEvent;
use tokio::sync::Semaphore;

use crate::failure;
use crate::results::Results;
use crate::settings::HBeeSettings;

/// The largest payload of an invocation that is waited for is
/// [6 MB](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html); this leaves room for headers.
const PAYLOAD_BYTES_MAX: usize = 11 << 19;

/// Rows of an outcome, in memory: compressed and in base64 they stay below the 6 MB of an answer even if they do not
/// shrink.
const INLINE_BYTES_MAX: u64 = 4_500_000;

/// Descriptors that are not for invocations: the store, combs, the log, the runtime.
const DESCRIPTORS_KEPT: usize = 100;

/// The first and the longest wait when all workers are taken, or the function is not ready.
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How long Fuse waits for a worker at most. A function that nobody called for weeks gets its network back in minutes.
const WAIT_IN_ALL: Duration = Duration::from_secs(300);

/// The most of a function's answer that is shown when it cannot be read.
const SHOWN_BYTES: usize = 200;

/// Runs each task as one invocation.
#[derive(Debug)]
pub struct LambdaCompute {
    client: Client,
    function: HBeeSettings,
    results: Results,
    invocations: Arc<Semaphore>,
    concurrency: usize,
}

impl LambdaCompute {
    /// Invokes `function` by `sdk`, whose read timeout must be above the function's own. Payloads that are too large go
    /// through `results`.
    pub fn new(sdk: &SdkConfig, function: HBeeSettings, results: Results) -> Self {
        let concurrency = concurrency(function.concurrency, descriptors_max());
        let invocations = Arc::new(Semaphore::new(concurrency));
        Self { client: Client::new(sdk), function, results, invocations, concurrency }
    }

    /// Connects to the service, so that the first task does not wait for it. Nothing is run; a failure will be told by
    /// the first task.
    pub async fn connect(&self) {
        let call = self.client.invoke().function_name(&self.function.function);
        if let Err(error) = call.invocation_type(InvocationType::DryRun).send().await {
            tracing::warn!(function = self.function.function, %error, "the function cannot be invoked yet");
        }
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

    async fn invoke(&self, payload: Vec<u8>, deadline: Instant, refused: Refused<'_>) -> Result<Vec<u8>> {
        let function = &self.function.function;
        let payload = Blob::new(payload);
        let mut wait = WAIT_FIRST;
        loop {
            let call = self.client.invoke().function_name(function).payload(payload.clone());
            let error = match call.invocation_type(InvocationType::RequestResponse).send().await {
                Ok(answer) => {
                    let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
                    return match answer.function_error {
                        None => Ok(payload),
                        Some(_) => Err(failure::of_function(function, &payload)),
                    };
                }
                Err(error) => error,
            };
            let status = error.raw_response().map(|answer| answer.status().as_u16());
            // Half of the wait is by chance, so that those who were refused together do not come back together.
            let pause = wait.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            if !failure::came_too_early(&error) || Instant::now() + pause > deadline {
                return Err(failure::of_call("invoke", &format!("function {function}"), status, &error));
            }
            tracing::debug!(function, %error, ?pause, "no worker yet");
            refused();
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}

#[async_trait]
impl Compute for LambdaCompute {
    /// An invocation that finds no worker waits for one, up to five minutes, and is then `Unavailable`.
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let place = |error: QueryError| {
            if error.message.starts_with("step `") {
                error
            } else {
                error.at(format!("step `{}`, task {}", task.step, task.task))
            }
        };
        let _permit = self.invocations.acquire().await.expect("it is never closed");
        let payload = self.payload(task).await.map_err(place)?;
        let answer = self.invoke(payload, Instant::now() + WAIT_IN_ALL, refused).await.map_err(place)?;
        serde_json::from_slice(&answer).map_err(|error| {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN_BYTES)]).into_owned();
            place(QueryError::internal(format!("an HBee's answer is not readable: {error}: {shown}")))
        })
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn inline_bytes(&self) -> u64 {
        INLINE_BYTES_MAX
    }

    fn tasks_min(&self) -> usize {
        // A function starts in the time in which another reads some megabytes: bytes alone decide.
        1
    }
}

/// Invocations at once: each has a connection, so that descriptors bound them.
fn concurrency(wanted: usize, descriptors: Option<usize>) -> usize {
    let possible = descriptors.map_or(usize::MAX, |descriptors| descriptors.saturating_sub(DESCRIPTORS_KEPT));
    wanted.min(possible).max(1)
}

/// How many descriptors this process may have, as the kernel tells.
fn descriptors_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests;
