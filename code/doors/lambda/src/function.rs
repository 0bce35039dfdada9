//! Fuse as a Lambda function: an event comes in, an answer goes out.
//!
//! A question is answered by the invocation that was asked, or written down and answered by another one, which Fuse
//! starts itself; then progress and answer are objects under the stack's results, and so is a wish to cancel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use buzz_answer::{Format, Rows, format};
use buzz_fuse::{Explain, Fuse, NoRows, Progress, QueryPlan, Request, Summary};
use buzz_protocol::{ErrorKind, QueryError, QueryId, Result};
use buzz_storage::Location;
use buzz_worker::process::{now_ms, unpanicked};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::answer::{Answer, AnswerSummary, Encoded, OutputPlace, columns, encode, tail};
use crate::event::{Ask, Event, Output};
use crate::failure;
use crate::price::Used;
use crate::results::Results;
use crate::settings::FuseSettings;

pub mod upload;

/// How much before the function's end a query is stopped, so that tasks and combs hear of it and its caller learns why.
const MARGIN: Duration = Duration::from_secs(5);

/// Shares of Fuse's memory for the operators and the inbox of a query that it reduces itself.
const OPERATOR_PERCENT: u64 = 40;
const INBOX_PERCENT: u64 = 20;

/// How often progress is written and a cancellation looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A query that has not written its progress for so long is not running any more.
const SILENT_MAX_MS: u64 = 30_000;

/// How long looking for a cancellation, or writing progress, may take; then it is tried anew.
const REPORT_MAX: Duration = Duration::from_secs(5);

/// How long a query may be submitted and not begun: an event is older than five minutes only if it was dropped
/// (`maximum_event_age_in_seconds` in `infra/modules/functions`).
const SUBMITTED_MAX_MS: u64 = 330_000;

/// How long a link to a result is good for. Credentials of functions end sooner or later; so does the link then.
const LINK_VALID: Duration = Duration::from_secs(3600);

/// Answers the events of one process, one after the other.
#[derive(Debug)]
pub struct FuseFunction {
    fuse: Fuse,
    requests: Arc<AtomicU64>,
    results: Results,
    settings: FuseSettings,
    lambda: Client,
}

/// How far a query is, as its watcher sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgressReport {
    /// `submitted`, `running` or `cancelling`.
    pub status: String,
    /// The query.
    pub query_id: QueryId,
    /// `plan`, `map` or `reduce`.
    pub phase: String,
    /// Tasks of all map stages.
    pub tasks: u64,
    /// Tasks whose delivery was accepted.
    pub tasks_done: u64,
    /// Rows that the accepted tasks' scans gave.
    pub rows_scanned: u64,
    /// Bytes that they read.
    pub bytes_scanned: u64,
    /// Attempts beyond each task's first.
    pub retries: u64,
    /// Since the query was asked.
    pub milliseconds: u64,
    /// When this was written, in milliseconds since 1970.
    pub written_ms: u64,
}

/// How a query ended, where nobody waits for it.
#[derive(Debug, Serialize, Deserialize)]
struct Failed {
    status: String,
    error: QueryError,
}

impl FuseFunction {
    /// Answers with `fuse`, and keeps what it notes in `results`; `requests` counts the requests to the storage of both.
    pub fn new(
        fuse: Fuse,
        results: Results,
        requests: Arc<AtomicU64>,
        settings: FuseSettings,
        sdk: &SdkConfig,
    ) -> Self {
        // An event to itself can be repeated: only one invocation goes on with a query.
        let config = aws_sdk_lambda::config::Builder::from(sdk).retry_config(RetryConfig::standard()).build();
        Self { fuse, requests, results, settings, lambda: Client::from_conf(config) }
    }

    /// Answers `event` before `deadline_ms` (since 1970), at which the service ends this process.
    ///
    /// # Errors
    /// `Invalid` when the event is none, else as [`Fuse::plan`] and [`Fuse::answer`].
    pub async fn answer(&self, event: &Value, deadline_ms: u64) -> Result<Box<RawValue>> {
        let left = Duration::from_millis(deadline_ms.saturating_sub(now_ms())).saturating_sub(MARGIN);
        match Event::parse(event)? {
            Event::Ask(ask) if ask.later => self.submit(event).await,
            Event::Ask(ask) => unpanicked(self.ask(*ask, QueryId::fresh(), left)).await,
            Event::Resume(query) => self.resume(query, left).await,
            Event::Watch(query) => self.watch(query).await,
            Event::Cancel(query) => {
                self.results.put(&self.results.of_query(query, "cancel")?, "{}").await?;
                self.watch(query).await
            }
        }
    }

    async fn submit(&self, event: &Value) -> Result<Box<RawValue>> {
        let query = QueryId::fresh();
        self.results.put_json(&self.results.of_query(query, "request.json")?, event).await?;
        let report = ProgressReport::new("submitted", query, &Progress::default(), 0);
        self.results.put_json(&self.results.of_query(query, "progress.json")?, &report).await?;

        let function = &self.settings.function;
        let payload = Blob::new(json!({"resume": query}).to_string());
        let call = self.lambda.invoke().function_name(function).payload(payload);
        call.invocation_type(InvocationType::Event).send().await.map_err(|error| {
            let status = error.raw_response().map(|answer| answer.status().as_u16());
            failure::of_call("invoke", &format!("function {function}"), status, &error)
        })?;
        let place = self.results.of_query(query, "")?;
        raw(&json!({"status": "submitted", "query_id": query, "results": format!("{place}/")}))
    }

    async fn resume(&self, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        // The service may deliver an asynchronous event twice: one of the two goes on.
        if !self.results.claim(&self.results.of_query(query, "started")?).await? {
            return raw(&json!({"status": "running", "query_id": query}));
        }
        let request: Option<Value> = self.results.get_json(&self.results.of_query(query, "request.json")?).await?;
        let outcome = match request.as_ref().map(Event::parse) {
            Some(Ok(Event::Ask(ask))) => unpanicked(self.ask(*ask, query, left)).await,
            Some(Err(error)) => Err(error),
            _ => Err(QueryError::internal(format!("there is no request of query {query}"))),
        };
        let place = self.results.of_query(query, "answer.json")?;
        match &outcome {
            Ok(answer) => self.results.put(&place, answer.get().to_string()).await?,
            Err(error) => {
                let failed = Failed { status: "failed".to_string(), error: error.clone() };
                self.results.put_json(&place, &failed).await?;
            }
        }
        // Nobody hears this answer.
        raw(&json!({"status": if outcome.is_ok() { "answered" } else { "failed" }, "query_id": query}))
    }

    async fn watch(&self, query: QueryId) -> Result<Box<RawValue>> {
        if let Some(answer) = self.results.get(&self.results.of_query(query, "answer.json")?).await? {
            if let Ok(Failed { error, .. }) = serde_json::from_slice(&answer) {
                return Err(error);
            }
            let answer =
                String::from_utf8(answer.to_vec()).map_err(|_| QueryError::internal("an answer is not UTF-8"))?;
            return RawValue::from_string(answer).map_err(|error| QueryError::internal(format!("an answer: {error}")));
        }
        let report: Option<ProgressReport> =
            self.results.get_json(&self.results.of_query(query, "progress.json")?).await?;
        let report = report.ok_or_else(|| QueryError::invalid(format!("there is no query {query}")))?;
        let silent_ms = now_ms().saturating_sub(report.written_ms);
        let submitted = report.status == "submitted";
        if submitted && silent_ms > SUBMITTED_MAX_MS {
            return Err(QueryError::unavailable(format!(
                "query {query} was submitted {} seconds ago and never begun: the functions of this account were too busy, or \
                 its own died; ask again",
                silent_ms / 1000
            )));
        }
        if !submitted && silent_ms > SILENT_MAX_MS {
            return Err(QueryError::unavailable(format!(
                "query {query} has been silent for {} seconds: its function died; see its log",
                silent_ms / 1000
            )));
        }
        raw(&report)
    }

    /// Answers `ask`, and writes its progress and looks for a cancellation if its caller does not wait.
    async fn ask(&self, mut ask: Ask, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        // Tasks and combs need not outlive this function.
        ask.options.timeout_seconds = ask.options.timeout_seconds.min(left.as_secs() + 2);
        let started = Instant::now();
        let progress = Progress::of(query);
        let watched = ask.later;
        let outcome = {
            let answered = self.ask_now(ask, query, &progress, started);
            let watching = self.report(query, &progress, started);
            let over = tokio::time::sleep(left);
            tokio::pin!(answered, watching, over);
            let (mut watch, mut in_time) = (watched, true);
            loop {
                tokio::select! {
                    biased;
                    answered = &mut answered => break answered,
                    // It ends when the query is cancelled; then the query ends, once it has told its tasks and combs.
                    () = &mut watching, if watch => watch = false,
                    () = &mut over, if in_time => {
                        in_time = false;
                        progress.stop(QueryError::limit(format!(
                            "the time of the Fuse function is over, {} seconds after the query was asked; ask for less, \
                             or raise its timeout (AWS allows 900 seconds)",
                            started.elapsed().as_secs()
                        )));
                    }
                }
            }
        };
        if let Err(error) = &outcome {
            let milliseconds = millis(started.elapsed());
            tracing::error!(query_id = %query, kind = %error.kind, %error, milliseconds, "query failed");
        }
        outcome
    }

    /// Writes progress once a second until somebody cancels the query, and then stops it.
    async fn report(&self, query: QueryId, progress: &Progress, started: Instant) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let report = ProgressReport::new("running", query, progress, millis(started.elapsed()));
            match self.report_once(query, &report).await {
                Ok(false) => {}
                Ok(true) => {
                    progress.stop(QueryError::cancelled("the query was cancelled"));
                    return;
                }
                // The next second will tell.
                Err(error) => tracing::warn!(query_id = %query, %error, "progress cannot be written"),
            }
        }
    }

    /// Writes `report`; whether the query is cancelled.
    async fn report_once(&self, query: QueryId, report: &ProgressReport) -> Result<bool> {
        let silent = || QueryError::unavailable(format!("nothing is heard for {} seconds", REPORT_MAX.as_secs()));
        let place = self.results.of_query(query, "cancel")?;
        let looked = tokio::time::timeout(REPORT_MAX, self.results.get(&place)).await;
        let cancelled = looked.unwrap_or_else(|_| Err(silent()))?.is_some();
        let status = if cancelled { "cancelling" } else { "running" };
        let report = ProgressReport { status: status.to_string(), ..report.clone() };
        let place = self.results.of_query(query, "progress.json")?;
        let written = tokio::time::timeout(REPORT_MAX, self.results.put_json(&place, &report)).await;
        match written.unwrap_or_else(|_| Err(silent())) {
            Err(error) if !cancelled => Err(error),
            _ => Ok(cancelled),
        }
    }

    async fn ask_now(&self, ask: Ask, query: QueryId, progress: &Progress, started: Instant) -> Result<Box<RawValue>> {
        let Ask { query: asked, mut options, output, encoding, explain, mut warnings, .. } = ask;
        let before = self.requests.load(Ordering::Relaxed);
        // Of what Fuse reduces itself. Combs and HBees know their own size.
        let own_bytes = self.settings.memory_mb << 20;
        options.memory_bytes = options.memory_bytes.min(own_bytes * OPERATOR_PERCENT / 100);
        options.inbox_memory_bytes = options.inbox_memory_bytes.min(own_bytes * INBOX_PERCENT / 100);
        let request = Request { query: asked, base: "/".into(), options };
        let plan = progress.unless_stopped(self.fuse.plan(&request)).await?;
        warnings.extend(plan.warnings.iter().cloned());

        let mut rows = Rows::new();
        let (summary, explained) = if explain || plan.explain == Explain::Plan {
            (Summary::default(), Some(self.fuse.explain(&plan).await?))
        } else if plan.explain == Explain::Analyze {
            let summary = self.fuse.answer(&plan, progress, &mut NoRows).await?;
            let text = self.fuse.explain_analyzed(&plan, &summary).await?;
            (summary, Some(text))
        } else {
            check_encoding(&plan, &output, encoding)?;
            (self.fuse.answer(&plan, progress, &mut rows).await?, None)
        };
        let rows = Arc::new(rows);
        let encoded = match output {
            None => encode(&rows, encoding)?,
            Some(_) => None,
        };
        let place = match encoded {
            Some(_) => None,
            None => {
                let output = output.unwrap_or_else(|| Output::of(encoding));
                Some(progress.unless_stopped(self.put_rows(&rows, query, output)).await?)
            }
        };
        let requests = self.requests.load(Ordering::Relaxed) - before;
        let used = self.used(progress, requests, started);
        let (rows_json, rows_arrow) = match encoded {
            Some(Encoded::Json(json)) => (Some(json), None),
            Some(Encoded::Arrow(text)) => (None, Some(text)),
            None => (None, None),
        };
        let total_ms = millis(started.elapsed());
        let answer = Answer {
            status: "answered",
            query_id: query,
            columns: columns(&rows),
            rows: rows_json,
            rows_arrow,
            output: place,
            explain: explained,
            row_count: summary.rows,
            summary: AnswerSummary::new(&summary, &used, Progress::get(&progress.reruns), total_ms),
            warnings,
        };
        println!("{}", tail(&rows, summary.rows)?);
        tracing::info!(
            query_id = %query,
            cost_usd = answer.summary.cost_usd,
            tasks = summary.tasks,
            bytes_read = summary.bytes_read,
            gb_seconds = answer.summary.gb_seconds,
            milliseconds = total_ms,
            "query answered"
        );
        raw(&answer)
    }

    fn used(&self, progress: &Progress, own_requests: u64, started: Instant) -> Used {
        let combs = self.settings.combs.as_ref();
        Used {
            hbee_milliseconds: Progress::get(&progress.task_milliseconds),
            hbee_memory_mb: self.settings.hbee.memory_mb,
            invocations: Progress::get(&progress.invocations),
            fuse_milliseconds: millis(started.elapsed()),
            fuse_memory_mb: self.settings.memory_mb,
            comb_milliseconds: Progress::get(&progress.comb_milliseconds),
            comb_vcpus: combs.map_or(0.0, |combs| combs.vcpus),
            comb_memory_mb: combs.map_or(0, |combs| combs.memory_mb),
            requests: own_requests + Progress::get(&progress.requests),
        }
    }

    async fn put_rows(&self, rows: &Arc<Rows>, query: QueryId, output: Output) -> Result<OutputPlace> {
        let place = match &output.uri {
            Some(uri) => Location::parse(uri, std::path::Path::new("/"))?,
            None => self.results.of_query(query, &format!("result.{}", output.format))?,
        };
        let store = self.results.store(&place)?;
        let bytes = upload::rows(Arc::clone(rows), output.format, store, &place).await?;
        let url = self.results.link(&place, LINK_VALID).await?;
        Ok(OutputPlace { uri: place.to_string(), format: output.format.to_string(), url, bytes })
    }
}

/// What cannot be written is told before anything runs.
fn check_encoding(plan: &QueryPlan, output: &Option<Output>, encoding: crate::event::Encoding) -> Result<()> {
    let wanted = output.as_ref().map_or(Output::of(encoding).format, |output| output.format);
    match plan.reduces.last() {
        Some(last) => format::check(&last.schema, wanted),
        None => Ok(()),
    }
}

impl Output {
    /// Where rows go that are too large for an answer.
    fn of(encoding: crate::event::Encoding) -> Output {
        let format = match encoding {
            crate::event::Encoding::Json => Format::Json,
            crate::event::Encoding::Arrow => Format::Arrow,
        };
        Output { uri: None, format }
    }
}

impl ProgressReport {
    fn new(status: &str, query: QueryId, progress: &Progress, milliseconds: u64) -> Self {
        let (tasks, tasks_done) = (Progress::get(&progress.tasks), Progress::get(&progress.tasks_done));
        let phase = match (tasks, tasks_done) {
            (0, _) => "plan",
            (tasks, done) if done < tasks => "map",
            _ => "reduce",
        };
        Self {
            status: status.to_string(),
            query_id: query,
            phase: phase.to_string(),
            tasks,
            tasks_done,
            rows_scanned: Progress::get(&progress.rows_scanned),
            bytes_scanned: Progress::get(&progress.bytes_scanned),
            retries: Progress::get(&progress.retries),
            milliseconds,
            written_ms: now_ms(),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(value)
        .map_err(|error| QueryError::new(ErrorKind::Internal, format!("an answer has no JSON: {error}")))
}
