//! The loop of a pipeline: read sources, run an epoch, write state and output, create the record, publish.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use buzz_protocol::{QueryError, Result};
use buzz_storage::QueryStores;

use super::plan::{Workers, place, plan, read_script};
use super::runner::{Runner, Step};
use super::start::{new_id, stateful};
use super::{RunArguments, store};

/// Epochs that other processes may win before this one stops.
const LOST_MAX: u32 = 3;

/// Runs a script until its sources end, it fails, or it is interrupted.
pub(super) async fn run(mut arguments: RunArguments, threads: usize, stores: &Arc<QueryStores>) -> Result<()> {
    let (text, name) = read_script(&arguments.file)?;
    arguments.name = arguments.name.or(name);
    let workers = Workers { given: arguments.parallelism, threads };
    let place = place(stores, arguments.until_end)?;
    let mut runner = match &arguments.state {
        None => {
            let planned = plan(&text, workers, &place, &new_id("run")).await?;
            planned.check_targets().await?;
            Runner::new(planned, None)
        }
        Some(uri) => stateful(&text, uri, &arguments, workers, &place).await?,
    };
    if arguments.until_end {
        runner.check_ends()?;
    }
    let remote = arguments.state.as_deref().is_some_and(store::is_remote);
    let stopped = async {
        // Without a handler for the signal, an interrupt would end the process at any point, which is safe too.
        let _ = tokio::signal::ctrl_c().await;
    };
    tokio::pin!(stopped);
    let started = Instant::now();
    let mut lost = 0;
    while !runner.closed.load(Ordering::Relaxed) {
        let tick = Instant::now();
        let step = tokio::select! {
            biased;
            () = &mut stopped => break,
            step = runner.step() => step,
        };
        match step {
            Err(error) => return Err(error),
            Ok(Step::Lost) => {
                lost += 1;
                if lost >= LOST_MAX {
                    return Err(QueryError::cancelled(
                        "another process runs this pipeline and has created the last 3 epochs; stop one of them",
                    ));
                }
                runner.load().await?;
                continue;
            }
            Ok(Step::Ended) => break,
            Ok(Step::Done { more }) => {
                lost = 0;
                if arguments.epochs.is_some_and(|count| runner.summary.epochs >= count) {
                    break;
                }
                if !more {
                    let length = Duration::from_nanos(runner.planned.settings.epoch_nanos(remote) as u64);
                    tokio::select! {
                        () = &mut stopped => break,
                        () = tokio::time::sleep(length.saturating_sub(tick.elapsed())) => {}
                    }
                }
            }
        }
    }
    runner.stop().await?;
    crate::terminal::note(&runner.summary.text(started.elapsed()));
    Ok(())
}
