//! The desk: where all doors bring their questions. It resolves names, waits for a slot, runs the query, and ends it if the
//! caller goes away.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use buzz_engine::{
    Answer, Content, Engine, Estimate, Progress, ProgressReport, Question, RowSink, Rows, Summary, Want,
};
use buzz_protocol::{
    CatalogEntry, ErrorKind, Format, Options, Param, Query, QueryBody, QueryError, QueryId, Result, milliseconds,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::history::{ATTEMPTS_MAX, History};
use crate::kept::{Places, Reservation};
use crate::names::Names;
use crate::planner;
use crate::queue::{Queue, Slot};
use crate::scan::{self, Kind};

/// The name of the only catalog and of its only schema.
pub(crate) const CATALOG: &str = "buzz";
pub(crate) const SCHEMA: &str = "public";

/// Bounds of the desk.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Queries that run at the same time.
    pub running: usize,
    /// Queries that wait for a slot.
    pub waiting: usize,
    /// Answers that are kept at the same time, while they are sent. Each has up to 128 MiB in memory and the rest in a file. One
    /// user can have half of them.
    pub answers: usize,
}

/// The place to which all doors bring their questions.
#[derive(Debug)]
pub(crate) struct Desk {
    engine: Arc<dyn Engine>,
    /// The tables.
    pub(crate) names: Names,
    /// Options of queries that set none.
    pub(crate) options: Options,
    queue: Queue,
    kept: Places,
    running: Arc<Mutex<HashMap<QueryId, Running>>>,
    /// Counts since the start.
    pub(crate) counts: Counts,
    /// Queries of each user.
    pub(crate) history: History,
    /// Ends all queries when the server stops.
    pub(crate) stopping: CancellationToken,
}

#[derive(Debug)]
struct Running {
    user: String,
    progress: Option<Arc<Progress>>,
    cancelled: CancellationToken,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Queries that succeeded.
    pub(crate) succeeded: AtomicU64,
    /// Queries that failed, by kind of the error.
    failed: Mutex<BTreeMap<&'static str, u64>>,
    /// Rows of all answers.
    pub(crate) rows: AtomicU64,
    /// Bytes read from storage.
    pub(crate) bytes_read: AtomicU64,
    /// Milliseconds of all answered queries, without their wait for a slot.
    pub(crate) milliseconds: AtomicU64,
    /// Millionths of a US dollar spent.
    pub(crate) cost_micros: AtomicU64,
}

impl Counts {
    /// Returns the number of failed queries by kind of the error.
    pub(crate) fn failed(&self) -> BTreeMap<&'static str, u64> {
        self.failed.lock().clone()
    }

    fn add(&self, outcome: &Result<Answer>) {
        match outcome {
            Ok(answer) => {
                let summary = &answer.summary;
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                self.rows.fetch_add(summary.rows, Ordering::Relaxed);
                self.bytes_read.fetch_add(summary.bytes_read, Ordering::Relaxed);
                let milliseconds = milliseconds(summary.total);
                self.milliseconds.fetch_add(milliseconds, Ordering::Relaxed);
                let cost = summary.cost_usd.unwrap_or_default() + summary.started_usd.unwrap_or_default();
                let micros = (cost * 1e6).round();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a cost is small and positive"
                )]
                self.cost_micros.fetch_add(micros as u64, Ordering::Relaxed);
            }
            Err(error) => *self.failed.lock().entry(kind_name(error.kind)).or_default() += 1,
        }
    }
}

fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::Data => "data",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Limit => "limit",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Internal => "internal",
    }
}

/// A question of a user.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Id of the query.
    pub(crate) id: QueryId,
    /// The user.
    pub(crate) user: String,
    /// One statement.
    pub(crate) sql: String,
    /// Values of parameters by name, without `$`.
    pub(crate) params: BTreeMap<String, Param>,
    /// The options.
    pub(crate) options: Options,
    /// The format in which the door writes the rows.
    pub(crate) format: Format,
}

/// The rows of an answer, and work done for it.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Id of the query.
    pub(crate) id: QueryId,
    /// All rows.
    pub(crate) rows: Rows,
    /// The work.
    pub(crate) summary: Summary,
    /// Warnings.
    pub(crate) warnings: Vec<String>,
    /// Counts this answer among those that are kept.
    _kept: Reservation,
}

impl Answered {
    /// Returns the estimate of a plan.
    ///
    /// # Errors
    /// `Internal` if this is the answer of a query that ran, or the engine made no estimate.
    pub(crate) fn estimate(&self) -> Result<Estimate> {
        self.summary.estimate.ok_or_else(|| QueryError::internal("the engine returned a plan without an estimate"))
    }
}

/// Cancels a query when the future that waits for it is dropped.
struct Waiting<'a> {
    desk: &'a Desk,
    id: QueryId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let running = self.desk.running.lock().remove(&self.id);
        let left = QueryError::cancelled("the query was cancelled: its client went away");
        self.desk.history.failed(self.id, &left);
        if let Some(progress) = running.and_then(|running| running.progress) {
            progress.stop(left);
        }
    }
}

impl Desk {
    /// Makes a desk in front of `engine`.
    pub(crate) fn new(engine: Arc<dyn Engine>, names: Names, options: Options, bounds: Bounds) -> Self {
        Self {
            engine,
            names,
            options,
            queue: Queue::new(bounds.running.max(1), bounds.waiting),
            kept: Places::new(bounds.answers),
            running: Arc::default(),
            counts: Counts::default(),
            history: History::default(),
            stopping: CancellationToken::new(),
        }
    }

    /// Returns the number of running and of waiting queries.
    pub(crate) fn queue_counts(&self) -> (usize, usize) {
        self.queue.counts()
    }

    /// Returns true if an answer of `user` has to wait until another is no longer kept.
    pub(crate) fn keeps_enough(&self, user: &str) -> bool {
        self.kept.are_taken(user)
    }

    /// Answers `request`. Dropping the future cancels the query; its slot is passed on once its tasks are released.
    ///
    /// # Errors
    /// `Invalid` if the statement is wrong or names an unknown table, `Limit` if too many queries wait, `Cancelled`, and
    /// the errors of the query.
    pub(crate) async fn answer(&self, request: Request) -> Result<Answered> {
        let want = Want::Rows(request.format);
        self.answer_with(request, want).await
    }

    /// Plans `request` without running it. The plan is `(QUERY PLAN: Utf8)`, one row per line.
    ///
    /// # Errors
    /// As [`Desk::answer`].
    pub(crate) async fn plan(&self, request: Request) -> Result<Answered> {
        self.answer_with(request, Want::Plan).await
    }

    async fn answer_with(&self, request: Request, want: Want) -> Result<Answered> {
        let id = request.id;
        let cancelled = self.stopping.child_token();
        let entry = Running { user: request.user.clone(), progress: None, cancelled: cancelled.clone() };
        self.running.lock().insert(id, entry);
        if matches!(want, Want::Rows(_)) {
            self.history.asked(id, &request.user, &request.sql);
        }
        let _waiting = Waiting { desk: self, id };
        let outcome = tokio::select! {
            biased;
            () = cancelled.cancelled() => Err(self.cancelled()),
            outcome = self.run(request, want, &cancelled) => outcome,
        };
        match &outcome {
            Ok(answered) => self.history.succeeded(id, &answered.summary, &answered.warnings),
            Err(error) => {
                tracing::info!(query_id = %id, kind = %error.kind, %error, "query failed");
                self.history.failed(id, error);
            }
        }
        outcome
    }

    fn cancelled(&self) -> QueryError {
        if self.stopping.is_cancelled() {
            return QueryError::unavailable("the server is stopping");
        }
        QueryError::cancelled("the query was cancelled")
    }

    async fn run(&self, request: Request, want: Want, cancelled: &CancellationToken) -> Result<Answered> {
        let (id, user) = (request.id, request.user.clone());
        let question = self.question(request, want).await?;
        let changes_names = is_change(&question);
        let (slot, mut kept) = self.admitted(&user).await?;
        let started = Instant::now();
        tracing::info!(query_id = %id, user, "query begins");
        let mut running = self.engine.start(question);
        let progress = Arc::clone(running.progress());
        if let Some(entry) = self.running.lock().get_mut(&id) {
            entry.progress = Some(Arc::clone(&progress));
        }
        self.history.runs(id, &progress);
        let (sender, receiver) = oneshot::channel();
        let stop = cancelled.clone();
        // In a task of its own: when the caller goes away, the slot is kept until the tasks of the query are released.
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = running.answer() => outcome,
                () = stop.cancelled() => {
                    running.cancel();
                    running.answer().await
                }
            };
            drop(slot);
            drop(sender.send(outcome));
        });
        let outcome = receiver.await.unwrap_or_else(|_| Err(QueryError::internal("the query ended without an answer")));
        if changes_names {
            self.names.forget().await;
        }
        let outcome = match outcome {
            Ok(answer) => tokio::select! {
                held = kept.hold(bytes_of(&answer)) => held.map(|()| answer),
                () = cancelled.cancelled() => Err(self.cancelled()),
            },
            Err(error) => Err(error),
        };
        self.counts.add(&outcome);
        tracing::info!(query_id = %id, user, milliseconds = started.elapsed().as_millis(), "query ended");
        let Answer { content, mut summary, .. } = outcome?;
        let rows = match content {
            Content::Rows(rows) => rows,
            Content::Passed => return Err(QueryError::internal("the rows were passed to another place")),
            Content::Plan(text) => {
                // The rows of the answer are the lines of the plan, not those of the query that it is about.
                summary.rows = text.lines().count() as u64;
                plan_rows(&text)?
            }
        };
        Ok(Answered { id, rows, summary, warnings: progress.warnings(), _kept: kept })
    }

    /// Waits for a slot, and for a place in which the answer is kept. Who waits for one of them does not hold up others: a slot
    /// is passed on before the wait for a place, and a query that waits for its first slot has no place.
    async fn admitted(&self, user: &str) -> Result<(Slot, Reservation)> {
        let slot = self.queue.slot(user).await?;
        if let Some(kept) = self.kept.free(user) {
            return Ok((slot, kept));
        }
        drop(slot);
        let kept = self.kept.wait(user).await?;
        Ok((self.queue.slot(user).await?, kept))
    }

    /// Makes the question of a request: with the entries of the tables that its statement names.
    async fn question(&self, request: Request, want: Want) -> Result<Question> {
        let sql = without_catalog(&request.sql);
        let catalogs = match buzz_registry::may_change_names(&sql) {
            false => self.entries(&sql).await?,
            // The registry finds what the definition of a view reads.
            true if self.names.can_change() => Vec::new(),
            true => {
                return Err(QueryError::invalid(
                    "this server does not change names; start it with `--names change`, or use `buzz tables` or `buzz sql`",
                ));
            }
        };
        let query = Query { catalogs, body: QueryBody::Sql(sql), zones: 1, params: request.params };
        let mut options = request.options;
        if options.timeline_attempts == 0 {
            // The console shows the tasks of a query of any door.
            options.timeline_attempts = ATTEMPTS_MAX;
        }
        let question = Question::new(query, self.names.base()).with_options(options);
        Ok(Question { id: request.id, ..question.with_want(want) })
    }

    async fn entries(&self, sql: &str) -> Result<Vec<CatalogEntry>> {
        let known = self.names.entries().await?;
        let statement = match planner::parsed(sql) {
            Ok(statement) => statement,
            Err(error) if error.kind == ErrorKind::Limit => return Ok(known.all().to_vec()),
            // The engine reports what is wrong with it.
            Err(_) => return Ok(Vec::new()),
        };
        let Ok(relations) = planner::relations(&statement) else { return Ok(known.all().to_vec()) };
        let mut entries: Vec<CatalogEntry> = Vec::new();
        for relation in relations {
            if relation.schema().is_some_and(|schema| schema.eq_ignore_ascii_case("information_schema")) {
                return Ok(known.all().to_vec());
            }
            for entry in known.with_read(relation.table())? {
                if !entries.iter().any(|other| other.name == entry.name) {
                    entries.push(entry.clone());
                }
            }
        }
        Ok(entries)
    }

    /// Cancels query `id` if it is one of `user`, and returns true if so.
    pub(crate) fn cancel(&self, id: QueryId, user: &str) -> bool {
        self.cancel_of(id, Some(user))
    }

    /// Cancels query `id` if it is one of `user`, or of any user if that is None. Returns true if so.
    pub(crate) fn cancel_of(&self, id: QueryId, user: Option<&str>) -> bool {
        let running = self.running.lock();
        let found = running.get(&id).filter(|running| user.is_none_or(|user| running.user == user));
        found.inspect(|running| running.cancelled.cancel()).is_some()
    }

    /// Returns the counts of a running query of `user`; None if it waits for a slot.
    pub(crate) fn progress(&self, id: QueryId, user: &str) -> Option<ProgressReport> {
        let running = self.running.lock();
        let found = running.get(&id).filter(|running| running.user == user)?;
        Some(found.progress.as_ref()?.report(id))
    }
}

/// Returns the bytes that are kept of an answer.
fn bytes_of(answer: &Answer) -> u64 {
    match &answer.content {
        Content::Rows(rows) => rows.bytes(),
        Content::Passed => 0,
        Content::Plan(text) => text.len() as u64,
    }
}

/// Checks if the statement of `question` changes a name.
fn is_change(question: &Question) -> bool {
    matches!(&question.query.body, QueryBody::Sql(sql) if buzz_registry::may_change_names(sql))
}

/// Returns `sql` without the name of the catalog before that of its schema, which engines do not know.
pub(crate) fn without_catalog(sql: &str) -> String {
    let tokens = scan::tokens(sql);
    let is_name = |number: usize, name: &str| {
        let token = tokens.get(number);
        token.is_some_and(|token| matches!(token.kind, Kind::Word | Kind::Quoted) && token.name(sql) == name)
    };
    let is_dot = |number: usize| tokens.get(number).is_some_and(|token| token.is_symbol(sql, '.'));
    let begins = |number: usize| {
        (number == 0 || !is_dot(number - 1))
            && is_name(number, CATALOG)
            && is_dot(number + 1)
            && is_name(number + 2, SCHEMA)
            && is_dot(number + 3)
    };
    scan::replaced(sql, |number, _| (begins(number) || number > 0 && begins(number - 1)).then(String::new))
}

/// Returns a plan as rows, one per line: `(QUERY PLAN: Utf8)`.
fn plan_rows(text: &str) -> Result<Rows> {
    let schema = Arc::new(Schema::new(vec![Field::new("QUERY PLAN", DataType::Utf8, true)]));
    let lines: ArrayRef = Arc::new(StringArray::from(text.lines().collect::<Vec<_>>()));
    let mut rows = Rows::new();
    rows.start(Arc::clone(&schema))?;
    rows.write(RecordBatch::try_new(schema, vec![lines])?)?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_is_removed_before_its_schema_only() {
        let text =
            without_catalog("SELECT buzz.x, 'buzz.public.' FROM buzz.public.t, \"buzz\".\"public\".\"T\", a.buzz");
        assert_eq!(text, "SELECT buzz.x, 'buzz.public.' FROM public.t, \"public\".\"T\", a.buzz");
    }
}
