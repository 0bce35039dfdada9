//! The summary of a run: counts, and the time of its epochs.

use std::collections::BTreeMap;
use std::time::Duration;

/// Epochs of which the time is kept.
const TIMED_EPOCHS_MAX: usize = 100_000;

/// Counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) epochs: u64,
    rows_in: u64,
    rows_out: u64,
    late: u64,
    bad: u64,
    skipped: u64,
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
    /// Late rows by source.
    pub(crate) late: BTreeMap<String, u64>,
    /// Rows that could not be decoded or have no event time, by source.
    pub(crate) bad: BTreeMap<String, u64>,
    /// The error for which the rows of the epoch were left out.
    pub(crate) skipped: Option<String>,
}

impl Summary {
    /// Adds an epoch.
    pub(crate) fn add(&mut self, counts: &Counts, time: Duration) {
        self.epochs += 1;
        self.rows_in += counts.rows_in;
        self.rows_out += counts.rows_out;
        self.late += counts.late.values().sum::<u64>();
        self.bad += counts.bad.values().sum::<u64>();
        self.skipped += u64::from(counts.skipped.is_some());
        if self.seconds.len() < TIMED_EPOCHS_MAX {
            self.seconds.push(time.as_secs_f64());
        }
    }

    /// Returns one line about a run that took `time`.
    pub(crate) fn text(&self, time: Duration) -> String {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let index = (seconds.len() as f64 * share) as usize;
            seconds.get(index.min(seconds.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let skipped = if self.skipped > 0 { format!(", skipped epochs: {}", self.skipped) } else { String::new() };
        format!(
            "epochs: {}, rows in: {}, rows out: {}, late: {}, bad: {}{skipped}, epoch p50: {:.3} s, p99: {:.3} s, max: {:.3} s, \
             time: {:.2} s, rows per second: {:.0}",
            self.epochs,
            self.rows_in,
            self.rows_out,
            self.late,
            self.bad,
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
            time.as_secs_f64(),
            self.rows_in as f64 / time.as_secs_f64().max(1e-9),
        )
    }
}
