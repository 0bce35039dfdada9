//! Invocations of a stack's Fuse.

use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use buzz_aws::failure;
use buzz_engine::wire::{AnswerMessage, Described, FailureMessage, NamesAsk, cancel_event, names_event, watch_event};
use buzz_engine::{NameChange, NameChanged, NameList, Progress, ProgressReport, TableDescription};
use buzz_protocol::{CatalogEntry, ErrorKind, QueryError, QueryId, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{decoded, unreadable};

/// Maximum time to wait for a stack that is not ready, and the pause between two attempts. AWS removes the network of a
/// function that is idle for weeks and takes minutes to restore it.
const WAIT_IN_ALL: Duration = Duration::from_secs(300);
const WAIT_EACH: Duration = Duration::from_secs(5);

/// Limits for retries of an idempotent call: the total time, the pause between attempts and the consecutive function
/// failures.
const REPEATED_FOR: Duration = Duration::from_secs(60);
const REPEATED_AFTER: Duration = Duration::from_secs(1);
const FAILURES_IN_A_ROW: usize = 3;

/// A client of one stack.
#[derive(Debug)]
pub(crate) struct Stack {
    client: Client,
    function: String,
    /// Longest time in which an idempotent call is repeated.
    repeated_for: Duration,
}

/// The state of a query.
#[derive(Debug)]
pub(crate) enum Watched {
    /// The query has not ended.
    Running(ProgressReport),
    /// The query is answered.
    Answered(Box<AnswerMessage>),
    /// The query failed.
    Failed(QueryError),
}

/// Returns the name of the Fuse function of stack `name`, with the alias of the version in use.
pub fn function_of(name: &str) -> String {
    format!("buzz-rust-fuse-{name}:live")
}

/// The reason why an invocation did not answer a query.
pub(crate) enum NotAnswered {
    /// The query failed, or nothing ran.
    Failed(QueryError),
    /// No answer arrived. The query may run.
    Lost(QueryError),
}

/// The failure of an invocation.
enum Failure {
    /// The request could not be sent, or the service did not answer.
    Call(QueryError),
    /// The function failed.
    Function(QueryError),
}

impl Stack {
    /// Makes a client of the stack whose Fuse is `function`, which `sdk` reaches.
    pub(crate) fn new(sdk: &SdkConfig, function: String) -> Self {
        Self { client: Client::new(sdk), function, repeated_for: REPEATED_FOR }
    }

    /// Repeats idempotent calls for `time` only.
    #[cfg(test)]
    pub(crate) fn repeating_for(self, time: Duration) -> Self {
        Self { repeated_for: time, ..self }
    }

    /// Sends `event`, an envelope with a query, and waits for its answer.
    ///
    /// # Errors
    /// The failure of the query; `Invalid` if the event is rejected or the stack does not exist, `Unavailable` if the stack does
    /// not answer.
    pub(crate) async fn ask(&self, event: &Value, progress: &Progress) -> Result<Box<AnswerMessage>, NotAnswered> {
        self.until_ready(event, progress).await.map_err(|failure| match failure {
            Failure::Call(error) if error.kind == ErrorKind::Unavailable => NotAnswered::Lost(error),
            Failure::Call(error) | Failure::Function(error) => NotAnswered::Failed(error),
        })
    }

    /// Sends `event`, which asks for the tables of a query, and returns their descriptions.
    ///
    /// # Errors
    /// As [`Stack::ask`].
    pub(crate) async fn describe(&self, event: &Value) -> Result<Vec<TableDescription>> {
        Ok(self.invoke::<Described>(event, &Progress::default()).await?.tables)
    }

    /// Returns the names of the stack's registry.
    ///
    /// # Errors
    /// As [`Stack::ask`].
    pub(crate) async fn names(&self) -> Result<Vec<CatalogEntry>> {
        let list: NameList = self.invoke(&names_event(&NamesAsk::List), &Progress::default()).await?;
        Ok(list.names)
    }

    /// Makes `change` in the stack's registry of names.
    ///
    /// # Errors
    /// As [`Stack::ask`], and those of the change.
    pub(crate) async fn change_names(&self, change: NameChange) -> Result<NameChanged> {
        self.invoke(&names_event(&NamesAsk::Change(change)), &Progress::default()).await
    }

    /// Returns the state of `query`. Retries for up to a minute if the stack does not answer.
    ///
    /// # Errors
    /// As for [`Stack::ask`].
    pub(crate) async fn watch(&self, query: QueryId) -> Result<Watched> {
        let answer: Value = match self.repeated(&watch_event(query)).await {
            Ok(answer) => answer,
            Err(Failure::Function(error)) => return Ok(Watched::Failed(error)),
            Err(Failure::Call(error)) => return Err(error),
        };
        if answer["status"] == "answered" {
            return Ok(Watched::Answered(Box::new(decoded(&self.function, answer)?)));
        }
        Ok(Watched::Running(decoded(&self.function, answer)?))
    }

    /// Requests the cancellation of `query`, which stops within seconds. Retries for up to a minute if the stack does
    /// not answer.
    ///
    /// # Errors
    /// As for [`Stack::ask`].
    pub(crate) async fn cancel(&self, query: QueryId) -> Result<()> {
        match self.repeated::<Value>(&cancel_event(query)).await {
            Err(Failure::Function(error)) if error.kind == ErrorKind::Unavailable => Err(error),
            // The query's own failure is reported by `watch`.
            Ok(_) | Err(Failure::Function(_)) => Ok(()),
            Err(Failure::Call(error)) => Err(error),
        }
    }

    /// Invokes Fuse with an idempotent event and retries for as long as `repeated_for`. A function that fails with
    /// `Unavailable` is retried up to [`FAILURES_IN_A_ROW`] times.
    async fn repeated<T: for<'de> Deserialize<'de>>(&self, event: &Value) -> Result<T, Failure> {
        let deadline = Instant::now() + self.repeated_for;
        let mut failures = 0;
        loop {
            // A network that is cut without closing the connection would be noticed later, by the read timeout.
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(invoked) = tokio::time::timeout(left, self.invoke_once(event)).await else {
                let seconds = self.repeated_for.as_secs();
                let text = format!("function {} did not answer within {seconds} seconds", self.function);
                return Err(Failure::Call(QueryError::unavailable(text)));
            };
            match invoked {
                Err((Failure::Call(error), _))
                    if error.kind == ErrorKind::Unavailable && Instant::now() + REPEATED_AFTER < deadline =>
                {
                    tokio::time::sleep(REPEATED_AFTER).await;
                }
                Err((Failure::Function(error), _))
                    if error.kind == ErrorKind::Unavailable && failures < FAILURES_IN_A_ROW =>
                {
                    failures += 1;
                    tokio::time::sleep(REPEATED_AFTER).await;
                }
                answered => return answered.map_err(|(failure, _)| failure),
            }
        }
    }

    /// Invokes Fuse. Retries for up to [`WAIT_IN_ALL`] while the function is throttled or not ready.
    async fn invoke<T: for<'de> Deserialize<'de>>(&self, event: &Value, progress: &Progress) -> Result<T> {
        self.until_ready(event, progress).await.map_err(|failure| {
            let (Failure::Call(error) | Failure::Function(error)) = failure;
            error
        })
    }

    async fn until_ready<T: for<'de> Deserialize<'de>>(
        &self,
        event: &Value,
        progress: &Progress,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + WAIT_IN_ALL;
        let mut told = false;
        loop {
            let (failure, too_early) = match self.invoke_once(event).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if !too_early {
                return Err(failure);
            }
            let (Failure::Call(error) | Failure::Function(error)) = failure;
            if Instant::now() + WAIT_EACH > deadline {
                return Err(Failure::Function(error));
            }
            if !told {
                progress.warn([format!("the stack is busy or not ready; retrying for up to 5 minutes: {error}")]);
                told = true;
            }
            // Nothing ran yet, so there is nothing to cancel on the stack.
            tokio::select! {
                () = tokio::time::sleep(WAIT_EACH) => {}
                reason = progress.stopped() => return Err(Failure::Function(reason)),
            }
        }
    }

    /// Decodes the answer to an event that requests its failure as JSON.
    fn answered<T: for<'de> Deserialize<'de>>(&self, payload: &[u8]) -> Result<T, Failure> {
        let failed = |error| Failure::Call(unreadable(&self.function, &error));
        let answer: Value = serde_json::from_slice(payload).map_err(failed)?;
        if answer["status"] == FailureMessage::STATUS {
            let failure: FailureMessage = serde_json::from_value(answer).map_err(failed)?;
            return Err(Failure::Function(failure.error));
        }
        serde_json::from_value(answer).map_err(failed)
    }

    /// Invokes Fuse once. A failure carries true if the function was throttled or not ready, so that nothing ran.
    async fn invoke_once<T: for<'de> Deserialize<'de>>(&self, event: &Value) -> Result<T, (Failure, bool)> {
        let payload = Blob::new(event.to_string());
        let call = self.client.invoke().function_name(&self.function).payload(payload);
        match call.send().await {
            Ok(answer) => {
                let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
                if answer.function_error.is_some() {
                    return Err((Failure::Function(failure::of_function(&self.function, &payload)), false));
                }
                self.answered(&payload).map_err(|failure| (failure, false))
            }
            Err(error) => {
                let failed = failure::of_call("invoke", &format!("function {}", self.function), &error);
                Err((Failure::Call(failed), failure::came_too_early(&error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::config::{Credentials, SharedCredentialsProvider};
    use axum::Router;
    use axum::body::Bytes;
    use axum::routing::post;
    use buzz_protocol::{Place, TaskIndex};
    use serde_json::json;

    use super::*;

    /// Creates the client of a stack whose Fuse answers every event with `answer` and `headers`.
    async fn stack(answer: Value, headers: [(&'static str, &'static str); 1]) -> Stack {
        let invoked = async move |event: Bytes| {
            let event: Value = serde_json::from_slice(&event).unwrap();
            assert_eq!(event["failure"], "json");
            (headers, answer.to_string())
        };
        let app = Router::new().route("/2015-03-31/functions/{name}/invocations", post(invoked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let keys = SharedCredentialsProvider::new(Credentials::new("AK", "SK", None, None, "test"));
        let sdk =
            buzz_aws::clients::sdk(Duration::from_secs(5), Some(&url)).await.into_builder().credentials_provider(keys);
        let sdk = sdk.region(aws_config::Region::new("us-east-2")).build();
        Stack { client: Client::new(&sdk), function: "fuse".to_string(), repeated_for: REPEATED_FOR }
    }

    #[tokio::test]
    async fn failure_of_a_query_arrives_whole() {
        let error = QueryError::data("is truncated").retry_after(Some(Duration::from_secs(3)));
        let error = error.at(Place::file_of("trips", "s3://lake/a.parquet")).at_task("m", TaskIndex(3));
        let message = serde_json::to_value(FailureMessage::new(error.clone())).unwrap();
        let stack = stack(message, [("x-test", "")]).await;
        match stack.watch(QueryId::fresh()).await.unwrap() {
            Watched::Failed(failed) => assert_eq!(failed, error),
            other => panic!("{other:?}"),
        }
        let event = json!({"describe": {}, "failure": "json"});
        assert_eq!(stack.describe(&event).await.unwrap_err(), error);
        stack.cancel(QueryId::fresh()).await.unwrap();
    }

    #[tokio::test]
    async fn failed_invocation_keeps_its_kind() {
        let answer = json!({"errorType": "Limit", "errorMessage": "the query took more than 3 seconds"});
        let stack = stack(answer, [("x-amz-function-error", "Unhandled")]).await;
        match stack.watch(QueryId::fresh()).await.unwrap() {
            Watched::Failed(failed) => assert_eq!(failed, QueryError::limit("the query took more than 3 seconds")),
            other => panic!("{other:?}"),
        }
    }
}
