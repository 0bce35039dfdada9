//! One run of a planned query: reserve combs, dispatch, reduce, collect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use buzz_exchange::delivery::Destination;
use buzz_exchange::{Commit, DeliveryWriter};
use buzz_protocol::{CombAddress, Delivered, ErrorKind, QueryError, QueryId, Result, TaskIndex, Transport};
use chrono::Utc;
use futures::TryStreamExt;

use crate::dispatch::{Dispatch, TaskError};
use crate::inboxes::{Inboxes, OpenInboxes};
use crate::reduce::{self, Reduction};
use crate::reducer::{self, Choice, Kept, choose};
use crate::summary::{Progress, Summary};
use crate::{Fuse, QueryPlan};

/// Receives the rows of an answer.
pub trait ResultSink: Send {
    /// Begins an answer with `schema`. A second call means that the query is rerun: it discards all rows written
    /// before.
    ///
    /// # Errors
    /// When the rows cannot be stored.
    fn start(&mut self, schema: SchemaRef) -> Result<()>;

    /// Writes the next rows.
    ///
    /// # Errors
    /// When the rows cannot be stored.
    fn write(&mut self, batch: RecordBatch) -> Result<()>;
}

/// Drops the rows, for callers that need the [`Summary`] only.
#[derive(Debug)]
pub struct NoRows;

impl ResultSink for NoRows {
    fn start(&mut self, _schema: SchemaRef) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _batch: RecordBatch) -> Result<()> {
        Ok(())
    }
}

/// A failure, and whether a rerun may succeed.
struct RunError {
    error: QueryError,
    again: Again,
}

/// The kind of rerun that may succeed after a failure.
#[derive(PartialEq, Eq)]
enum Again {
    No,
    /// Rerun with deliveries held back until they are accepted: a task failed that may succeed later.
    Held,
    /// Rerun on other combs: a comb was lost.
    OnOtherCombs,
    /// Rerun on any combs that accept the query: a comb refused it, and nothing ran.
    OnWhoeverTakesIt,
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
struct Run<'a> {
    /// The id of this run; every run has its own.
    query: QueryId,
    choice: &'a Choice,
    /// True if batches are read as they are delivered.
    flowing: bool,
}

/// Divisor of `inbox_memory_bytes`: the share in which Fuse keeps rows in case combs must take over.
const KEPT_PART: u64 = 3;

/// Maximum number of times that combs may refuse a query.
const REFUSALS_MAX: usize = 4;

/// Returns the error of a query that exceeds `timeout`.
pub(crate) fn out_of_time(timeout: Duration) -> QueryError {
    let seconds = timeout.as_secs();
    QueryError::limit(format!("the query took more than {seconds} seconds; raise the option `timeout_seconds`"))
}

/// The deadline of a query and the counters that can stop it.
struct End<'a> {
    progress: &'a Progress,
    /// The time that the query may take in total.
    timeout: Duration,
    at: tokio::time::Instant,
    at_ms: u64,
}

impl<'a> End<'a> {
    fn new(plan: &QueryPlan, progress: &'a Progress) -> Self {
        let timeout = plan.options.timeout();
        let left = timeout.saturating_sub(plan.opened_in + plan.planned_in);
        let at_ms = Utc::now().timestamp_millis() + i64::try_from(left.as_millis()).unwrap_or(i64::MAX / 2);
        let at = tokio::time::Instant::now() + left;
        Self { progress, timeout, at, at_ms: u64::try_from(at_ms).unwrap_or_default() }
    }

    /// Runs `work` until it completes, the query is stopped or its deadline passes.
    async fn unless<T, E: From<QueryError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            biased;
            reason = self.progress.stopped() => Err(E::from(self.with_done(reason))),
            done = work => done,
            () = tokio::time::sleep_until(self.at) => {
                Err(E::from(self.with_done(out_of_time(self.timeout))))
            }
        }
    }

    /// Appends the number of finished tasks to the message of `error`.
    fn with_done(&self, error: QueryError) -> QueryError {
        let (tasks, done) = (Progress::get(&self.progress.tasks), Progress::get(&self.progress.tasks_done));
        QueryError { message: format!("{} ({done} of {tasks} tasks were done)", error.message), ..error }
    }
}

/// Runs a plan and reruns it if that may help (see [`Again`]): a comb is lost or refuses the query, the rows do not fit
/// in Fuse, or a task of a flowing query fails with `Unavailable`.
pub(crate) async fn run(
    fuse: &Fuse,
    plan: &QueryPlan,
    progress: &Progress,
    sink: &mut dyn ResultSink,
) -> Result<Summary> {
    let tasks: usize = plan.stages.iter().map(|stage| stage.tasks.len()).sum();
    progress.tasks.store(tasks as u64, std::sync::atomic::Ordering::Relaxed);
    let end = End::new(plan, progress);
    let kept = Kept::up_to(plan.options.inbox_memory_bytes / KEPT_PART);
    let mut choice = end.unless(choose(fuse, plan)).await?;
    let in_process = plan.options.transport == Transport::Memory && matches!(choice, Choice::Combs(_));
    let mut flowing = in_process && fuse.compute.runs_once();
    let mut other_combs = false;
    let mut refusals = 0;
    let mut lost = Vec::new();
    let mut query = progress.next_run();
    loop {
        let this = Run { query, choice: &choice, flowing };
        let RunError { error, again } = match run_once(fuse, plan, &this, &end, &kept, sink).await {
            Ok(summary) => return Ok(summary),
            Err(failed) => failed,
        };
        if again == Again::OnOtherCombs {
            lost.extend(choice.combs().iter().cloned());
            if let Some(fate) = fate_of(fuse, &lost).await {
                return Err(fate);
            }
        }
        match again {
            Again::Held if flowing => {
                flowing = false;
                Progress::add(&progress.retries, 1);
                Progress::add(&progress.reruns, 1);
            }
            Again::OnOtherCombs if !other_combs => {
                other_combs = true;
                Progress::add(&progress.reruns, 1);
            }
            Again::OnWhoeverTakesIt if refusals < REFUSALS_MAX => refusals += 1,
            // The rows kept by Fuse are delivered to the combs, and the other tasks deliver to the combs too.
            Again::OnCombs if matches!(choice, Choice::Fuse { or_combs: true }) => {}
            _ => return Err(error),
        }
        let next = progress.next_run();
        tracing::warn!(query_id = %query, again_as = %next, %error, "rerunning the query");
        query = next;
        progress.restart();
        choice = end.unless(reducer::combs(fuse, plan)).await.map_err(|failed| match failed.kind {
            // The reason for the rerun tells more than the lack of combs.
            ErrorKind::Unavailable => QueryError { message: format!("{error}; then: {}", failed.message), ..failed },
            _ => failed,
        })?;
    }
}

/// Returns the error to fail the query with if a lost comb stopped for a reason that a rerun cannot avoid. The reason
/// may become known only after another run.
async fn fate_of(fuse: &Fuse, lost: &[CombAddress]) -> Option<QueryError> {
    let fates = lost.iter().map(|comb| fuse.combs.fate(comb));
    let fates = tokio::time::timeout(FATE_TIMEOUT, futures::future::join_all(fates)).await.unwrap_or_default();
    fates.into_iter().flatten().next()
}

/// Timeout of the request for the reason why combs stopped.
const FATE_TIMEOUT: Duration = Duration::from_secs(10);

async fn run_once(
    fuse: &Fuse,
    plan: &QueryPlan,
    run: &Run<'_>,
    end: &End<'_>,
    kept: &Kept,
    sink: &mut dyn ResultSink,
) -> Result<Summary, RunError> {
    let started = Instant::now();
    let progress = end.progress;
    let Run { query, choice, flowing } = *run;
    let reserving = async { Inboxes::reserve(fuse, plan, choice, end.at_ms).await.map_err(of_comb) };
    let (inboxes, place) = end.unless(reserving).await?;
    let mut reductions = Vec::new();
    for step in &plan.reduces {
        let prepared = end.unless(reduce::prepare(step, plan, query, &place, &fuse.network)).await;
        reductions.push(prepared.map_err(|error| error.at(format!("step `{}`", step.step)))?);
    }
    let mut opened = OpenInboxes::new(query, inboxes.clone());
    let opening = async { Ok::<_, QueryError>(inboxes.open(plan, query, flowing, &reductions).await) };
    let answered = end.unless(opening).await.unwrap_or_else(|error| Err((error, Vec::new())));
    if let Err((error, combs)) = answered {
        let refused = error.kind == ErrorKind::Unavailable && !inboxes.addresses.is_empty();
        opened.abort(error.clone()).await;
        if !refused {
            return Err(error.into());
        }
        for comb in combs {
            fuse.combs.avoid(&inboxes.addresses[comb]);
        }
        return Err(RunError { error, again: Again::OnWhoeverTakesIt });
    }

    let or_combs = matches!(choice, Choice::Fuse { or_combs: true });
    let dispatch = Dispatch { fuse, plan, query, inboxes: &inboxes, progress, kept, flowing, or_combs };
    let outcome = end.unless(work(&dispatch, reductions, sink)).await;
    let combs_ms = started.elapsed().as_millis().saturating_mul(inboxes.addresses.len() as u128);
    Progress::add(&progress.comb_milliseconds, u64::try_from(combs_ms).unwrap_or(u64::MAX));
    match &outcome {
        Ok(_) => opened.close().await,
        Err(failed) => opened.abort(failed.error.clone()).await,
    }
    let rows = outcome?;
    Ok(Summary {
        rows,
        files_found: plan.stages.iter().map(|stage| stage.files_found() as u64).sum(),
        files_read: plan.stages.iter().map(|stage| stage.files_read() as u64).sum(),
        bytes_read: Progress::get(&progress.bytes_scanned),
        tasks: Progress::get(&progress.tasks),
        retries: Progress::get(&progress.retries),
        refusals: Progress::get(&progress.refusals),
        rows_delivered: Progress::get(&progress.rows_delivered),
        bytes_delivered: Progress::get(&progress.bytes_delivered),
        combs: inboxes.addresses.len(),
        stages: progress.stages(),
        opened_in: plan.opened_in,
        planned_in: plan.planned_in,
        ran_in: started.elapsed(),
    })
}

/// Maps and reduces at the same time. Returns the number of rows when the last reduce step ends, even if tasks still
/// run.
async fn work(dispatch: &Dispatch<'_>, reductions: Vec<Reduction>, sink: &mut dyn ResultSink) -> Result<u64, RunError> {
    let Dispatch { fuse, plan, query, inboxes, flowing, .. } = *dispatch;
    let map = dispatch.all();
    let reduce = reduce_all(fuse, plan, query, inboxes, reductions, sink);
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
            reduced = &mut reduce => return reduced.map_err(of_comb),
        }
    }
}

/// Classifies a task's failure. A task that cannot deliver may be the first to notice that a comb is lost.
async fn task_failed(failed: TaskError, query: QueryId, inboxes: &Inboxes) -> RunError {
    let TaskError { error, too_large } = failed;
    if too_large {
        return RunError { error, again: Again::OnCombs };
    }
    if error.kind != ErrorKind::Unavailable {
        return error.into();
    }
    let calls = inboxes.services.iter().map(|service| service.commit(query, Vec::new()));
    let comb_lost = futures::future::try_join_all(calls).await.is_err();
    RunError { error, again: if comb_lost { Again::OnOtherCombs } else { Again::No } }
}

async fn reduce_all(
    fuse: &Fuse,
    plan: &QueryPlan,
    query: QueryId,
    inboxes: &Inboxes,
    reductions: Vec<Reduction>,
    sink: &mut dyn ResultSink,
) -> Result<u64> {
    let mut row_count = 0;
    for (step, reduction) in plan.reduces.iter().zip(reductions) {
        let place = |error: QueryError| error.at(format!("step `{}`", step.step));
        let mut rows = reduction.run(&fuse.network).await.map_err(place)?;
        let Some(stage) = step.target else {
            sink.start(Arc::clone(&step.schema))?;
            while let Some(batch) = rows.try_next().await.map_err(place)? {
                row_count += batch.num_rows() as u64;
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
            inline_bytes: u64::MAX,
            batch_size: plan.options.batch_size,
        };
        let mut writer = DeliveryWriter::new(Arc::clone(&fuse.network) as _, destination, Arc::clone(&step.schema))?;
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
