//! The progress line on the terminal while a query runs.

use std::time::Duration;

use buzz_fuse::Progress;
use buzz_fuse::explain::bytes;
use indicatif::{ProgressBar, ProgressStyle};

use crate::ask::watched;

/// Interval at which the line is redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// The progress line, or `None` if standard error is not a terminal.
pub(crate) struct Line(Option<ProgressBar>);

impl Line {
    pub(crate) fn new() -> Self {
        Self(watched().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
            bar.set_style(style.expect("a constant template parses"));
            bar
        }))
    }

    pub(crate) fn show(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(text.to_string());
            bar.tick();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Waits for `work` and shows `progress` meanwhile, if standard error is a terminal.
pub(crate) async fn while_running<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    let shown = Line::new();
    tokio::pin!(work);
    let mut tick = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick(), if shown.0.is_some() => shown.show(&line(progress)),
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
