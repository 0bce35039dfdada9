//! The client of a deployed stack: an [`Engine`] whose queries run there.
//!
//! [`StackEngine`] asks a query, watches it, downloads its rows and cancels it (`stack`, `download`). Every call is
//! an invocation of Fuse, so the right to invoke Fuse is the only permission required.

mod download;
mod stack;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_config::SdkConfig;
use buzz_aws::clients::sdk;
use buzz_aws::credentials::with_command_line;
use buzz_engine::wire::{AnswerMessage, ask_event, describe_event};
use buzz_engine::{
    Answer, Content, Engine, NameChange, NameChanged, Names, Progress, Question, Rows, Running, Summary,
    TableDescription,
};
use buzz_protocol::{CatalogEntry, CatalogType, QueryError, QueryId, Result};
use buzz_telemetry::{TRACEPARENT, span, traced};
use serde_json::Value;

pub use stack::function_of;
use stack::{NotAnswered, Stack, Watched};

/// Maximum time to wait for the answer to a call. A query that takes longer is watched until its end.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Time before the first request for the progress of a query, and between two. Each is an invocation, and most queries have ended
/// before the first.
const WATCH_FIRST: Duration = Duration::from_secs(2);
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Time for which a query whose answer was lost may be unknown to the stack: its function may be starting.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// The engine of a deployed stack.
#[derive(Debug, Clone)]
pub struct StackEngine {
    stack: Arc<Stack>,
}

#[async_trait]
impl Engine for StackEngine {
    async fn describe(&self, question: &Question) -> Result<Vec<TableDescription>> {
        check_places(question)?;
        self.stack.describe(&describe_event(question)).await
    }

    fn start_with(&self, question: Question, progress: Arc<Progress>) -> Running {
        let (stack, counted) = (Arc::clone(&self.stack), Arc::clone(&progress));
        let span = span!("ask stack", otel.kind = "client", query_id = %question.id);
        let answered = async move { answer(&stack, &question, &counted).await };
        Running::spawn(progress, traced(span, answered))
    }
}

#[async_trait]
impl Names for StackEngine {
    async fn list(&self) -> Result<Vec<CatalogEntry>> {
        self.stack.names().await
    }

    async fn change(&self, change: NameChange) -> Result<NameChanged> {
        if let NameChange::Add { entry, .. } = &change {
            check_place(entry)?;
        }
        self.stack.change_names(change).await
    }
}

impl StackEngine {
    /// Connects to the stack whose Fuse is `function`, with region and credentials from the usual variables and files,
    /// at `endpoint_url` if it is not AWS's own.
    ///
    /// # Errors
    /// `Invalid` if no region is set.
    pub async fn connect(function: String, endpoint_url: Option<&str>) -> Result<Self> {
        let sdk = with_command_line(sdk(READ_TIMEOUT, endpoint_url).await);
        if sdk.region().is_none() {
            return Err(QueryError::invalid("no region is set; set AWS_REGION to the region of the stack"));
        }
        Ok(Self::new(&sdk, function))
    }

    /// Makes the engine of the stack whose Fuse is `function`, which `sdk` reaches.
    pub fn new(sdk: &SdkConfig, function: String) -> Self {
        Self { stack: Arc::new(Stack::new(sdk, function)) }
    }
}

/// Sends `question`, waits for its answer and downloads its rows.
async fn answer(stack: &Stack, question: &Question, progress: &Progress) -> Result<Answer> {
    check_places(question)?;
    let mut event = ask_event(question)?;
    if let Some(traceparent) = buzz_telemetry::current() {
        event[TRACEPARENT] = traceparent.into();
    }
    let query = question.id;
    let message = ask(stack, &event, query, progress).await?;
    progress.warn(message.warnings.iter().cloned());
    let summary = Summary { estimate: message.estimate, ..message.summary.summary(message.row_count) };
    let content = match &message.explain {
        Some(text) => Content::Plan(text.clone()),
        None => Content::Rows(progress.unless_stopped(rows(&message)).await?),
    };
    Ok(Answer { id: query, content, summary })
}

async fn rows(message: &AnswerMessage) -> Result<Rows> {
    let mut rows = Rows::new();
    download::rows(message, &mut rows).await?;
    Ok(rows)
}

/// Sends `event`, which asks `query`, and watches its progress beside. If it is stopped, cancels it on the stack and waits for its
/// end there.
async fn ask(stack: &Stack, event: &Value, query: QueryId, progress: &Progress) -> Result<Box<AnswerMessage>> {
    let (asking, watching) = (stack.ask(event, progress), follow(stack, query, progress));
    tokio::pin!(asking, watching);
    let mut cancelling = false;
    loop {
        tokio::select! {
            biased;
            asked = &mut asking => return match asked {
                Ok(answer) => Ok(answer),
                Err(NotAnswered::Failed(error)) => Err(error),
                // The connection broke, or was silent for too long.
                Err(NotAnswered::Lost(error)) => wait(stack, query, progress, error).await,
            },
            _ = progress.stopped(), if !cancelling => {
                cancelling = true;
                stack.cancel(query).await.map_err(|error| lost(query, error))?;
            }
            never = &mut watching => match never {},
        }
    }
}

/// Reports the progress of `query` until it is dropped.
async fn follow(stack: &Stack, query: QueryId, progress: &Progress) -> Infallible {
    tokio::time::sleep(WATCH_FIRST).await;
    loop {
        // A failure is that of the query, which its own invocation returns, or of the watching, which the next may not have.
        if let Ok(Watched::Running(report)) = stack.watch(query).await {
            progress.update(&report);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Watches `query`, whose answer did not arrive because of `unanswered`, until it ends. If it is stopped, cancels it on the stack and
/// waits for its end there.
async fn wait(
    stack: &Stack,
    query: QueryId,
    progress: &Progress,
    unanswered: QueryError,
) -> Result<Box<AnswerMessage>> {
    let unknown = format!("query {query} does not exist");
    let started = Instant::now();
    let mut cancelling: Option<QueryError> = None;
    loop {
        let watched = tokio::select! {
            watched = stack.watch(query) => watched.map_err(|error| lost(query, error))?,
            // Does not wait for the pending response: a stack that is slow to send progress is slow to cancel as well.
            reason = progress.stopped(), if cancelling.is_none() => {
                cancelling = Some(reason);
                stack.cancel(query).await.map_err(|error| lost(query, error))?;
                continue;
            }
        };
        match watched {
            Watched::Answered(answer) => return Ok(answer),
            Watched::Failed(error) if error.message == unknown => {
                if started.elapsed() > STARTED_WITHIN {
                    return Err(unanswered);
                }
            }
            Watched::Failed(error) => return Err(error),
            Watched::Running(report) => progress.update(&report),
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            _ = progress.stopped(), if cancelling.is_none() => {}
        }
    }
}

/// Adds to `error` how to watch and cancel a query that can no longer be reached but may still run.
fn lost(query: QueryId, error: QueryError) -> QueryError {
    let hint = format!(
        "query {query} may still run; invoke Fuse with `{{\"watch\": \"{query}\"}}` or `{{\"cancel\": \"{query}\"}}`"
    );
    QueryError { message: format!("{} ({hint})", error.message), ..error }
}

/// Checks that every catalog is at a place that a stack can read.
fn check_places(question: &Question) -> Result<()> {
    question.query.catalogs.iter().try_for_each(check_place)
}

fn check_place(catalog: &CatalogEntry) -> Result<()> {
    let (name, uri) = (&catalog.name, &catalog.uri);
    let built_in = catalog.kind == CatalogType::Static && !uri.contains(['/', '.']);
    if uri.contains("://") || built_in || catalog.is_view() {
        return Ok(());
    }
    Err(QueryError::invalid(format!(
        "catalog `{name}`: a stack cannot read the local path `{uri}`; use a uri in object storage, such as \
         --table {name}=s3://bucket/path"
    )))
}

/// Converts an error of JSON.
fn unreadable(function: &str, error: &serde_json::Error) -> QueryError {
    QueryError::internal(format!("the answer of function {function} cannot be decoded: {error}"))
}

/// Decodes the JSON `value` of `function`.
fn decoded<T: for<'de> serde::Deserialize<'de>>(function: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| unreadable(function, &error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_sdk_lambda::config::{Credentials, SharedCredentialsProvider};
    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::State;
    use axum::routing::post;
    use buzz_engine::wire::FailureMessage;
    use buzz_protocol::{ErrorKind, Query};

    use super::*;

    /// A Fuse that never answers a query, and answers to those who watch it that it does not exist, and then that it failed.
    #[derive(Debug, Default)]
    struct Silent {
        asked: AtomicU32,
        watched: AtomicU32,
    }

    async fn invoked(State(fuse): State<Arc<Silent>>, event: Bytes) -> String {
        let event: Value = serde_json::from_slice(&event).unwrap();
        let Some(query) = event["watch"].as_str() else {
            assert!(event["query_id"].is_string() && event.get("async").is_none(), "{event}");
            fuse.asked.fetch_add(1, Ordering::Relaxed);
            return std::future::pending().await;
        };
        let error = match fuse.watched.fetch_add(1, Ordering::Relaxed) {
            0 => QueryError::invalid(format!("query {query} does not exist")),
            _ => QueryError::data("a file is truncated"),
        };
        serde_json::to_string(&FailureMessage::new(error)).unwrap()
    }

    #[tokio::test]
    async fn query_whose_answer_is_lost_is_watched_and_not_asked_again() {
        let fuse = Arc::new(Silent::default());
        let app = Router::new().route("/2015-03-31/functions/{name}/invocations", post(invoked));
        let app = app.with_state(Arc::clone(&fuse));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let keys = SharedCredentialsProvider::new(Credentials::new("AK", "SK", None, None, "test"));
        let sdk = sdk(Duration::from_secs(1), Some(&url)).await.into_builder().credentials_provider(keys);
        let engine = StackEngine::new(&sdk.region(aws_config::Region::new("us-east-2")).build(), "fuse".to_string());

        let (query, _) = Query::parse(r#"{"sql": "SELECT 1", "catalogs": []}"#, "query").unwrap();
        let error = engine.start(Question::new(query, "/")).answer().await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Data, "a file is truncated"));
        assert_eq!((fuse.asked.load(Ordering::Relaxed), fuse.watched.load(Ordering::Relaxed)), (1, 2));
    }

    #[test]
    fn local_paths_are_refused_before_anything_is_sent() {
        let check = |kind, uri: &str| {
            let (mut query, _) = Query::parse(r#"{"sql": "SELECT 1", "catalogs": []}"#, "query").unwrap();
            query.catalogs.push(CatalogEntry::new("t", kind, uri));
            check_places(&Question::new(query, "/")).map_err(|error| error.to_string())
        };
        assert!(check(CatalogType::DeltaLake, "s3://lake/t").is_ok());
        assert!(check(CatalogType::Static, "nyc_taxi_cloudfuse_sample").is_ok());
        let local = check(CatalogType::Static, "lists/t.json").unwrap_err();
        assert!(local.contains("a stack cannot read the local path `lists/t.json`"), "{local}");
        assert!(check(CatalogType::Parquet, "/data/t").unwrap_err().contains("--table t=s3://bucket/path"));
    }
}
