//! Runs the tasks of all map stages and accepts one delivery for each.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use buzz_exchange::delivery::Delivery;
use buzz_exchange::{Commit, DeliveryHeader, DeliveryWriter, InboxService};
use buzz_protocol::{
    BUILD_ID, CombAddress, Delivered, DeliveryId, ErrorKind, HBeeTask, InlineRows, Partitioning, QueryError, QueryId,
    QueryToken, Result, StageId, TaskIndex, TaskOutcome,
};
use futures::TryStreamExt;
use futures::stream::FuturesUnordered;

use crate::reducer::Kept;
use crate::summary::Progress;
use crate::{Compute, Fuse, MapStage, QueryPlan};

/// The first wait before a task is tried again; it doubles each time, with jitter.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// The longest wait before a task is tried again.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);

/// The inboxes of a query, in the order in which they own partitions: one on each comb, or a single one at Fuse.
#[derive(Debug, Clone)]
pub(crate) struct Inboxes {
    /// Where each comb is, for deliveries; none if the inbox is Fuse's own.
    pub(crate) addresses: Vec<CombAddress>,
    /// The inboxes themselves.
    pub(crate) services: Vec<Arc<dyn InboxService>>,
    /// Partitions of each.
    pub(crate) partitions_per_comb: usize,
    /// What combs want to be shown.
    pub(crate) token: QueryToken,
    /// When the query's time is over, in milliseconds since 1970.
    pub(crate) deadline_ms: u64,
}

impl Inboxes {
    /// How tasks divide their rows: by the hash of the columns `keys`, or in turn if there are none.
    pub(crate) fn partitioning(&self, keys: &[usize]) -> Partitioning {
        let count = self.services.len() * self.partitions_per_comb;
        match keys {
            [] => Partitioning::RoundRobin { count },
            keys => Partitioning::Hash { columns: keys.to_vec(), count },
        }
    }

    /// Tells every comb which delivery counts. `rows` are by partition of all combs.
    ///
    /// # Errors
    /// As [`InboxService::commit`].
    pub(crate) async fn commit(&self, query: QueryId, commit: Commit) -> Result<()> {
        let calls = self.services.iter().zip(commit.rows.chunks(self.partitions_per_comb)).map(|(service, rows)| {
            let own = Commit { rows: rows.to_vec(), ..commit.clone() };
            async move { service.commit(query, vec![own]).await }
        });
        futures::future::try_join_all(calls).await.map(|_| ())
    }

    /// Puts rows that came in an outcome into Fuse's own inbox, as a delivery that is still to be accepted.
    ///
    /// # Errors
    /// As [`InboxService::deliver`].
    pub(crate) async fn deliver(
        &self,
        query: QueryId,
        stage: StageId,
        task: TaskIndex,
        delivery: DeliveryId,
        rows: InlineRows,
    ) -> Result<()> {
        let (Some((_, first)), [own]) = (rows.batches.first(), self.services.as_slice()) else {
            return Ok(());
        };
        let header = DeliveryHeader { build: BUILD_ID.to_string(), query, stage, task, delivery };
        let mut sink = own.deliver(header, first.schema()).await?;
        for (partition, batch) in rows.batches {
            sink.send(partition as usize, batch).await?;
        }
        sink.finish().await
    }
}

/// Why tasks could not be done.
#[derive(Debug)]
pub(crate) struct TaskError {
    /// The failure.
    pub(crate) error: QueryError,
    /// Whether the rows of a task were too many for its outcome: on combs the query may succeed.
    pub(crate) too_large: bool,
}

impl From<QueryError> for TaskError {
    fn from(error: QueryError) -> Self {
        Self { error, too_large: false }
    }
}

/// What the tasks of one run are of, and where they go.
pub(crate) struct Dispatch<'a> {
    pub(crate) fuse: &'a Fuse,
    pub(crate) plan: &'a QueryPlan,
    pub(crate) query: QueryId,
    pub(crate) inboxes: &'a Inboxes,
    pub(crate) progress: &'a Progress,
    /// What an earlier run left, or what this one leaves to a later one.
    pub(crate) kept: &'a Kept,
    /// Whether batches are read as they come, so that a task is run once.
    pub(crate) flowing: bool,
}

impl Dispatch<'_> {
    /// Runs every task of every stage, at most `concurrency` at once, until all are accepted. A task that is `Unavailable`
    /// is tried again; any other failure is the query's. Dropping the future gives up the tasks that run.
    ///
    /// # Errors
    /// The first task's failure that is not mended by trying again.
    pub(crate) async fn all(&self) -> Result<(), TaskError> {
        let concurrency = match self.plan.options.concurrency {
            0 => self.fuse.compute.concurrency(),
            chosen => chosen,
        };
        let of_stage = |stage| (0..MapStage::task_count(stage)).map(move |task| (stage, task));
        let mut waiting = self.plan.stages.iter().flat_map(of_stage).collect::<Vec<_>>().into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < concurrency.max(1)
                && let Some((stage, task)) = waiting.next()
            {
                running.push(self.one(stage, task));
            }
            if running.try_next().await?.is_none() {
                return Ok(());
            }
        }
    }

    async fn one(&self, stage: &MapStage, task: usize) -> Result<(), TaskError> {
        let (plan, progress) = (self.plan, self.progress);
        let task = make_task(plan, stage, task, self.query, self.inboxes, self.fuse.compute.as_ref())?;
        let kept = if task.combs.is_empty() { None } else { self.kept.take(stage.id, task.task) };
        let (mut outcome, attempts) = match kept {
            Some((outcome, rows)) => (self.deliver_kept(&task, outcome, rows).await?, 1),
            None => {
                let (outcome, attempts) = self.run(&task).await?;
                Progress::add(&progress.task_milliseconds, outcome.milliseconds);
                Progress::add(&progress.requests, outcome.requests);
                (outcome, attempts)
            }
        };
        if let Delivered::Inline(rows) = &outcome.delivered {
            self.kept.keep(stage.id, task.task, &outcome, rows);
        }
        accept(&task, &mut outcome, self.inboxes).await?;

        Progress::add(&progress.tasks_done, 1);
        Progress::add(&progress.rows_scanned, outcome.rows_scanned);
        Progress::add(&progress.bytes_scanned, outcome.bytes_scanned);
        Progress::add(&progress.rows_delivered, outcome.rows.iter().sum());
        Progress::add(&progress.bytes_delivered, outcome.bytes_delivered);
        progress.task_done(stage, task.task, &outcome, attempts);
        Ok(())
    }

    /// Runs a task until it succeeds, at most as often as the options say.
    async fn run(&self, task: &HBeeTask) -> Result<(TaskOutcome, u32)> {
        let attempts_max = if self.flowing { 1 } else { self.plan.options.attempts };
        let retry = ExponentialBuilder::default()
            .with_min_delay(RETRY_WAIT)
            .with_max_delay(RETRY_WAIT_MAX)
            .with_max_times(attempts_max.saturating_sub(1) as usize)
            .with_jitter();
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            let task = HBeeTask { attempt: attempts, ..task.clone() };
            async move { self.fuse.compute.run(&task).await }
        };
        let outcome = attempt
            .retry(retry)
            .when(|error| error.kind == ErrorKind::Unavailable)
            .notify(|error, wait| {
                let (query, step) = (self.query, &task.step);
                tracing::warn!(%query, task = %task.task, step, %error, ?wait, "task is tried again");
                Progress::add(&self.progress.retries, 1);
            })
            .await?;
        Ok((outcome, attempts))
    }

    /// Delivers to combs what a task had answered to Fuse, under a name of its own.
    async fn deliver_kept(&self, task: &HBeeTask, outcome: TaskOutcome, rows: InlineRows) -> Result<TaskOutcome> {
        let Some((_, first)) = rows.batches.first() else {
            let rows = vec![0; task.partitioning.count()];
            return Ok(TaskOutcome { delivered: Delivered::ToCombs, rows, ..outcome });
        };
        let network = Arc::clone(&self.fuse.network);
        let mut writer = DeliveryWriter::new(network, task.into(), first.schema())?;
        for (_, batch) in rows.batches {
            writer.write(batch).await?;
        }
        let Delivery { delivery, delivered, rows, bytes } = writer.finish().await?;
        Ok(TaskOutcome { delivery, delivered, rows, bytes_delivered: bytes, ..outcome })
    }
}

async fn accept(task: &HBeeTask, outcome: &mut TaskOutcome, inboxes: &Inboxes) -> Result<(), TaskError> {
    let query = task.query;
    match std::mem::take(&mut outcome.delivered) {
        Delivered::ToCombs => {}
        Delivered::Inline(rows) => {
            inboxes.deliver(query, task.stage, task.task, outcome.delivery, rows).await?;
        }
        Delivered::TooLarge => {
            let error = QueryError::limit(format!(
                "step `{}`, task {}: its rows are more than Fuse can be sent, and combs may not reduce this query (option `reducer`)",
                task.step, task.task
            ));
            return Err(TaskError { error, too_large: true });
        }
    }
    let commit = Commit { stage: task.stage, task: task.task, delivery: outcome.delivery, rows: outcome.rows.clone() };
    Ok(inboxes.commit(query, commit).await?)
}

fn make_task(
    plan: &QueryPlan,
    stage: &MapStage,
    task: usize,
    query: QueryId,
    inboxes: &Inboxes,
    compute: &dyn Compute,
) -> Result<HBeeTask> {
    let (scans, evaluations) = stage.task_inputs(task)?;
    Ok(HBeeTask {
        build: BUILD_ID.to_string(),
        query,
        token: inboxes.token.clone(),
        deadline_ms: Some(inboxes.deadline_ms),
        stage: stage.id,
        step: stage.step.clone(),
        task: TaskIndex(u32::try_from(task).expect("a stage has fewer than 2^32 tasks")),
        attempt: 1,
        fragment: stage.fragment.clone(),
        scans,
        evaluations,
        session: plan.session.clone(),
        partitioning: inboxes.partitioning(&stage.keys),
        combs: inboxes.addresses.clone(),
        inline_bytes: compute.inline_bytes(),
    })
}
