//! Runs the tasks of all map stages and accepts one delivery for each task.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use buzz_engine::Progress;
use buzz_exchange::{Commit, Delivery, DeliveryWriter, Destination};
use buzz_host::Host;
use buzz_plan::{MapStage, QueryPlan};
use buzz_protocol::{
    Delivered, DeliveryId, ErrorKind, HBeeTask, InlineRows, QueryError, QueryId, Requests, Result, StageId, TaskOutcome,
};
use buzz_telemetry::span;
use futures::StreamExt;
use futures::future::Either;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::attempts::{Attempts, Paid};
use crate::estimate::check_spent;
use crate::inboxes::QueryInboxes;
use crate::reducers::TaskCache;
use crate::reuse::{Part, Parts, to_fuse};
use crate::stragglers::Stragglers;
use crate::tasks::make_task;

/// First wait of the exponential backoff between attempts of a task. It doubles each time, with jitter.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// Maximum wait between attempts of a task.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);

/// Maximum wait that a service can request between attempts of a task.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The failure of a task.
#[derive(Debug)]
pub(crate) struct TaskError {
    /// The failure.
    pub(crate) error: QueryError,
    /// True if the rows of a task did not fit in its outcome: the query may succeed on combs.
    pub(crate) too_large: bool,
}

impl From<QueryError> for TaskError {
    fn from(error: QueryError) -> Self {
        Self { error, too_large: false }
    }
}

/// The stages whose tasks may run.
///
/// A stage of a flowing query waits until a reader reads it. Otherwise its rows would fill memory: the rows of a join's
/// probe side would wait there until the build side is complete.
enum Demand {
    All,
    Read(Vec<watch::Receiver<BTreeSet<StageId>>>),
}

impl Demand {
    fn of(dispatch: &Dispatch<'_>) -> Self {
        let told = dispatch.inboxes.services.iter().map(|service| service.demand(dispatch.query));
        match told.collect::<Option<Vec<_>>>() {
            Some(told) if dispatch.flowing => Self::Read(told),
            _ => Self::All,
        }
    }

    fn includes(&self, stage: StageId) -> bool {
        match self {
            Self::All => true,
            Self::Read(told) => told.iter().any(|stages| stages.borrow().contains(&stage)),
        }
    }

    /// Waits until more stages may run.
    async fn grows(&mut self) {
        let Self::Read(told) = self else {
            return std::future::pending().await;
        };
        let changes = told.iter_mut().map(|stages| Box::pin(stages.changed()));
        if futures::future::select_all(changes).await.0.is_err() {
            // The inboxes were closed; the code that closed them also ends the tasks.
            std::future::pending().await
        }
    }
}

/// The inputs and the destination of the tasks of one run.
pub(crate) struct Dispatch<'a> {
    pub(crate) host: &'a Host,
    pub(crate) plan: &'a QueryPlan,
    pub(crate) query: QueryId,
    pub(crate) inboxes: &'a QueryInboxes,
    pub(crate) progress: &'a Progress,
    /// Rows that an earlier run kept, or that this run keeps for a later one.
    pub(crate) kept: &'a TaskCache,
    /// True if batches are read as they arrive, so that each task has one attempt only.
    pub(crate) flowing: bool,
    /// True if combs take over when the rows exceed what Fuse can hold.
    pub(crate) or_combs: bool,
    pub(crate) stragglers: Stragglers,
    /// Rows of tasks of earlier queries.
    pub(crate) parts: Parts<'a>,
}

impl Dispatch<'_> {
    /// Runs every task of every stage, at most `concurrency` at once, until all are accepted. A task that fails with
    /// `Unavailable` is retried; any other failure fails the query. Dropping the future abandons the running tasks.
    ///
    /// # Errors
    /// The first failure of a task that cannot be retried or has no attempts left.
    pub(crate) async fn all(&self) -> Result<(), TaskError> {
        let concurrency = self.concurrency();
        // The span of a stage ends with its last task.
        let stages = self.plan.stages.iter().flat_map(|stage| {
            let span = stage_span(stage.id, &stage.step, stage.task_count());
            (0..stage.task_count()).map(move |task| (stage, task, span.clone()))
        });
        let mut waiting: VecDeque<_> = stages.collect();
        let mut demand = Demand::of(self);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < concurrency
                && let Some(position) = waiting.iter().position(|(stage, ..)| demand.includes(stage.id))
                && let Some((stage, task, span)) = waiting.remove(position)
            {
                running.push(self.one(stage, task).instrument(span));
            }
            if running.is_empty() && waiting.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(done) = running.next() => done?,
                () = demand.grows(), if !waiting.is_empty() => {}
            }
        }
    }

    /// Returns the bytes of rows that one outcome may carry.
    fn inline_bytes(&self) -> u64 {
        if self.or_combs { self.shared_inline_bytes() } else { self.host.compute.inline_bytes() }
    }

    /// Returns the bytes of rows that each outcome may carry so that those of all concurrent tasks together fit in
    /// `inbox_memory_bytes`.
    fn shared_inline_bytes(&self) -> u64 {
        let tasks: usize = self.plan.stages.iter().map(MapStage::task_count).sum();
        let share = self.plan.options.inbox_memory_bytes / (tasks.min(self.concurrency()) as u64).max(1);
        self.host.compute.inline_bytes().min(share)
    }

    /// Returns the maximum number of concurrent tasks.
    pub(crate) fn concurrency(&self) -> usize {
        let concurrency = match self.plan.options.concurrency {
            0 => self.host.compute.concurrency(),
            chosen => chosen,
        };
        concurrency.max(1)
    }

    async fn one(&self, stage: &MapStage, task: usize) -> Result<(), TaskError> {
        let (plan, progress) = (self.plan, self.progress);
        let task = make_task(plan, stage, task, self.query, self.inboxes, self.inline_bytes())?;
        let elsewhere = !task.combs.is_empty() || task.objects.is_some();
        let kept = if elsewhere { self.kept.take(stage.id, task.task) } else { None };
        let attempts = Attempts::default();
        let mut outcome = match kept {
            Some((outcome, rows)) => {
                attempts.add();
                match self.deliver_kept(&task, outcome, rows).await {
                    // The task can make its rows again, with attempts.
                    Err(error) if error.kind == ErrorKind::Unavailable && task.objects.is_some() => {
                        return self.run_and_accept(task).await;
                    }
                    delivered => delivered?,
                }
            }
            None => match self.parts.part(stage, &task) {
                Some(part) => self.reuse_or_run(&task, &part, &attempts).await?,
                None => return self.run_and_accept(task).await,
            },
        };
        if let Delivered::Inline(rows) = &outcome.delivered
            && self.or_combs
        {
            self.kept.keep(task.stage, task.task, &outcome, rows);
        }
        accept(&task, &mut outcome, self.inboxes).await?;
        progress.task_done(stage.id, &stage.step, task.task, &outcome, attempts.count());
        Ok(check_spent(self.host, plan, progress)?)
    }

    /// Runs a task until it succeeds, and accepts its delivery.
    pub(crate) async fn run_and_accept(&self, task: HBeeTask) -> Result<(), TaskError> {
        let attempts = Attempts::default();
        let mut outcome = self.run_and_count(&task, &attempts).await?;
        if let Delivered::Inline(rows) = &outcome.delivered
            && self.or_combs
        {
            self.kept.keep(task.stage, task.task, &outcome, rows);
        }
        accept(&task, &mut outcome, self.inboxes).await?;
        self.progress.task_done(task.stage, &task.step, task.task, &outcome, attempts.count());
        Ok(check_spent(self.host, self.plan, self.progress)?)
    }

    async fn run_and_count(&self, task: &HBeeTask, attempts: &Attempts) -> Result<TaskOutcome> {
        let outcome = self.run(task, attempts).await?;
        self.progress.add_requests(outcome.requests);
        Ok(outcome)
    }

    /// Delivers the rows that an earlier query kept of this task. If there are none, runs the task, has its rows sent to Fuse,
    /// and keeps and delivers them.
    async fn reuse_or_run(&self, task: &HBeeTask, part: &Part<'_>, attempts: &Attempts) -> Result<TaskOutcome> {
        if let Some(rows) = part.rows().await {
            attempts.add();
            Progress::add(&self.progress.tasks_reused, 1);
            return self.deliver_kept(task, nothing_read(), rows).await;
        }
        if !part.keeps() {
            return self.run_and_count(task, attempts).await;
        }
        let own = to_fuse(task, self.shared_inline_bytes());
        let mut outcome = self.run_and_count(&own, attempts).await?;
        match std::mem::take(&mut outcome.delivered) {
            Delivered::Inline(rows) => {
                part.keep(&rows).await;
                self.deliver_kept(task, outcome, rows).await
            }
            // They are too many to be kept. The task delivers them itself.
            Delivered::ToCombs | Delivered::Object(_) | Delivered::TooLarge => self.run_and_count(task, attempts).await,
        }
    }

    /// Runs a task until it succeeds, within the attempts that the options allow. A task is not retried if a comb of the
    /// query is lost: the query is rerun.
    async fn run(&self, task: &HBeeTask, attempts: &Attempts) -> Result<TaskOutcome> {
        let attempts_max = if self.flowing { 1 } else { self.plan.options.attempts };
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(RETRY_WAIT)
            .with_max_delay(RETRY_WAIT_MAX)
            .with_max_times(attempts_max.saturating_sub(1) as usize)
            .with_jitter()
            .build();
        loop {
            let error = match self.attempt_or_reissue(task, attempts).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let wait = if error.kind == ErrorKind::Unavailable { waits.next() } else { None };
            let Some(wait) = wait else {
                return Err(error);
            };
            if !task.combs.is_empty() && !self.inboxes.are_open(self.query).await {
                return Err(error);
            }
            let wait = wait.max(error.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
            let (query_id, step) = (self.query, &task.step);
            tracing::warn!(%query_id, task = %task.task, step, %error, ?wait, "retrying the task");
            Progress::add(&self.progress.retries, 1);
            tokio::time::sleep(wait).await;
        }
    }

    /// Runs one attempt of a task, and another beside it if it becomes a straggler. The first outcome counts, and the other
    /// attempt is dropped: its delivery is not accepted.
    async fn attempt_or_reissue(&self, task: &HBeeTask, attempts: &Attempts) -> Result<TaskOutcome> {
        let started = Instant::now();
        let first = self.attempt(task, attempts);
        tokio::pin!(first);
        let ran = tokio::select! {
            biased;
            ran = &mut first => ran,
            () = self.stragglers.is_one(task.stage, started) => {
                let (query_id, step, seconds) = (self.query, &task.step, started.elapsed().as_secs());
                tracing::warn!(%query_id, task = %task.task, step, seconds, "running a straggler a second time");
                Progress::add(&self.progress.stragglers, 1);
                Progress::add(&self.progress.retries, 1);
                let second = self.attempt(task, attempts);
                tokio::pin!(second);
                match futures::future::select(first, second).await {
                    Either::Left((Ok(outcome), _)) | Either::Right((Ok(outcome), _)) => Ok(outcome),
                    // The failure of one attempt does not fail the other.
                    Either::Left((Err(_), second)) => second.await,
                    Either::Right((Err(_), first)) => first.await,
                }
            }
        };
        if ran.is_ok() {
            self.stragglers.done(task.stage, started.elapsed());
        }
        ran
    }

    /// Runs one attempt of a task. It is paid for also if it fails or is dropped.
    async fn attempt(&self, task: &HBeeTask, attempts: &Attempts) -> Result<TaskOutcome> {
        let refused = || {
            attempts.add();
            Progress::add(&self.progress.refusals, 1);
            Progress::add(&self.progress.retries, 1);
        };
        let attempt = attempts.next();
        let span = attempt_span(task, attempt);
        let task = HBeeTask { attempt, trace: span.in_scope(buzz_telemetry::current), ..task.clone() };
        Progress::add(&self.progress.invocations, 1);
        let mut paid = Paid::start(self.progress, &task);
        let running = self.host.compute.run(&task, &refused);
        let ran = buzz_telemetry::traced(span, running).await;
        paid.end(&ran);
        ran
    }

    /// Delivers to combs, or to an object, the rows that an earlier run or query kept for this task, under a new delivery id.
    async fn deliver_kept(&self, task: &HBeeTask, outcome: TaskOutcome, rows: InlineRows) -> Result<TaskOutcome> {
        let objects = self.inboxes.objects.clone();
        let Some((_, first)) = rows.batches.first() else {
            let rows = vec![0; task.partitioning.count()];
            let delivered = if objects.is_some() { Delivered::Object(Vec::new()) } else { Delivered::ToCombs };
            return Ok(TaskOutcome { delivered, rows, ..outcome });
        };
        let network = Arc::clone(&self.host.network);
        let destination = Destination { objects, ..task.into() };
        let mut writer = DeliveryWriter::new(network, destination, first.schema())?;
        for (_, batch) in rows.batches {
            writer.write(batch).await?;
        }
        let Delivery { delivery, delivered, rows, bytes } = writer.finish().await?;
        Ok(TaskOutcome { delivery, delivered, rows, bytes_delivered: bytes, ..outcome })
    }
}

/// Makes the span of a stage.
pub(crate) fn stage_span(id: StageId, step: &str, tasks: usize) -> Span {
    span!("stage", stage = id.0, step = step, tasks = tasks)
}

fn attempt_span(task: &HBeeTask, attempt: u32) -> Span {
    span!("attempt", otel.kind = "client", task = task.task.0, attempt)
}

async fn accept(task: &HBeeTask, outcome: &mut TaskOutcome, inboxes: &QueryInboxes) -> Result<(), TaskError> {
    let query = task.query;
    let (counts, partitions) = (outcome.rows.len(), task.partitioning.count());
    if counts != partitions && !matches!(outcome.delivered, Delivered::TooLarge) {
        let error = format!("an outcome counts the rows of {counts} partitions, but its task has {partitions}");
        return Err(QueryError::internal(error).at_task(&task.step, task.task).into());
    }
    match std::mem::take(&mut outcome.delivered) {
        Delivered::ToCombs => {}
        Delivered::Inline(rows) => {
            inboxes.deliver(query, task.stage, task.task, outcome.delivery, rows).await?;
        }
        Delivered::Object(segments) => inboxes.hold_object(task, outcome.delivery, segments)?,
        Delivered::TooLarge => {
            let error = QueryError::limit(
                "the rows of this task exceed what one response can carry; set the option `reducer` to `auto`, `comb` or \
                 `objects`, or let the step return fewer rows",
            );
            return Err(TaskError { error: error.at_task(&task.step, task.task), too_large: true });
        }
    }
    let commit = Commit { stage: task.stage, task: task.task, delivery: outcome.delivery, rows: outcome.rows.clone() };
    Ok(inboxes.commit(query, commit).await?)
}

/// Returns the outcome of a task that did not run.
fn nothing_read() -> TaskOutcome {
    TaskOutcome {
        delivery: DeliveryId::fresh(),
        delivered: Delivered::default(),
        rows: Vec::new(),
        bytes_delivered: 0,
        rows_scanned: 0,
        bytes_scanned: 0,
        requests: Requests::default(),
        milliseconds: 0,
    }
}
