//! A line on the terminal while a query runs.

use std::time::Duration;

use buzz_fuse::Progress;
use buzz_fuse::explain::bytes;
use indicatif::{ProgressBar, ProgressStyle};

use crate::ask::watched;

/// How often the line is drawn anew.
const REDRAW: Duration = Duration::from_millis(100);

/// Waits for `work` and shows `progress` meanwhile, if standard error is a terminal.
pub(crate) async fn while_running<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    if !watched() {
        return work.await;
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a constant template parses"));
    tokio::pin!(work);
    let mut tick = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = tick.tick() => {
                bar.set_message(line(progress));
                bar.tick();
            }
        }
    }
}

fn line(progress: &Progress) -> String {
    format!(
        "tasks: {} of {}, rows: {}, bytes: {}, retries: {}",
        Progress::get(&progress.tasks_done),
        Progress::get(&progress.tasks),
        Progress::get(&progress.rows_scanned),
        bytes(Progress::get(&progress.bytes_scanned)),
        Progress::get(&progress.retries)
    )
}
