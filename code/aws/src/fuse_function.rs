//! Fuse as a Lambda function: receives an event and returns an answer.
//!
//! A synchronous query is answered by the invocation that received it. An asynchronous query is stored and answered by
//! another invocation, which Fuse starts itself. Its progress, its answer and a request to cancel it are objects under
//! the stack's results.

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

/// Time before the function's timeout at which a query is stopped, so that tasks, combs and the caller are notified.
const MARGIN: Duration = Duration::from_secs(5);

/// Shares of Fuse's memory for the operators and the inbox of a query that it reduces itself.
const OPERATOR_PERCENT: u64 = 40;
const INBOX_PERCENT: u64 = 20;

/// Interval at which progress is written and cancellation is checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Milliseconds without a progress report after which a query counts as lost.
const SILENT_MAX_MS: u64 = 30_000;

/// Maximum time to check for cancellation or to write progress. The next [`LOOK_EVERY`] tick tries again.
const REPORT_MAX: Duration = Duration::from_secs(5);

/// Maximum milliseconds between the submission of a query and its start. Lambda drops events older than five minutes
/// (`maximum_event_age_in_seconds` in `infra/modules/functions`).
const SUBMITTED_MAX_MS: u64 = 330_000;

/// Maximum validity of a link to a result. The link expires earlier if the function's credentials do.
const LINK_VALID: Duration = Duration::from_secs(3600);

/// Answers the events of one process, one at a time.
#[derive(Debug)]
pub struct FuseFunction {
    fuse: Fuse,
    requests: Arc<AtomicU64>,
    results: Results,
    settings: FuseSettings,
    lambda: Client,
}

/// The progress of a query, as returned to a caller that watches it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgressReport {
    /// `submitted`, `running` or `cancelling`.
    pub status: String,
    /// Id of the query.
    pub query_id: QueryId,
    /// `plan`, `map` or `reduce`.
    pub phase: String,
    /// Tasks of all map stages.
    pub tasks: u64,
    /// Tasks whose delivery was accepted.
    pub tasks_done: u64,
    /// Rows that the scans of the accepted tasks returned.
    pub rows_scanned: u64,
    /// Bytes that the accepted tasks read.
    pub bytes_scanned: u64,
    /// Attempts beyond each task's first.
    pub retries: u64,
    /// Milliseconds since Fuse started to answer the query.
    pub milliseconds: u64,
    /// Time of this report, in milliseconds since 1970.
    pub written_ms: u64,
}

/// The stored failure of an asynchronous query.
#[derive(Debug, Serialize, Deserialize)]
struct Failed {
    status: String,
    error: QueryError,
}

impl FuseFunction {
    /// Creates a function that runs queries on `fuse` and stores its objects in `results`. `requests` counts the
    /// storage requests of both.
    pub fn new(
        fuse: Fuse,
        results: Results,
        requests: Arc<AtomicU64>,
        settings: FuseSettings,
        sdk: &SdkConfig,
    ) -> Self {
        // Repeating an event to itself is safe: only one invocation resumes a query.
        let config = aws_sdk_lambda::config::Builder::from(sdk).retry_config(RetryConfig::standard()).build();
        Self { fuse, requests, results, settings, lambda: Client::from_conf(config) }
    }

    /// Answers `event` before `deadline_ms` (milliseconds since 1970), when the service stops this process.
    ///
    /// # Errors
    /// `Invalid` if the event is malformed, otherwise as for [`Fuse::plan`] and [`Fuse::answer`].
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
        // The service may deliver an asynchronous event twice. Only one of the two invocations continues.
        if !self.results.claim(&self.results.of_query(query, "started")?).await? {
            return raw(&json!({"status": "running", "query_id": query}));
        }
        let request: Option<Value> = self.results.get_json(&self.results.of_query(query, "request.json")?).await?;
        let outcome = match request.as_ref().map(Event::parse) {
            Some(Ok(Event::Ask(ask))) => unpanicked(self.ask(*ask, query, left)).await,
            Some(Err(error)) => Err(error),
            _ => Err(QueryError::internal(format!("the request of query {query} does not exist"))),
        };
        let place = self.results.of_query(query, "answer.json")?;
        match &outcome {
            Ok(answer) => self.results.put(&place, answer.get().to_string()).await?,
            Err(error) => {
                let failed = Failed { status: "failed".to_string(), error: error.clone() };
                self.results.put_json(&place, &failed).await?;
            }
        }
        // The service discards the answer of an asynchronous invocation.
        raw(&json!({"status": if outcome.is_ok() { "answered" } else { "failed" }, "query_id": query}))
    }

    async fn watch(&self, query: QueryId) -> Result<Box<RawValue>> {
        if let Some(answer) = self.results.get(&self.results.of_query(query, "answer.json")?).await? {
            if let Ok(Failed { error, .. }) = serde_json::from_slice(&answer) {
                return Err(error);
            }
            let answer =
                String::from_utf8(answer.to_vec()).map_err(|_| QueryError::internal("an answer is not UTF-8"))?;
            return RawValue::from_string(answer)
                .map_err(|error| QueryError::internal(format!("an answer is not JSON: {error}")));
        }
        let report: Option<ProgressReport> =
            self.results.get_json(&self.results.of_query(query, "progress.json")?).await?;
        let report = report.ok_or_else(|| QueryError::invalid(format!("query {query} does not exist")))?;
        let silent_ms = now_ms().saturating_sub(report.written_ms);
        let submitted = report.status == "submitted";
        if submitted && silent_ms > SUBMITTED_MAX_MS {
            return Err(QueryError::unavailable(format!(
                "query {query} was submitted {} seconds ago and did not start: all functions of the account were busy, \
                 or its own stopped; submit the query again",
                silent_ms / 1000
            )));
        }
        if !submitted && silent_ms > SILENT_MAX_MS {
            return Err(QueryError::unavailable(format!(
                "query {query} has not reported progress for {} seconds: its function stopped; see the function's log",
                silent_ms / 1000
            )));
        }
        raw(&report)
    }

    /// Answers `ask`. For an asynchronous query, also writes progress and checks for cancellation.
    async fn ask(&self, mut ask: Ask, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        // Tasks and combs do not need to outlive this function.
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
                    // Completes when the query is cancelled. The query then ends after it has notified tasks and combs.
                    () = &mut watching, if watch => watch = false,
                    () = &mut over, if in_time => {
                        in_time = false;
                        progress.stop(QueryError::limit(format!(
                            "the Fuse function reached its time limit {} seconds after the query started; read less \
                             data, or raise the function's timeout (AWS allows 900 seconds)",
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

    /// Writes progress every [`LOOK_EVERY`] until the query is cancelled, then stops the query.
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
                // The next tick tries again.
                Err(error) => tracing::warn!(query_id = %query, %error, "progress cannot be written"),
            }
        }
    }

    /// Writes `report`. Returns true if the query is cancelled.
    async fn report_once(&self, query: QueryId, report: &ProgressReport) -> Result<bool> {
        let silent = || QueryError::unavailable(format!("storage did not answer for {} seconds", REPORT_MAX.as_secs()));
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
        // Limits what Fuse reduces itself. Combs and HBees apply their own memory limits.
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

/// Checks before the run that the result can be written in the requested format.
fn check_encoding(plan: &QueryPlan, output: &Option<Output>, encoding: crate::event::Encoding) -> Result<()> {
    let wanted = output.as_ref().map_or(Output::of(encoding).format, |output| output.format);
    match plan.reduces.last() {
        Some(last) => format::check(&last.schema, wanted),
        None => Ok(()),
    }
}

impl Output {
    /// Returns the output for rows that are too large for an answer.
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
        .map_err(|error| QueryError::new(ErrorKind::Internal, format!("an answer cannot be serialized: {error}")))
}
