//! One run of a planned query: connect to inboxes, dispatch, reduce, collect.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_engine::{Progress, Reused, RowSink, Summary};
use buzz_exchange::{Commit, DeliveryWriter, Destination, ObjectPlace};
use buzz_host::Host;
use buzz_plan::QueryPlan;
use buzz_protocol::{Delivered, ErrorKind, Place, QueryError, QueryId, Result, StageId, TaskIndex, milliseconds};
use futures::TryStreamExt;

use super::deadline::Deadline;
use crate::dispatch::{Dispatch, TaskError};
use crate::inboxes::{OpenInboxes, QueryInboxes};
use crate::reducers::{Reducers, TaskCache};
use crate::reduction::Reduction;
use crate::reuse::Parts;
use crate::stragglers::Stragglers;

/// A failure, and whether a rerun may succeed.
pub(super) struct RunError {
    pub(super) error: QueryError,
    pub(super) again: Again,
}

/// The kind of rerun that may succeed after a failure.
#[derive(PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// Rerun with deliveries held back until they are accepted: a task failed that may succeed later.
    Held,
    /// Rerun on other combs: a comb was lost.
    OnOtherCombs,
    /// Rerun on any combs that accept the query: a comb refused it, and nothing ran.
    OnCombsThatAccept,
    /// Rerun on combs: the rows do not fit in Fuse.
    OnCombs,
}

impl From<QueryError> for RunError {
    fn from(error: QueryError) -> Self {
        Self { error, again: Again::No }
    }
}

/// Classifies a failure of a call to a comb: `Unavailable` means that the comb is lost.
fn of_comb(error: QueryError) -> RunError {
    let again = if error.kind == ErrorKind::Unavailable { Again::OnOtherCombs } else { Again::No };
    RunError { error, again }
}

/// One run of a query.
pub(super) struct Run<'a> {
    pub(super) host: &'a Host,
    pub(super) plan: &'a QueryPlan,
    /// The id of this run; every run has its own.
    pub(super) query: QueryId,
    pub(super) reducers: &'a Reducers,
    /// True if batches are read as they are delivered.
    pub(super) flowing: bool,
    pub(super) deadline: &'a Deadline<'a>,
    /// Rows that an earlier run kept, or that this run keeps for a later one.
    pub(super) kept: &'a TaskCache,
}

impl Run<'_> {
    /// Runs the plan and passes its rows to `sink`.
    pub(super) async fn once(&self, sink: &mut dyn RowSink) -> Result<Summary, RunError> {
        let started = Instant::now();
        let Run { host, plan, query, deadline, flowing, .. } = *self;
        let progress = deadline.progress;
        let connecting =
            async { QueryInboxes::connect(host, plan, query, self.reducers, deadline.at_ms).await.map_err(of_comb) };
        let inboxes = deadline.unless(connecting).await?;
        let mut reductions = Vec::new();
        for step in &plan.reduces {
            let prepared = deadline.unless(Reduction::prepare(step, plan, query, &inboxes, &host.network)).await;
            reductions.push(prepared.map_err(|error| error.at(Place::Step(step.step.clone())))?);
        }
        let mut opened = OpenInboxes::new(query, inboxes.clone());
        self.open(&inboxes, &mut opened, &reductions).await?;

        self.log_begin(&inboxes);
        let or_combs = self.reducers.or_combs();
        // Where a task runs once, a second run of it would only slow down the first.
        let of_tasks = reductions.first().map(Reduction::task_stages).unwrap_or_default();
        let stragglers = Stragglers::of(plan, of_tasks, !flowing && !host.compute.runs_once());
        let kept = self.kept;
        let (inboxes, parts) = (&inboxes, Parts::of(host, plan));
        let dispatch = Dispatch { host, plan, query, inboxes, progress, kept, flowing, or_combs, stragglers, parts };
        let working = async {
            tokio::select! {
                worked = work(&dispatch, reductions, sink) => worked,
                never = inboxes.keep_leases(query) => match never {},
            }
        };
        let outcome = deadline.unless(working).await;
        if Progress::get(&progress.tasks_done) < Progress::get(&progress.tasks) {
            // On combs, the tasks find that their query is closed.
            if inboxes.own.is_some() {
                host.compute.abandon(query).await;
            }
        }
        progress.add_requests(inboxes.objects.as_ref().map(ObjectPlace::requests).unwrap_or_default());
        let combs_ms = started.elapsed().as_millis().saturating_mul(inboxes.addresses.len() as u128);
        Progress::add(&progress.comb_milliseconds, u64::try_from(combs_ms).unwrap_or(u64::MAX));
        self.log_end(started, outcome.as_ref().err().map(|failed| failed.error.kind));
        match &outcome {
            Ok(_) => opened.close().await,
            Err(failed) => opened.abort(failed.error.clone()).await,
        }
        Ok(summary(plan, progress, outcome?, inboxes, started))
    }

    /// Logs the size of the run, and its combs.
    fn log_begin(&self, inboxes: &QueryInboxes) {
        let Run { plan, query, deadline, flowing, .. } = *self;
        let combs: Vec<String> = inboxes.addresses.iter().map(ToString::to_string).collect();
        tracing::info!(
            query_id = %query,
            stages = plan.stages.len(),
            tasks = Progress::get(&deadline.progress.tasks),
            files = plan.stages.iter().map(|stage| stage.files_read() as u64).sum::<u64>(),
            combs = combs.join(" "),
            reruns = Progress::get(&deadline.progress.reruns),
            flowing,
            "the run begins"
        );
    }

    /// Logs what the run has done, and the kind of the error with which it failed.
    fn log_end(&self, started: Instant, failed: Option<ErrorKind>) {
        let progress = self.deadline.progress;
        tracing::info!(
            query_id = %self.query,
            tasks_done = Progress::get(&progress.tasks_done),
            tasks = Progress::get(&progress.tasks),
            bytes_read = Progress::get(&progress.bytes_scanned),
            retries = Progress::get(&progress.retries),
            stragglers = Progress::get(&progress.stragglers),
            failed = failed.map(tracing::field::display),
            milliseconds = milliseconds(started.elapsed()),
            "the run has ended"
        );
    }

    /// Opens the inboxes. Combs that refuse the query are avoided in the next run.
    async fn open(
        &self,
        inboxes: &QueryInboxes,
        opened: &mut OpenInboxes,
        reductions: &[Reduction],
    ) -> Result<(), RunError> {
        let readers = readers(reductions);
        let tasks = reductions.first().map(Reduction::task_stages).unwrap_or_default();
        let opened_all = inboxes.open(self.plan, self.query, self.flowing, &readers, tasks);
        let opening = async { Ok::<_, QueryError>(opened_all.await) };
        let answered = self.deadline.unless(opening).await.unwrap_or_else(|error| Err((error, Vec::new())));
        let Err((error, combs)) = answered else {
            return Ok(());
        };
        let refused = error.kind == ErrorKind::Unavailable && !inboxes.addresses.is_empty();
        opened.abort(error.clone()).await;
        if !refused {
            return Err(error.into());
        }
        for comb in combs {
            self.host.combs.avoid(&inboxes.addresses[comb]);
        }
        Err(RunError { error, again: Again::OnCombsThatAccept })
    }
}

/// Counts the leaves that read each stage.
fn readers(reductions: &[Reduction]) -> HashMap<StageId, u32> {
    let mut readers: HashMap<StageId, u32> = HashMap::new();
    for (stage, count) in reductions.iter().flat_map(Reduction::readers) {
        let sum = readers.entry(stage).or_default();
        *sum = u32::saturating_add(*sum, count);
    }
    readers
}

fn summary(plan: &QueryPlan, progress: &Progress, rows: u64, inboxes: &QueryInboxes, started: Instant) -> Summary {
    Summary {
        rows,
        files_found: plan.stages.iter().map(|stage| stage.files_found() as u64).sum(),
        files_read: plan.stages.iter().map(|stage| stage.files_read() as u64).sum(),
        bytes_read: Progress::get(&progress.bytes_scanned),
        tasks: Progress::get(&progress.tasks),
        retries: Progress::get(&progress.retries),
        refusals: Progress::get(&progress.refusals),
        stragglers: Progress::get(&progress.stragglers),
        rows_delivered: Progress::get(&progress.rows_delivered),
        bytes_delivered: Progress::get(&progress.bytes_delivered),
        combs: inboxes.addresses.len(),
        objects: inboxes.delivered.count(),
        stages: progress.stages(),
        ran_in: started.elapsed(),
        reused: Reused { answer: false, tasks: Progress::get(&progress.tasks_reused) },
        ..Summary::default()
    }
}

/// Time to wait for the answer of a comb about a task whose rows were read.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Maps and reduces at the same time. Returns the number of rows when the last reduce step ends, even if tasks still
/// run. Checks that the reduce plans have read all rows, except those that they may leave.
async fn work(
    dispatch: &Dispatch<'_>,
    mut reductions: Vec<Reduction>,
    sink: &mut dyn RowSink,
) -> Result<u64, RunError> {
    let Dispatch { query, inboxes, flowing, .. } = *dispatch;
    if let Some(position) = reductions.iter().position(|reduction| !reduction.task_stages().is_empty()) {
        let reduction = reductions.swap_remove(position);
        return work_by_tasks(dispatch, reduction, sink).await;
    }
    let map = dispatch.all();
    let unread: BTreeSet<StageId> = reductions.iter().flat_map(Reduction::may_leave_unread).collect();
    let reduce = reduce_all(dispatch, reductions, sink);
    tokio::pin!(map, reduce);
    let mut mapping = true;
    loop {
        tokio::select! {
            // A task's failure is reported before the failure that it causes downstream.
            biased;
            mapped = &mut map, if mapping => {
                if let Err(failed) = mapped {
                    if flowing && failed.error.kind == ErrorKind::Unavailable {
                        // Its rows may have been read.
                        return Err(RunError { error: failed.error, again: Again::Held });
                    }
                    return Err(task_failed(failed, query, inboxes).await);
                }
                mapping = false;
            }
            reduced = &mut reduce => {
                let rows = reduced.map_err(of_comb)?;
                inboxes.check_read(query, &unread).await.map_err(of_comb)?;
                if mapping && unread.is_empty() {
                    // All rows were read, so all tasks are accepted: the last answer of a comb is still on its way. Without it,
                    // its task is missing from the summary. A failure no longer matters.
                    _ = tokio::time::timeout(LAST_ANSWER_WITHIN, &mut map).await;
                }
                return Ok(rows);
            }
        }
    }
}

/// Maps, and then reduces: rows that fit in `inbox_memory_bytes` at Fuse, more by tasks. Returns the number of rows.
async fn work_by_tasks(dispatch: &Dispatch<'_>, reduction: Reduction, sink: &mut dyn RowSink) -> Result<u64, RunError> {
    let Dispatch { plan, query, inboxes, progress, .. } = *dispatch;
    if let Err(failed) = dispatch.all().await {
        return Err(task_failed(failed, query, inboxes).await);
    }
    let delivered = Progress::get(&progress.bytes_delivered);
    let reduction = if delivered > plan.options.inbox_memory_bytes {
        let tasks: usize = reduction.task_stages().iter().map(|stage| stage.tasks).sum();
        tracing::info!(query_id = %query, delivered, tasks, "tasks reduce the rows");
        Progress::add(&progress.tasks, tasks as u64);
        // A delivery that is lost, which is `Unavailable`, is made again by another run.
        dispatch.reduce(reduction.task_stages()).await.map_err(|failed| of_comb(failed.error))?;
        reduction.over_tasks()?
    } else {
        reduction.without_tasks()
    };
    let unread = reduction.may_leave_unread();
    let rows = reduce_all(dispatch, vec![reduction], sink).await.map_err(of_comb)?;
    inboxes.check_read(query, &unread).await.map_err(of_comb)?;
    Ok(rows)
}

/// Classifies a task's failure. A task that cannot deliver may be the first to notice that a comb is lost, and a comb that
/// HBees cannot reach is lost for the query even if Fuse reaches it.
async fn task_failed(failed: TaskError, query: QueryId, inboxes: &QueryInboxes) -> RunError {
    let TaskError { error, too_large } = failed;
    if too_large {
        return RunError { error, again: Again::OnCombs };
    }
    if error.kind != ErrorKind::Unavailable {
        return error.into();
    }
    let comb_lost = error.comb().is_some() || !inboxes.are_open(query).await;
    RunError { error, again: if comb_lost { Again::OnOtherCombs } else { Again::No } }
}

async fn reduce_all(dispatch: &Dispatch<'_>, reductions: Vec<Reduction>, sink: &mut dyn RowSink) -> Result<u64> {
    let Dispatch { host, plan, query, inboxes, .. } = *dispatch;
    let mut row_count = 0;
    for (step, reduction) in plan.reduces.iter().zip(reductions) {
        let place = |error: QueryError| error.at(Place::Step(step.step.clone()));
        let mut rows = reduction.run().await.map_err(place)?;
        let Some(stage) = step.target else {
            sink.start(Arc::clone(&step.schema))?;
            while let Some(batch) = rows.try_next().await.map_err(place)? {
                row_count += batch.num_rows() as u64;
                sink.ready().await?;
                sink.write(batch)?;
            }
            continue;
        };
        // Several later steps read this one: its rows become a stage of a single task, delivered by Fuse.
        let destination = Destination {
            query,
            token: inboxes.token.clone(),
            stage,
            task: TaskIndex(0),
            partitioning: inboxes.partitioning(&[]),
            combs: inboxes.addresses.clone(),
            objects: None,
            inline_bytes: u64::MAX,
            batch_size: plan.options.batch_size,
        };
        let mut writer = DeliveryWriter::new(Arc::clone(&host.network) as _, destination, Arc::clone(&step.schema))?;
        while let Some(batch) = rows.try_next().await.map_err(place)? {
            writer.write(batch).await.map_err(place)?;
        }
        let delivered = writer.finish().await.map_err(place)?;
        if let Delivered::Inline(rows) = delivered.delivered {
            inboxes.deliver(query, stage, TaskIndex(0), delivered.delivery, rows).await.map_err(place)?;
        }
        let commit = Commit { stage, task: TaskIndex(0), delivery: delivered.delivery, rows: delivered.rows };
        inboxes.commit(query, commit).await.map_err(place)?;
    }
    Ok(row_count)
}
