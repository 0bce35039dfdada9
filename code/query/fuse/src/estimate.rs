//! Estimates of plans: the resources of a run, and their cost. Checks them against the limits of the query.

mod exchange;

use std::time::Duration;

use buzz_engine::{Between, CombStarts, Cost, Estimate, Progress, Used};
use buzz_host::Host;
use buzz_plan::{QueryPlan, Read, Reads};
use buzz_protocol::{QueryError, ReducerChoice, Requests, Result, human_bytes};

use self::exchange::{Exchange, exchange};

/// Maximum time to read footers for an estimate, within the time of the query. Beyond it, files count as a whole.
const READ_MAX: Duration = Duration::from_secs(20);

/// Estimates a run of `plan` on `host`, by footers of its files. Adds the requests for them to `progress`.
pub(crate) async fn estimate(host: &Host, plan: &QueryPlan, progress: &Progress) -> Estimate {
    let stores = host.stores.for_query();
    let left = plan.options.timeout().saturating_sub(plan.opened_in + plan.planned_in);
    let reads = tokio::time::timeout(READ_MAX.min(left), Reads::by_footers(plan, &stores)).await;
    progress.add_requests(stores.requests());
    of_reads(host, plan, &reads.unwrap_or_else(|_| Reads::of_whole_files(plan))).await
}

/// Checks the limits of `plan` before it runs: its bytes and the low bound of its cost. Footers are read only if the sizes of
/// its files leave the answer open.
///
/// # Errors
/// `Limit`, naming the option.
pub(crate) async fn check_limits(host: &Host, plan: &QueryPlan, progress: &Progress) -> Result<()> {
    let (bytes_max, cost_max) = (plan.options.max_scan_bytes, plan.options.max_cost_usd);
    if bytes_max == 0 && cost_max.is_none() {
        return Ok(());
    }
    let most = of_reads(host, plan, &Reads::of_whole_files(plan)).await;
    if check(plan, &most).is_ok() {
        return Ok(());
    }
    check(plan, &estimate(host, plan, progress).await)
}

fn check(plan: &QueryPlan, estimate: &Estimate) -> Result<()> {
    let bytes_max = plan.options.max_scan_bytes;
    if bytes_max > 0 && estimate.bytes > bytes_max {
        return Err(QueryError::limit(format!(
            "the query reads about {}, more than {}; select fewer partitions or columns, or raise `max_scan_bytes`",
            human_bytes(estimate.bytes),
            human_bytes(bytes_max)
        )));
    }
    let Between { low, high } = estimate.dollars;
    match plan.options.max_cost_usd.map(f64::from) {
        Some(cost_max) if low > cost_max => Err(QueryError::limit(format!(
            "the query costs about ${low:.6} to ${high:.6}, more than ${cost_max}; select fewer partitions or columns, or raise \
             `max_cost_usd`"
        ))),
        _ => Ok(()),
    }
}

/// Checks the limits of a query that runs, after a task of it: the bytes that were read and the cost so far. A query whose
/// tasks are all done is not stopped: it spends little more.
///
/// # Errors
/// `Limit`, naming the option.
pub(crate) fn check_spent(host: &Host, plan: &QueryPlan, progress: &Progress) -> Result<()> {
    let (tasks, done) = (Progress::get(&progress.tasks), Progress::get(&progress.tasks_done));
    if done >= tasks {
        return Ok(());
    }
    let (bytes, bytes_max) = (Progress::get(&progress.bytes_scanned), plan.options.max_scan_bytes);
    if bytes_max > 0 && bytes > bytes_max {
        return Err(QueryError::limit(format!(
            "the query has read {}, more than {}, after {done} of {tasks} tasks; select fewer partitions or columns, or raise \
             `max_scan_bytes`",
            human_bytes(bytes),
            human_bytes(bytes_max)
        )));
    }
    let Some(cost_max) = plan.options.max_cost_usd.map(f64::from) else { return Ok(()) };
    match host.compute.cost(&progress.used()).as_ref().map(Cost::total_usd) {
        Some(spent) if spent > cost_max => Err(QueryError::limit(format!(
            "the query has cost ${spent:.6}, more than ${cost_max}, after {done} of {tasks} tasks; select fewer partitions or \
             columns, or raise `max_cost_usd`"
        ))),
        _ => Ok(()),
    }
}

/// Estimates a run of `plan` whose tasks read `reads`.
async fn of_reads(host: &Host, plan: &QueryPlan, reads: &Reads) -> Estimate {
    let Read { bytes, requests } = reads.total();
    let requests = plan.requests + Requests::of_gets(requests);
    let (exchanges, expected) = exchange(host, plan, bytes).await;
    let run = Run::of(host, plan, reads, requests, &exchanges);
    Estimate {
        bytes,
        requests: (requests + expected.requests).total(),
        tasks: (reads.tasks.len() as u64).saturating_add(expected.tasks()),
        seconds: Between { low: run.low.seconds, high: run.high.seconds },
        dollars: Between { low: run.low.dollars(host), high: run.high.dollars(host) },
    }
}

/// The bounds of a run.
struct Run {
    low: Bound,
    high: Bound,
}

/// One bound of a run.
#[derive(Debug, Clone, Copy)]
struct Bound {
    seconds: f64,
    used: Used,
}

/// Combs that a run uses at one bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combs {
    /// Fuse reduces.
    None,
    /// Combs reduce that already run.
    Running,
    /// Combs reduce that are started.
    Started,
}

impl Run {
    fn of(host: &Host, plan: &QueryPlan, reads: &Reads, requests: Requests, exchanges: &Between<Exchange>) -> Self {
        let concurrency = match plan.options.concurrency {
            0 => host.compute.concurrency(),
            chosen => chosen,
        };
        let pace = host.compute.pace();
        let tasks: Vec<Between<f64>> = reads.tasks.iter().map(|task| pace.seconds(task.bytes)).collect();
        let (low, high) = match host.combs.are_possible() {
            true => combs(plan, host.objects.is_for_all()),
            false => (Combs::None, Combs::None),
        };
        let start = host.combs.start_seconds();
        let read = reads.total().bytes;
        let bound = |of: fn(&Between<f64>) -> f64, combs: Combs, exchange: &Exchange| {
            // The rows of each stage are at most those that were read.
            let reducing = |&tasks: &u64| (tasks, of(&pace.seconds(read / tasks.max(1))));
            let work = Work {
                mapping: tasks.iter().map(of).collect(),
                reducing: exchange.stages.iter().map(reducing).collect(),
                requests: requests + exchange.requests,
                concurrency,
            };
            Bound::of(plan, &work, combs, of(&start))
        };
        Self { low: bound(|span| span.low, low, &exchanges.low), high: bound(|span| span.high, high, &exchanges.high) }
    }
}

/// The tasks and requests of a run at one bound.
struct Work {
    /// Seconds of each task that reads files.
    mapping: Vec<f64>,
    /// Number of tasks of each stage that reduces, and seconds of each of them. The stages run one after the other.
    reducing: Vec<(u64, f64)>,
    requests: Requests,
    /// Maximum number of tasks that run at the same time.
    concurrency: usize,
}

impl Bound {
    /// Makes a bound of a run that does `work`, and whose combs start in `start` seconds.
    fn of(plan: &QueryPlan, work: &Work, combs: Combs, start: f64) -> Self {
        let concurrency = work.concurrency.max(1);
        let all: f64 = work.mapping.iter().sum();
        let longest = work.mapping.iter().copied().fold(0.0, f64::max);
        let mapping = longest.max(all / concurrency as f64);
        let reducing: f64 =
            work.reducing.iter().map(|&(tasks, seconds)| tasks.div_ceil(concurrency as u64) as f64 * seconds).sum();
        let of_reducing: f64 = work.reducing.iter().map(|&(tasks, seconds)| tasks as f64 * seconds).sum();
        let start = if combs == Combs::Started { start } else { 0.0 };
        let planning = (plan.opened_in + plan.planned_in).as_secs_f64();
        let seconds = planning + start + mapping + reducing;
        let count = if combs == Combs::None { 0 } else { plan.comb_count as u64 };
        let started = if combs == Combs::Started { count } else { 0 };
        let reduce_tasks: u64 = work.reducing.iter().map(|(tasks, _)| tasks).sum();
        let used = Used {
            task_milliseconds: milliseconds(all + of_reducing),
            invocations: (work.mapping.len() as u64).saturating_add(reduce_tasks),
            fuse_milliseconds: milliseconds(seconds),
            comb_milliseconds: count.saturating_mul(milliseconds(mapping)),
            starts: CombStarts { combs: started, milliseconds: started.saturating_mul(milliseconds(start)) },
            requests: work.requests,
        };
        Self { seconds, used }
    }

    fn dollars(&self, host: &Host) -> f64 {
        host.compute.cost(&self.used).as_ref().map_or(0.0, Cost::total_usd)
    }
}

/// Returns the combs of a run at its low and at its high bound. Combs that run already are not asked for: an estimate
/// calls none. With `objects`, the option `auto` starts none.
fn combs(plan: &QueryPlan, objects: bool) -> (Combs, Combs) {
    if plan.fuse_only.is_some() {
        return (Combs::None, Combs::None);
    }
    match plan.options.reducer {
        ReducerChoice::Inline | ReducerChoice::Objects => (Combs::None, Combs::None),
        ReducerChoice::Auto if objects || plan.expects_few_rows() => (Combs::None, Combs::Running),
        ReducerChoice::Auto | ReducerChoice::Comb => (Combs::Running, Combs::Started),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time is positive, and a cast saturates")]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1e3).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns seconds and used milliseconds of tasks of 1, 2 and 3 seconds.
    fn bound(concurrency: usize, combs: Combs) -> Bound {
        bound_with(concurrency, combs, Vec::new())
    }

    fn bound_with(concurrency: usize, combs: Combs, reducing: Vec<(u64, f64)>) -> Bound {
        let plan = QueryPlan {
            options: buzz_protocol::Options::default(),
            stages: Vec::new(),
            reduces: Vec::new(),
            explain: buzz_plan::Explain::No,
            warnings: Vec::new(),
            fuse_only: None,
            comb_count: 2,
            partitions_per_comb: 2,
            start: Default::default(),
            session: Default::default(),
            requests: Requests::default(),
            opened_in: Duration::from_millis(300),
            planned_in: Duration::from_millis(200),
            part_reuse: buzz_plan::PartReuse::Off,
        };
        let work = Work { mapping: vec![1.0, 2.0, 3.0], reducing, requests: Requests::of_gets(7), concurrency };
        Bound::of(&plan, &work, combs, 10.0)
    }

    #[test]
    fn tasks_take_the_longest_or_share_the_workers() {
        assert!((bound(3, Combs::None).seconds - 3.5).abs() < 1e-9);
        assert!((bound(1, Combs::None).seconds - 6.5).abs() < 1e-9);
        let used = bound(3, Combs::None).used;
        assert_eq!((used.task_milliseconds, used.invocations, used.fuse_milliseconds), (6000, 3, 3500));
        assert_eq!((used.comb_milliseconds, used.starts.combs, used.requests.gets), (0, 0, 7));
    }

    #[test]
    fn tasks_that_reduce_run_stage_by_stage_after_the_others() {
        let bound = bound_with(3, Combs::None, vec![(4, 0.5), (1, 2.0)]);
        assert!((bound.seconds - (3.5 + 2.0 * 0.5 + 2.0)).abs() < 1e-9, "{bound:?}");
        assert_eq!((bound.used.task_milliseconds, bound.used.invocations), (10_000, 8));
        assert_eq!(bound.used.fuse_milliseconds, 6500);
    }

    #[test]
    fn combs_are_reserved_while_tasks_run_and_their_start_is_apart() {
        let used = bound(3, Combs::Running).used;
        assert_eq!((used.comb_milliseconds, used.starts), (6000, CombStarts::default()));
        let bound = bound(3, Combs::Started);
        assert!((bound.seconds - 13.5).abs() < 1e-9);
        assert_eq!(bound.used.comb_milliseconds, 6000);
        assert_eq!(bound.used.starts, CombStarts { combs: 2, milliseconds: 20_000 });
    }
}
