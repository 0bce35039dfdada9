//! Warnings and the progress line while a query runs.

use std::time::Duration;

use buzz_engine::{Progress, ProgressReport, Status};
use buzz_protocol::{QueryId, human_bytes};
use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal::{is_watched, warn};

/// Interval at which warnings are printed and the line is redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// The progress line, or `None` if standard error is not a terminal.
struct Line(Option<ProgressBar>);

impl Line {
    fn new() -> Self {
        Self(is_watched().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
            bar.set_style(style.expect("a constant template parses"));
            bar
        }))
    }

    fn show(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(text.to_string());
            bar.tick();
        }
    }

    /// Prints a warning above the line.
    fn warn(&self, warning: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| warn(warning)),
            None => warn(warning),
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

/// Waits for `work`. Meanwhile prints the warnings of `progress` as they come, and shows a progress line if standard
/// error is a terminal.
pub(crate) async fn while_running<T>(progress: &Progress, query: QueryId, work: impl Future<Output = T>) -> T {
    let shown = Line::new();
    let mut printed = 0;
    let mut print_new = || {
        for warning in progress.warnings().iter().skip(printed) {
            shown.warn(warning);
            printed += 1;
        }
    };
    tokio::pin!(work);
    let mut tick = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            done = &mut work => {
                print_new();
                return done;
            }
            _ = tick.tick() => {
                print_new();
                shown.show(&line(&progress.report(query)));
            }
        }
    }
}

fn line(report: &ProgressReport) -> String {
    let state = match report.status {
        Status::Submitted => "submitted: ",
        Status::Cancelling => "cancelling: ",
        Status::Running => "",
    };
    format!(
        "{state}tasks: {} of {}, rows: {}, bytes: {}, retries: {}",
        report.tasks_done,
        report.tasks,
        report.rows_scanned,
        human_bytes(report.bytes_scanned),
        report.retries
    )
}
