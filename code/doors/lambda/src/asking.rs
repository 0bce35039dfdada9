//! Answers one query within the time of an invocation, and reports its progress.

use std::sync::Arc;
use std::time::Duration;

use buzz_aws::price::Sizes;
use buzz_engine::wire::{AnswerMessage, Ask, Column, OutputPlace};
use buzz_engine::{Content, Engine, Progress, ProgressReport, Rows, Running, Status, Used};
use buzz_protocol::{Format, Place, QueryError, QueryId, Requests, Result, milliseconds};
use buzz_storage::Location;
use buzz_telemetry::{continue_from, span, traced};
use buzz_worker::metrics::Measured;
use serde_json::value::RawValue;

use crate::encode::{Encoded, encode, summary_message};
use crate::function::{FuseFunction, raw};
use crate::upload;

/// Shares of Fuse's memory for the operators and the inbox of a query that it reduces itself.
const OPERATOR_PERCENT: u64 = 40;
const INBOX_PERCENT: u64 = 20;

/// Interval at which progress is written and cancellation is checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Maximum time to check for cancellation or to write progress. The next [`LOOK_EVERY`] tick tries again.
const REPORT_MAX: Duration = Duration::from_secs(5);

/// Maximum validity of a link to a result. The link expires earlier if the function's credentials do.
const LINK_VALID: Duration = Duration::from_secs(3600);

impl FuseFunction {
    /// Answers `ask`. For an asynchronous query, also writes progress and checks for cancellation.
    pub(crate) async fn ask(&self, ask: Ask, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        let span = span!("fuse", otel.kind = "server", query_id = %query);
        continue_from(&span, ask.traceparent.as_deref());
        traced(span, self.ask_in_span(ask, query, left)).await
    }

    async fn ask_in_span(&self, mut ask: Ask, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        self.output_place(&ask)?;
        let options = &mut ask.options;
        self.settings.limits.apply(options);
        // Tasks and combs do not need to outlive this function.
        options.timeout_seconds = options.timeout_seconds.min(left.as_secs() + 2);
        // Limits what Fuse reduces itself. Combs and HBees apply their own memory limits.
        let own_bytes = self.settings.memory_mb << 20;
        options.memory_bytes = options.memory_bytes.min(own_bytes * OPERATOR_PERCENT / 100);
        options.inbox_memory_bytes = options.inbox_memory_bytes.min(own_bytes * INBOX_PERCENT / 100);

        if let Some(combs) = &self.settings.combs {
            combs.bound(options);
        }

        let before = self.results.requests();
        let mut running = self.engine.start(ask.question(query));
        let progress = Arc::clone(running.progress());
        let outcome = {
            let answered = self.answer_message(&mut running, &ask, query, before);
            let watching = self.report(query, &progress);
            let over = tokio::time::sleep(left);
            tokio::pin!(answered, watching, over);
            let (mut watch, mut in_time) = (ask.later, true);
            loop {
                tokio::select! {
                    biased;
                    answered = &mut answered => break answered,
                    // Ends when the query is cancelled. The query then ends, once its tasks and combs are released.
                    () = &mut watching, if watch => watch = false,
                    () = &mut over, if in_time => {
                        in_time = false;
                        progress.stop(QueryError::limit(format!(
                            "the Fuse function reached its time limit, {} seconds after the query began; read \
                             less, or raise its timeout (AWS allows 900 seconds)",
                            progress.elapsed().as_secs()
                        )));
                    }
                }
            }
        };
        if let Err(error) = &outcome {
            let milliseconds = milliseconds(progress.elapsed());
            let (kind, error) = (error.kind, error.without_values());
            tracing::error!(query_id = %query, %kind, error, milliseconds, "query failed");
            let bytes = Progress::get(&progress.bytes_scanned);
            Measured { role: "fuse", query, milliseconds, rows: 0, bytes, failed: Some(kind) }.write();
        }
        outcome
    }

    /// Writes progress every second until the query is cancelled, and then stops it.
    async fn report(&self, query: QueryId, progress: &Progress) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            match self.report_once(query, &progress.report(query)).await {
                Ok(false) => {}
                Ok(true) => {
                    progress.stop(QueryError::cancelled("the query was cancelled"));
                    return;
                }
                // The next tick tries again.
                Err(error) => tracing::warn!(query_id = %query, %error, "failed to write progress"),
            }
        }
    }

    /// Writes `report`. Returns true if the query is cancelled.
    async fn report_once(&self, query: QueryId, report: &ProgressReport) -> Result<bool> {
        let silent = || QueryError::unavailable(format!("storage did not answer for {} seconds", REPORT_MAX.as_secs()));
        let place = self.results.of_query(query, "cancel")?;
        let looked = tokio::time::timeout(REPORT_MAX, self.results.get(&place)).await;
        let cancelled = looked.unwrap_or_else(|_| Err(silent()))?.is_some();
        let status = if cancelled { Status::Cancelling } else { Status::Running };
        let report = ProgressReport { status, written_ms: buzz_protocol::now_ms(), ..report.clone() };
        let place = self.results.of_query(query, "progress.json")?;
        let written = tokio::time::timeout(REPORT_MAX, self.results.put_json(&place, &report)).await;
        match written.unwrap_or_else(|_| Err(silent())) {
            Err(error) if !cancelled => Err(error),
            _ => Ok(cancelled),
        }
    }

    /// Waits for the answer and encodes it, or stores its rows and encodes their place. `before` are the requests
    /// for the stack's own objects when the query began.
    async fn answer_message(
        &self,
        running: &mut Running,
        ask: &Ask,
        query: QueryId,
        before: Requests,
    ) -> Result<Box<RawValue>> {
        let answer = running.answer().await?;
        let progress = running.progress();
        let (rows, explain) = match answer.content {
            Content::Rows(rows) => (Arc::new(rows), None),
            Content::Passed => return Err(QueryError::internal("the rows were passed to another place")),
            Content::Plan(text) => (Arc::new(Rows::new()), Some(text)),
        };
        let encoded = match ask.output {
            None => encode(&rows, ask.encoding)?,
            Some(_) => None,
        };
        let output = match encoded {
            Some(_) => None,
            None => {
                let format = ask.output.as_ref().map_or(ask.encoding.format(), |output| output.format);
                let put = self.put_rows(&rows, query, self.output_place(ask)?, format);
                Some(progress.unless_stopped(put).await?)
            }
        };
        let used = progress.used();
        let requests = used.requests + (self.results.requests() - before);
        let used = Used { requests, ..used };
        let (rows_json, rows_arrow) = match encoded {
            Some(Encoded::Json(json)) => (Some(json), None),
            Some(Encoded::Arrow(text)) => (None, Some(text)),
            None => (None, None),
        };
        let milliseconds = milliseconds(progress.elapsed());
        let message = AnswerMessage {
            status: "answered".to_string(),
            query_id: query,
            columns: Column::all(&rows.schema()),
            rows: rows_json,
            rows_arrow,
            output,
            explain,
            row_count: answer.summary.rows,
            estimate: answer.summary.estimate,
            summary: summary_message(&answer.summary, &used, &Sizes::of(&self.settings), milliseconds),
            warnings: ask.warnings.iter().cloned().chain(progress.warnings()).collect(),
        };
        tracing::info!(
            query_id = %query,
            cost_usd = message.summary.cost_usd,
            started_usd = message.summary.started_usd,
            get_requests = requests.gets,
            put_requests = requests.puts,
            tasks = answer.summary.tasks,
            bytes_read = answer.summary.bytes_read,
            gb_seconds = message.summary.gb_seconds,
            milliseconds,
            "query answered"
        );
        let (rows, bytes) = (answer.summary.rows, answer.summary.bytes_read);
        Measured { role: "fuse", query, milliseconds, rows, bytes, failed: None }.write();
        raw(&message)
    }

    /// Returns the place that the event names for the rows, if any.
    ///
    /// # Errors
    /// `Invalid` if results may not be written there.
    pub(crate) fn output_place(&self, ask: &Ask) -> Result<Option<Location>> {
        let Some(uri) = ask.output.as_ref().and_then(|output| output.uri.as_ref()) else {
            return Ok(None);
        };
        let place = Location::parse(uri, std::path::Path::new("/"))?;
        let checked = self.results.check_output(&place);
        checked.map_err(|error| error.at(Place::Query("event in `output.uri`".to_string())))?;
        Ok(Some(place))
    }

    async fn put_rows(
        &self,
        rows: &Arc<Rows>,
        query: QueryId,
        place: Option<Location>,
        format: Format,
    ) -> Result<OutputPlace> {
        let place = match place {
            Some(place) => place,
            None => self.results.of_query(query, &format!("result.{format}"))?,
        };
        let store = self.results.store(&place)?;
        let bytes = upload::rows(Arc::clone(rows), format, store, &place).await?;
        let url = self.results.link(&place, LINK_VALID).await?;
        Ok(OutputPlace { uri: place.to_string(), format: format.to_string(), url, bytes })
    }
}
