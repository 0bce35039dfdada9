//! The client of a deployed stack: an [`Engine`] whose queries run there.
//!
//! [`StackEngine`] submits a query, watches it, downloads its rows and cancels it (`stack`, `download`). Every call is
//! an invocation of Fuse, so the right to invoke Fuse is the only permission required.

mod download;
mod stack;

use std::sync::Arc;
use std::time::Duration;

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
use serde_json::Value;

pub use stack::function_of;
use stack::{Stack, Watched};

/// Maximum time to wait for the answer to a call. Calls only read and write small objects.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Interval between requests for the progress of a query.
const WATCH_EVERY: Duration = Duration::from_millis(500);

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
        Running::spawn(progress, async move { answer(&stack, &question, &counted).await })
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

/// Submits `question`, waits for its end and downloads its rows.
async fn answer(stack: &Stack, question: &Question, progress: &Progress) -> Result<Answer> {
    check_places(question)?;
    let event = ask_event(question)?;
    // Not interrupted: a query that was submitted but whose id is unknown could not be cancelled.
    let query = stack.submit(&event, progress).await?;
    let message = wait(stack, query, progress).await?;
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

/// Watches `query` until it ends. If it is stopped, cancels it on the stack and waits for its end there.
async fn wait(stack: &Stack, query: QueryId, progress: &Progress) -> Result<Box<AnswerMessage>> {
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
    use buzz_protocol::Query;

    use super::*;

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
