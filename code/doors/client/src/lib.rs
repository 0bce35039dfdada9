//! Asks a stack from outside, for the command line: submits a query, watches it, takes its rows, cancels it. All of it is
//! invocations of Fuse, so that nothing but the right to invoke it is needed.

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

/// How long an answer to a call may take. None computes: they read and write small objects.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a stack that is not ready is waited for. After weeks without a question, AWS gives a function its network
/// back in minutes.
const WAIT_IN_ALL: Duration = Duration::from_secs(300);
const WAIT_EACH: Duration = Duration::from_secs(5);

/// How long a call that may come twice is repeated when the service does not take it, and how soon.
const REPEATED_FOR: Duration = Duration::from_secs(60);
const REPEATED_AFTER: Duration = Duration::from_secs(1);
const FAILURES_IN_A_ROW: usize = 3;

/// How long the place of a result may say nothing.
const DOWNLOAD_SILENT_MAX: Duration = Duration::from_secs(60);

/// A stack, as whoever asks it sees it.
#[derive(Debug)]
pub struct Stack {
    client: Client,
    function: String,
}

/// What has become of a query.
#[derive(Debug)]
pub enum Watched {
    /// It is not over.
    Running(ProgressReport),
    /// It is answered.
    Answered(Box<StackAnswer>),
    /// It failed.
    Failed(QueryError),
}

/// An answer, as [`crate::answer::Answer`] is read.
#[derive(Debug, Deserialize)]
pub struct StackAnswer {
    /// The rows as an Arrow IPC file in base64.
    pub rows_arrow: Option<String>,
    /// Where the rows are, if not here.
    pub output: Option<StackOutput>,
    /// The plan, if that is what was asked for.
    pub explain: Option<String>,
    /// Number of rows.
    pub row_count: u64,
    /// What it took.
    pub summary: StackSummary,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// Where rows are.
#[derive(Debug, Deserialize)]
pub struct StackOutput {
    /// `s3://bucket/key`.
    pub uri: String,
    /// A link that needs no credentials.
    pub url: Option<String>,
}

/// What a query took, as far as the command line tells.
#[derive(Debug, Deserialize)]
pub struct StackSummary {
    /// Files that the catalogs named.
    pub files_found: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Tasks.
    pub tasks: u64,
    /// Runs of tasks.
    pub attempts: u64,
    /// Time of each phase.
    pub milliseconds: StackPhases,
    /// US dollars by list price.
    pub cost_usd: f64,
}

/// Milliseconds.
#[derive(Debug, Deserialize)]
pub struct StackPhases {
    /// All together, at Fuse.
    pub total: u64,
}

/// The name of the Fuse function of stack `name`.
pub fn function_of(name: &str) -> String {
    format!("buzz-rust-fuse-{name}")
}

/// What became of an invocation that has no answer.
enum Failure {
    /// The service could not be asked, or did not answer.
    Call(QueryError),
    /// The function failed.
    Function(QueryError),
}

impl Stack {
    /// The stack whose Fuse is `function`, with region and credentials from the usual variables and files.
    ///
    /// # Errors
    /// `Invalid` when no region is set.
    pub async fn connect(function: String, endpoint_url: Option<&str>) -> Result<Stack> {
        let sdk = sdk(READ_TIMEOUT, endpoint_url).await;
        if sdk.region().is_none() {
            return Err(QueryError::invalid("no region is set; set AWS_REGION to the region of the stack"));
        }
        Ok(Stack { client: Client::new(&sdk), function })
    }

    /// Submits `event`, an envelope with `"async": true`, and says under which id it is answered.
    ///
    /// # Errors
    /// `Invalid` when it is refused or there is no such stack, `Unavailable` when the stack does not answer.
    pub async fn submit(&self, event: &Value) -> Result<QueryId> {
        #[derive(Deserialize)]
        struct Submitted {
            query_id: QueryId,
        }
        Ok(self.invoke::<Submitted>(event).await?.query_id)
    }

    /// What has become of `query`. A stack that does not answer is asked again for a while.
    ///
    /// # Errors
    /// As [`Stack::submit`].
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

    /// Wants `query` to stop; it does within seconds. A stack that does not answer is told again for a while.
    ///
    /// # Errors
    /// As [`Stack::submit`].
    pub async fn cancel(&self, query: QueryId) -> Result<()> {
        match self.repeated::<Value>(&json!({"cancel": query})).await {
            Err(Failure::Function(error)) if error.kind == ErrorKind::Unavailable => Err(error),
            // What the query fails with is its watcher's business.
            Ok(_) | Err(Failure::Function(_)) => Ok(()),
            Err(Failure::Call(error)) => Err(error),
        }
    }

    /// Invokes Fuse with an event that may come twice: until it answers, for as long as [`REPEATED_FOR`]. An invocation that
    /// fails because something did not answer is no more than that, unless the next ones fail as well.
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

    /// Invokes Fuse once, and again while its stack is being made.
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
                eprintln!("the stack is not ready or very busy, which may take some minutes: {error}");
                told = true;
            }
            tokio::time::sleep(WAIT_EACH).await;
        }
    }

    /// One invocation; of a failure, whether it came too early.
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
    /// Gives the rows to `sink`, from the answer or from where it says they are.
    ///
    /// # Errors
    /// `Unavailable` when the place does not answer, `Internal` when something else is there.
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
            (None, None) => Err(QueryError::internal("an answer has neither rows nor their place")),
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
    /// The object in a temporary file.
    async fn download(&self) -> Result<std::fs::File> {
        use std::io::{Seek, Write};
        let url = self.url.as_ref().ok_or_else(|| QueryError::internal("there is no link to it"))?;
        let broken = |error: reqwest::Error| QueryError::unavailable(error.without_url().to_string());
        let kept = |error: std::io::Error| {
            QueryError::new(ErrorKind::Limit, format!("it cannot be kept in a temporary file: {error}"))
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
