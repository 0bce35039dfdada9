//! Running a planned query: runs it, and reruns it from the start if that may help.

mod deadline;
mod once;

use std::time::Duration;

use buzz_engine::{CombStarts, Progress, RowSink, Summary};
use buzz_host::Host;
use buzz_plan::QueryPlan;
use buzz_protocol::{CombAddress, ErrorKind, QueryError, Result, Transport};
use buzz_telemetry::{failed, span, traced};
use tracing::Instrument;

use self::deadline::Deadline;
pub(crate) use self::deadline::out_of_time;
use self::once::{Again, Run, RunError};
use crate::reducers::{Reducers, TaskCache};

/// Divisor of `inbox_memory_bytes`: the share in which Fuse keeps rows in case combs must take over.
const KEPT_PART: u64 = 3;

/// Maximum number of times that combs may refuse a query.
const REFUSALS_MAX: usize = 4;

/// Maximum number of reruns of a query because combs were lost.
const LOST_MAX: u32 = 4;

/// Wait before the second rerun because combs were lost. It doubles each time. The first rerun does not wait.
const LOST_WAIT: Duration = Duration::from_millis(200);

/// Runs a plan and reruns it if that may help (see [`Again`]): combs are lost or refuse the query, the rows do not fit in
/// Fuse, or a task of a flowing query fails with `Unavailable`.
pub(crate) async fn run(host: &Host, plan: &QueryPlan, progress: &Progress, sink: &mut dyn RowSink) -> Result<Summary> {
    let mut counted = host.combs.starts();
    let ran = run_until_done(host, plan, progress, sink, &mut counted).await;
    count_starts(host, progress, &mut counted);
    ran
}

/// Adds the combs that were started since `counted`. They count while the query runs, so that they reach `max_cost_usd`.
fn count_starts(host: &Host, progress: &Progress, counted: &mut CombStarts) {
    let starts = host.combs.starts();
    progress.add_starts(starts - *counted);
    *counted = starts;
}

async fn run_until_done(
    host: &Host,
    plan: &QueryPlan,
    progress: &Progress,
    sink: &mut dyn RowSink,
    counted: &mut CombStarts,
) -> Result<Summary> {
    let tasks: usize = plan.stages.iter().map(|stage| stage.tasks.len()).sum();
    progress.tasks.store(tasks as u64, std::sync::atomic::Ordering::Relaxed);
    let deadline = Deadline::new(plan, progress);
    let kept = TaskCache::up_to(plan.options.inbox_memory_bytes / KEPT_PART);
    // Starts combs, where they are wanted and missing.
    let choosing = traced(span!("choose reducers"), Reducers::choose(host, plan));
    let mut reducers = deadline.unless(choosing).await?;
    count_starts(host, progress, counted);
    let in_process = plan.options.transport == Transport::Memory && matches!(reducers, Reducers::Combs(_));
    let mut flowing = in_process && host.compute.runs_once();
    let mut lost = Lost::default();
    let mut refusals = 0;
    let mut too_many_for_fuse = false;
    let mut query = progress.next_run();
    loop {
        let run = Run { host, plan, query, reducers: &reducers, flowing, deadline: &deadline, kept: &kept };
        let span =
            span!("run", run_id = %query, reruns = Progress::get(&progress.reruns), combs = reducers.addresses().len());
        let RunError { error, again } = match run.once(sink).instrument(span.clone()).await {
            Ok(summary) => return Ok(summary),
            Err(error) => error,
        };
        failed(&span, error.kind);
        match again {
            Again::Held if flowing => {
                flowing = false;
                Progress::add(&progress.retries, 1);
                Progress::add(&progress.reruns, 1);
            }
            Again::OnOtherCombs if lost.reruns < LOST_MAX => {
                lost.combs.extend(reducers.addresses().iter().cloned());
                if let Some(fate) =
                    deadline.unless(async { Ok::<_, QueryError>(fate_of(host, &lost.combs).await) }).await?
                {
                    return Err(fate);
                }
                let waiting = async {
                    tokio::time::sleep(lost.wait()).await;
                    Ok::<_, QueryError>(())
                };
                deadline.unless(waiting).await?;
                lost.reruns += 1;
                Progress::add(&progress.reruns, 1);
            }
            Again::OnCombsThatAccept if refusals < REFUSALS_MAX => refusals += 1,
            // The rows kept by Fuse are delivered to the combs, and the other tasks deliver to the combs too.
            Again::OnCombs if reducers.or_combs() => {}
            _ => return Err(error),
        }
        let next = progress.next_run();
        tracing::warn!(query_id = %query, again_as = %next, %error, "rerunning the query");
        query = next;
        progress.restart();
        progress.tasks.store(tasks as u64, std::sync::atomic::Ordering::Relaxed);
        // Rows that did not fit in Fuse once do not fit later.
        too_many_for_fuse |= again == Again::OnCombs;
        let last = lost.reruns == LOST_MAX;
        let again = reducers.again(host, plan, !too_many_for_fuse, last);
        let next = deadline.unless(again).await.map_err(|failed| {
            match failed.kind {
                // The reason for the rerun tells more than the lack of combs.
                ErrorKind::Unavailable => {
                    QueryError { message: format!("{error}; then: {}", failed.message), ..failed }
                }
                _ => failed,
            }
        })?;
        reducers = next;
        count_starts(host, progress, counted);
    }
}

/// The combs that a query has lost.
#[derive(Debug, Default)]
struct Lost {
    combs: Vec<CombAddress>,
    reruns: u32,
}

impl Lost {
    /// Returns the time to wait before the next rerun.
    fn wait(&self) -> Duration {
        match self.reruns {
            0 => Duration::ZERO,
            reruns => LOST_WAIT * 2_u32.pow(reruns - 1),
        }
    }
}

/// Returns the error to fail the query with if a lost comb stopped for a reason that a rerun cannot avoid. The reason
/// may become known only after another run.
async fn fate_of(host: &Host, lost: &[CombAddress]) -> Option<QueryError> {
    let fates = lost.iter().map(|comb| host.combs.fate(comb));
    let fates = tokio::time::timeout(FATE_TIMEOUT, futures::future::join_all(fates)).await.unwrap_or_default();
    fates.into_iter().flatten().next()
}

/// Timeout of the request for the reason why combs stopped.
const FATE_TIMEOUT: Duration = Duration::from_secs(10);
