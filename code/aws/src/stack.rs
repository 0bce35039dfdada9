//! The client of a stack, for the command line: submits a query, watches it, downloads its rows and cancels it. Every
//! call is an invocation of Fuse, so the right to invoke Fuse is the only permission required.

use std::time::{Duration, Instant};

use arrow::ipc::reader::FileReader;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buzz_fuse::ResultSink;
use buzz_protocol::{ErrorKind, QueryError, QueryId, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clients::sdk;
use crate::failure;
use crate::fuse_function::ProgressReport;

/// Maximum time to wait for the answer to a call. Calls only read and write small objects.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Maximum time to wait for a stack that is not ready, and the pause between two attempts. AWS removes the network of a
/// function that is idle for weeks and takes minutes to restore it.
const WAIT_IN_ALL: Duration = Duration::from_secs(300);
const WAIT_EACH: Duration = Duration::from_secs(5);

/// Limits for retries of an idempotent call: the total time, the pause between attempts and the consecutive function
/// failures.
const REPEATED_FOR: Duration = Duration::from_secs(60);
const REPEATED_AFTER: Duration = Duration::from_secs(1);
const FAILURES_IN_A_ROW: usize = 3;

/// Maximum time to connect to the store of a result, or between two reads of it.
const DOWNLOAD_SILENT_MAX: Duration = Duration::from_secs(60);

/// A client of one stack.
#[derive(Debug)]
pub struct Stack {
    client: Client,
    function: String,
}

/// The state of a query.
#[derive(Debug)]
pub enum Watched {
    /// The query has not ended.
    Running(ProgressReport),
    /// The query is answered.
    Answered(Box<StackAnswer>),
    /// The query failed.
    Failed(QueryError),
}

/// The answer of a stack: the fields of [`crate::answer::Answer`] that the command line reads.
#[derive(Debug, Deserialize)]
pub struct StackAnswer {
    /// The rows as an Arrow IPC file in base64.
    pub rows_arrow: Option<String>,
    /// Location of the rows, if the answer does not contain them.
    pub output: Option<StackOutput>,
    /// The plan, for an explained query.
    pub explain: Option<String>,
    /// Number of rows.
    pub row_count: u64,
    /// Resources and time used.
    pub summary: StackSummary,
    /// Warnings for the caller.
    pub warnings: Vec<String>,
}

/// The location of a result in storage.
#[derive(Debug, Deserialize)]
pub struct StackOutput {
    /// `s3://bucket/key`.
    pub uri: String,
    /// A link that needs no credentials.
    pub url: Option<String>,
}

/// Resources and time that a query used: the fields that the command line prints.
#[derive(Debug, Deserialize)]
pub struct StackSummary {
    /// Files in the tables, before pruning.
    pub files_found: u64,
    /// Files read, after pruning.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Number of tasks.
    pub tasks: u64,
    /// Number of task attempts, including invocations that were throttled.
    pub attempts: u64,
    /// Time of each phase.
    pub milliseconds: StackPhases,
    /// Cost in US dollars at list prices.
    pub cost_usd: f64,
}

/// Milliseconds of each phase.
#[derive(Debug, Deserialize)]
pub struct StackPhases {
    /// Total, measured in Fuse.
    pub total: u64,
}

/// Returns the name of the Fuse function of stack `name`.
pub fn function_of(name: &str) -> String {
    format!("buzz-rust-fuse-{name}")
}

/// The failure of an invocation.
enum Failure {
    /// The request could not be sent, or the service did not answer.
    Call(QueryError),
    /// The function failed.
    Function(QueryError),
}

impl Stack {
    /// Creates a client of the stack whose Fuse is `function`. Region and credentials come from the standard `AWS_`
    /// variables and files.
    ///
    /// # Errors
    /// `Invalid` if no region is set.
    pub async fn connect(function: String, endpoint_url: Option<&str>) -> Result<Stack> {
        let sdk = sdk(READ_TIMEOUT, endpoint_url).await;
        if sdk.region().is_none() {
            return Err(QueryError::invalid("no region is set; set AWS_REGION to the region of the stack"));
        }
        Ok(Stack { client: Client::new(&sdk), function })
    }

    /// Submits `event`, an envelope with `"async": true`, and returns the id of its query.
    ///
    /// # Errors
    /// `Invalid` if the event is rejected or the stack does not exist, `Unavailable` if the stack does not answer.
    pub async fn submit(&self, event: &Value) -> Result<QueryId> {
        #[derive(Deserialize)]
        struct Submitted {
            query_id: QueryId,
        }
        Ok(self.invoke::<Submitted>(event).await?.query_id)
    }

    /// Returns the state of `query`. Retries for up to a minute if the stack does not answer.
    ///
    /// # Errors
    /// As for [`Stack::submit`].
    pub async fn watch(&self, query: QueryId) -> Result<Watched> {
        let answer: Value = match self.repeated(&json!({"watch": query})).await {
            Ok(answer) => answer,
            Err(Failure::Function(error)) => return Ok(Watched::Failed(error)),
            Err(Failure::Call(error)) => return Err(error),
        };
        let unreadable = |error| self.unreadable(error);
        if answer["status"] == "answered" {
            return serde_json::from_value(answer)
                .map(|answer| Watched::Answered(Box::new(answer)))
                .map_err(unreadable);
        }
        serde_json::from_value(answer).map(Watched::Running).map_err(unreadable)
    }

    /// Requests the cancellation of `query`, which stops within seconds. Retries for up to a minute if the stack does
    /// not answer.
    ///
    /// # Errors
    /// As for [`Stack::submit`].
    pub async fn cancel(&self, query: QueryId) -> Result<()> {
        match self.repeated::<Value>(&json!({"cancel": query})).await {
            Err(Failure::Function(error)) if error.kind == ErrorKind::Unavailable => Err(error),
            // The query's own failure is reported by `watch`.
            Ok(_) | Err(Failure::Function(_)) => Ok(()),
            Err(Failure::Call(error)) => Err(error),
        }
    }

    /// Invokes Fuse with an idempotent event and retries for up to [`REPEATED_FOR`]. A function that fails with
    /// `Unavailable` is retried up to [`FAILURES_IN_A_ROW`] times.
    async fn repeated<T: for<'de> Deserialize<'de>>(&self, event: &Value) -> Result<T, Failure> {
        let deadline = Instant::now() + REPEATED_FOR;
        let mut failures = 0;
        loop {
            match self.invoke_once(event).await {
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
    async fn invoke<T: for<'de> Deserialize<'de>>(&self, event: &Value) -> Result<T> {
        let deadline = Instant::now() + WAIT_IN_ALL;
        let mut told = false;
        loop {
            let (failure, too_early) = match self.invoke_once(event).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let (Failure::Call(error) | Failure::Function(error)) = failure;
            if !too_early || Instant::now() + WAIT_EACH > deadline {
                return Err(error);
            }
            if !told {
                eprintln!("the stack is busy or not ready; retrying for up to 5 minutes: {error}");
                told = true;
            }
            tokio::time::sleep(WAIT_EACH).await;
        }
    }

    /// Invokes Fuse once. A failure carries true if the function was throttled or not ready, so that nothing ran.
    async fn invoke_once<T: for<'de> Deserialize<'de>>(&self, event: &Value) -> Result<T, (Failure, bool)> {
        let payload = Blob::new(event.to_string());
        let call = self.client.invoke().function_name(&self.function).payload(payload);
        match call.send().await {
            Ok(answer) => {
                let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
                match answer.function_error {
                    None => {
                        serde_json::from_slice(&payload).map_err(|error| (Failure::Call(self.unreadable(error)), false))
                    }
                    Some(_) => Err((Failure::Function(failure::of_function(&self.function, &payload)), false)),
                }
            }
            Err(error) => {
                let status = error.raw_response().map(|answer| answer.status().as_u16());
                let failed = failure::of_call("invoke", &format!("function {}", self.function), status, &error);
                Err((Failure::Call(failed), failure::came_too_early(&error)))
            }
        }
    }

    fn unreadable(&self, error: serde_json::Error) -> QueryError {
        QueryError::internal(format!("the answer of function {} is not readable: {error}", self.function))
    }
}

impl StackAnswer {
    /// Writes the rows to `sink`, from the answer or from the location in it.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer, `Internal` if the answer has no readable rows.
    pub async fn rows(&self, sink: &mut dyn ResultSink) -> Result<()> {
        match (&self.rows_arrow, &self.output) {
            (Some(text), _) => {
                let bytes = STANDARD.decode(text);
                let bytes = bytes.map_err(|error| QueryError::internal(format!("the rows are not base64: {error}")))?;
                read(std::io::Cursor::new(bytes), sink)
            }
            (None, Some(output)) => {
                let file = output.download().await.map_err(|error| error.at(format!("result {}", output.uri)))?;
                read(std::io::BufReader::new(file), sink)
            }
            (None, None) => Err(QueryError::internal("an answer has neither rows nor their location")),
        }
    }
}

fn read(file: impl std::io::Read + std::io::Seek, sink: &mut dyn ResultSink) -> Result<()> {
    let batches = FileReader::try_new(file, None)?;
    sink.start(batches.schema())?;
    for batch in batches {
        sink.write(batch?)?;
    }
    Ok(())
}

impl StackOutput {
    /// Downloads the object into a temporary file.
    async fn download(&self) -> Result<std::fs::File> {
        use std::io::{Seek, Write};
        let url = self.url.as_ref().ok_or_else(|| QueryError::internal("the answer has no download link"))?;
        let broken = |error: reqwest::Error| QueryError::unavailable(error.without_url().to_string());
        let kept = |error: std::io::Error| {
            QueryError::new(ErrorKind::Limit, format!("writing it to a temporary file failed: {error}"))
        };
        let http = reqwest::Client::builder().connect_timeout(DOWNLOAD_SILENT_MAX).read_timeout(DOWNLOAD_SILENT_MAX);
        let http = http.build().map_err(broken)?;
        let answer = http.execute(http.get(url).build().map_err(broken)?).await;
        let mut answer = answer.and_then(reqwest::Response::error_for_status).map_err(broken)?;
        let mut file = tempfile::tempfile().map_err(kept)?;
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            file.write_all(&chunk).map_err(kept)?;
        }
        file.rewind().map_err(kept)?;
        Ok(file)
    }
}
