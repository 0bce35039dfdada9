//! Runs the tasks of all map stages and accepts one delivery for each.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use buzz_exchange::{Commit, DeliveryHeader, InboxService};
use buzz_protocol::{
    BUILD_ID, CombAddress, Delivered, DeliveryId, ErrorKind, HBeeTask, InlineRows, Partitioning, QueryError, QueryId,
    Result, StageId, TaskIndex, TaskOutcome,
};
use futures::TryStreamExt;
use futures::stream::FuturesUnordered;

use crate::summary::Progress;
use crate::{Compute, MapStage, QueryPlan};

/// The first wait before a task is tried again; it doubles each time, with jitter.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// The longest wait before a task is tried again.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);

/// The inboxes of a query, in the order in which they own partitions: one on each comb, or a single one at Fuse.
#[derive(Debug, Clone)]
pub struct Inboxes {
    /// Where each comb is, for deliveries; none if the inbox is Fuse's own.
    pub addresses: Vec<CombAddress>,
    /// The inboxes themselves.
    pub services: Vec<Arc<dyn InboxService>>,
    /// Partitions of each.
    pub partitions_per_comb: usize,
}

impl Inboxes {
    /// How tasks divide their rows: by the hash of the columns `keys`, or in turn if there are none.
    pub fn partitioning(&self, keys: &[usize]) -> Partitioning {
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
    pub async fn commit(&self, query: QueryId, commit: Commit) -> Result<()> {
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
    pub async fn deliver(
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
pub struct TaskError {
    /// The failure.
    pub error: QueryError,
    /// Whether the rows of a task were too many for its outcome: on combs the query may succeed.
    pub too_large: bool,
}

impl From<QueryError> for TaskError {
    fn from(error: QueryError) -> Self {
        Self { error, too_large: false }
    }
}

/// Runs every task of every stage, at most `concurrency` at once, until all are accepted. A task that is `Unavailable`
/// is tried again, `attempts` times in all; any other failure is the query's. Dropping the future gives up the tasks that run.
///
/// # Errors
/// The first task's failure that is not mended by trying again.
pub async fn dispatch(
    plan: &QueryPlan,
    query: QueryId,
    attempts: u32,
    inboxes: &Inboxes,
    compute: &dyn Compute,
    progress: &Progress,
) -> Result<(), TaskError> {
    let concurrency = match plan.options.concurrency {
        0 => compute.concurrency(),
        chosen => chosen,
    };
    let of_stage = |stage| (0..MapStage::task_count(stage)).map(move |task| (stage, task));
    let mut waiting = plan.stages.iter().flat_map(of_stage).collect::<Vec<_>>().into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < concurrency.max(1)
            && let Some((stage, task)) = waiting.next()
        {
            let task = make_task(plan, stage, task, query, inboxes, compute)?;
            running.push(run_task(stage, task, attempts, inboxes, compute, progress));
        }
        if running.try_next().await?.is_none() {
            return Ok(());
        }
    }
}

async fn run_task(
    stage: &MapStage,
    task: HBeeTask,
    attempts_max: u32,
    inboxes: &Inboxes,
    compute: &dyn Compute,
    progress: &Progress,
) -> Result<(), TaskError> {
    let query = task.query;
    let retry = ExponentialBuilder::default()
        .with_min_delay(RETRY_WAIT)
        .with_max_delay(RETRY_WAIT_MAX)
        .with_max_times(attempts_max.saturating_sub(1) as usize)
        .with_jitter();
    let mut attempts = 0;
    let attempt = || {
        attempts += 1;
        let task = HBeeTask { attempt: attempts, ..task.clone() };
        async move { compute.run(&task).await }
    };
    let mut outcome = attempt
        .retry(retry)
        .when(|error| error.kind == ErrorKind::Unavailable)
        .notify(|error, wait| {
            tracing::warn!(%query, task = %task.task, step = task.step, %error, ?wait, "task is tried again");
            Progress::add(&progress.retries, 1);
        })
        .await?;
    accept(&task, &mut outcome, inboxes).await?;

    Progress::add(&progress.tasks_done, 1);
    Progress::add(&progress.rows_scanned, outcome.rows_scanned);
    Progress::add(&progress.bytes_scanned, outcome.bytes_scanned);
    Progress::add(&progress.rows_delivered, outcome.rows.iter().sum());
    Progress::add(&progress.bytes_delivered, outcome.bytes_delivered);
    progress.task_done(stage, task.task, &outcome, attempts);
    Ok(())
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
                "step `{}`, task {}: its rows are more than Fuse can be sent, and this query cannot be reduced on combs",
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
