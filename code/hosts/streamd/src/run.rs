//! The loop of a pipeline: read sources, run an epoch, write state and output, create the record, publish. Ends when
//! its sources end, when it fails, or when it gets an order.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use buzz_epoch::EpochLog;
use buzz_protocol::{QueryError, Result};
use tokio::sync::watch;

use crate::plan::plan;
use crate::process::Process;
use crate::runner::{Runner, Step};
use crate::start::{Opening, new_id, stateful};
use crate::store;

/// Epochs that other processes may win before this one stops.
pub(crate) const LOST_MAX: u32 = 3;

/// A script to run in this process until it ends.
#[derive(Debug, Clone)]
pub struct Run {
    /// The script.
    pub script: String,
    /// The folder or s3:// uri of the state, if it is kept.
    pub state: Option<String>,
    /// The name of the pipeline in the state.
    pub name: String,
    /// Replaces the number of workers of the script.
    pub parallelism: Option<NonZeroUsize>,
    /// The epoch to go back to before the start; 0 starts without state.
    pub from_epoch: Option<u64>,
    /// A script that differs from the one before goes on after the offsets of sources that it declares alike, with the state
    /// of statements that have not changed.
    pub continues: bool,
    /// The number of epochs after which the run stops.
    pub epochs: Option<u64>,
    /// Files of a local state are on the disk before an epoch counts.
    pub sync: bool,
}

/// An order to a pipeline that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Go,
    /// Stop after the epoch that runs.
    Finish,
    /// Stop at once. The epoch that runs is abandoned, as if the process had been killed, and repeated by the next start.
    Abandon,
}

/// The reason for which [`drive`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All sources have ended.
    Sources,
    /// The reader of a sink has ended.
    Closed,
    /// The number of epochs was reached.
    Epochs,
    /// Another process created the record of an epoch.
    Lost,
    /// An order.
    Ordered(Order),
}

/// The pace of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The length of an epoch.
    pub(crate) epoch: Duration,
    /// The number of epochs after which the run stops.
    pub(crate) epochs: Option<u64>,
}

/// Runs a script until its sources end, it fails, or `interrupted` ends. Returns a line about the run.
///
/// # Errors
/// `Invalid` if the script or the place of its state is wrong; errors of sources, statements and sinks; `Cancelled` if
/// another process runs the pipeline.
pub async fn run(run: &Run, process: &Process, interrupted: impl Future<Output = ()>) -> Result<String> {
    let mut runner = match &run.state {
        None => {
            let planned = plan(&run.script, run.parallelism, process, &new_id("run")).await?;
            planned.check_targets().await?;
            Runner::new(planned, None)
        }
        Some(uri) => {
            let (store, root) = store::open(uri, run.sync, &process.place).await?;
            let (name, parallelism, from_epoch) = (run.name.clone(), run.parallelism, run.from_epoch);
            let remote = store::is_remote(uri);
            let opening = Opening { store, root, remote, name, parallelism, from_epoch, continues: run.continues };
            stateful(&run.script, &opening, process).await?
        }
    };
    if process.place.until_end {
        runner.check_ends()?;
    }
    let remote = run.state.as_deref().is_some_and(store::is_remote);
    let epoch = Duration::from_nanos(runner.planned.settings.epoch_nanos(remote) as u64);
    let pace = Pace { epoch, epochs: run.epochs };
    let started = Instant::now();
    let (orders, mut received) = watch::channel(Order::Go);
    let running = until_done(&mut runner, pace, &mut received);
    let interrupted = async {
        interrupted.await;
        orders.send_replace(Order::Abandon);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = running => done?,
        () = interrupted => {}
    }
    runner.stop().await?;
    Ok(runner.summary.text(&runner.live.figures(), started.elapsed()))
}

/// Drives a pipeline until it ends. Goes on with the newest epoch if another process was faster.
async fn until_done(runner: &mut Runner, pace: Pace, orders: &mut watch::Receiver<Order>) -> Result<()> {
    let mut losses = Losses::default();
    while drive(runner, pace, orders).await? == End::Lost {
        losses.add(runner)?;
        runner.load().await?;
    }
    Ok(())
}

/// Counts the epochs that other processes won one after the other.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    lost: u32,
    /// The number of own epochs when the last one was lost.
    epochs: u64,
}

impl Losses {
    /// Counts a lost epoch.
    ///
    /// # Errors
    /// `Cancelled` if it was the last of [`LOST_MAX`].
    pub(crate) fn add(&mut self, runner: &Runner) -> Result<()> {
        if runner.summary.epochs > self.epochs {
            *self = Self { lost: 0, epochs: runner.summary.epochs };
        }
        self.lost += 1;
        if self.lost >= LOST_MAX {
            return Err(QueryError::cancelled(format!(
                "another process runs this pipeline and has created the last {LOST_MAX} epochs; stop one of them"
            )));
        }
        Ok(())
    }
}

/// Runs epochs until the pipeline ends, loses an epoch, or gets an order.
pub(crate) async fn drive(runner: &mut Runner, pace: Pace, orders: &mut watch::Receiver<Order>) -> Result<End> {
    loop {
        if runner.closed.load(Ordering::Relaxed) {
            return Ok(End::Closed);
        }
        let order = *orders.borrow_and_update();
        if order != Order::Go {
            return Ok(End::Ordered(order));
        }
        let tick = Instant::now();
        let step = tokio::select! {
            biased;
            () = ordered(orders, Order::Abandon) => return Ok(End::Ordered(Order::Abandon)),
            step = runner.step() => step?,
        };
        match step {
            Step::Lost => return Ok(End::Lost),
            Step::Ended => return Ok(End::Sources),
            Step::Done { more } => {
                if pace.epochs.is_some_and(|count| runner.summary.epochs >= count) {
                    return Ok(End::Epochs);
                }
                if !more {
                    tokio::select! {
                        () = ordered(orders, Order::Finish) => {}
                        () = tokio::time::sleep(pace.epoch.saturating_sub(tick.elapsed())) => {}
                    }
                }
            }
        }
    }
}

/// Waits for `order`, or [`Order::Abandon`]. Without a sender, no order comes.
pub(crate) async fn ordered(orders: &mut watch::Receiver<Order>, order: Order) {
    let came = orders.wait_for(|&came| came == order || came == Order::Abandon).await.is_ok();
    if !came {
        std::future::pending::<()>().await;
    }
}

/// Describes the stages of a script, what each keeps and for how long, and what an epoch costs. With `plans`, the physical
/// plans too. Reads no rows.
///
/// # Errors
/// `Invalid` if the script cannot run.
pub async fn describe(script: &str, plans: bool, process: &Process) -> Result<String> {
    let planned = plan(script, None, process, "check").await?;
    let mut description = planned.pipeline.describe(plans);
    let epoch = planned.settings.epoch_nanos(false) as f64 / 1e9;
    let stages = planned.pipeline.stages().count();
    let sinks = planned.sinks.len();
    let puts = 1 + stages + 2 * sinks;
    let month = 30.0 * 86_400.0 / epoch * puts as f64 * 5e-6;
    description.push_str(&format!(
        "epoch: every {epoch} s; at most {puts} files ({stages} of state, {sinks} of output and their copies, 1 record); \
         on S3 at 0.005 US$ per 1,000 PUTs at most {month:.2} US$ in 30 days of events\n"
    ));
    Ok(description)
}

/// Opens the epochs of a pipeline to look at them: of `name`, or of the only one in the state. Returns its name too.
///
/// # Errors
/// `Invalid` if the state or the pipeline does not exist, or if the state has several and none is named.
pub async fn existing(state: &str, name: Option<String>, process: &Process) -> Result<(String, EpochLog)> {
    store::check_exists(state)?;
    let (store, root) = store::open(state, false, &process.place).await?;
    let name = match name {
        Some(name) => name,
        None => store::only_pipeline(&store, &root).await?,
    };
    let log = EpochLog::existing(store, root, &name).await?;
    let log = log.ok_or_else(|| QueryError::invalid(format!("`{state}` has no pipeline `{name}`")))?;
    Ok((name, log))
}
