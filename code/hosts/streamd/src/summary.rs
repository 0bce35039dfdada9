//! The summary of a run: counts, and the time of its epochs.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::live::Figures;

/// Epochs of which the time is kept.
const TIMED_EPOCHS_MAX: usize = 100_000;

/// Epochs of a run, whose counts are in its figures.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) epochs: u64,
    /// Seconds of epochs, of at most [`TIMED_EPOCHS_MAX`].
    seconds: Vec<f64>,
}

/// Counts of one epoch.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) rows_in: u64,
    pub(crate) rows_out: u64,
    /// Rows that were read, by source.
    pub(crate) rows_of_sources: BTreeMap<String, u64>,
    /// Rows that are not read yet, of the sources that know their number.
    pub(crate) lag: BTreeMap<String, u64>,
    /// Late rows by source, and late pairs by the stage that joins them.
    pub(crate) late: BTreeMap<String, u64>,
    /// Rows that could not be decoded or have no event time, by source.
    pub(crate) bad: BTreeMap<String, u64>,
    /// The error for which the rows of the epoch were left out.
    pub(crate) skipped: Option<String>,
}

impl Summary {
    /// Adds an epoch.
    pub(crate) fn add(&mut self, time: Duration) {
        self.epochs += 1;
        if self.seconds.len() < TIMED_EPOCHS_MAX {
            self.seconds.push(time.as_secs_f64());
        }
    }

    /// Returns one line about a run with these figures that took `time`.
    pub(crate) fn text(&self, figures: &Figures, time: Duration) -> String {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let index = (seconds.len() as f64 * share) as usize;
            seconds.get(index.min(seconds.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let skipped =
            if figures.skipped > 0 { format!(", skipped epochs: {}", figures.skipped) } else { String::new() };
        format!(
            "epochs: {}, rows in: {}, rows out: {}, late: {}, bad: {}{skipped}, epoch p50: {:.3} s, p99: {:.3} s, max: {:.3} s, \
             time: {:.2} s, rows per second: {:.0}",
            self.epochs,
            figures.rows_in,
            figures.rows_out,
            figures.late,
            figures.bad,
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
            time.as_secs_f64(),
            figures.rows_in as f64 / time.as_secs_f64().max(1e-9),
        )
    }
}
