//! Figures of a pipeline while it runs.

use buzz_stream::{END_OF_TIME, State};
use parking_lot::Mutex;

use crate::summary::Counts;

/// Figures of a pipeline since this process runs it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Epochs with a record.
    pub epochs: u64,
    /// Rows that were read.
    pub rows_in: u64,
    /// Rows for sinks.
    pub rows_out: u64,
    /// Rows of which all windows were closed.
    pub late: u64,
    /// Rows that could not be decoded or have no event time.
    pub bad: u64,
    /// Epochs whose rows were left out.
    pub skipped: u64,
    /// Time of all epochs in seconds.
    pub seconds: f64,
    /// Time of the last epoch in seconds.
    pub last_seconds: f64,
    /// Rows of the state.
    pub state_rows: u64,
    /// The lowest watermark of a source, in nanoseconds since 1970; `None` if no source has one, or all have ended.
    pub watermark: Option<i64>,
}

/// Figures that one thread changes and others read.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<Figures>);

impl Live {
    /// Returns the figures of now.
    pub(crate) fn figures(&self) -> Figures {
        self.0.lock().clone()
    }

    /// Adds an epoch that took `seconds`.
    pub(crate) fn add(&self, counts: &Counts, seconds: f64) {
        let mut figures = self.0.lock();
        figures.epochs += 1;
        figures.rows_in += counts.rows_in;
        figures.rows_out += counts.rows_out;
        figures.late += counts.late.values().sum::<u64>();
        figures.bad += counts.bad.values().sum::<u64>();
        figures.skipped += u64::from(counts.skipped.is_some());
        figures.seconds += seconds;
        figures.last_seconds = seconds;
    }

    /// Enters what holds also after an epoch without rows.
    pub(crate) fn set(&self, state: &State, state_rows: usize) {
        let marks = state.sources.values().filter_map(|source| source.watermark);
        let mut figures = self.0.lock();
        figures.watermark = marks.filter(|&mark| mark != END_OF_TIME && mark != i64::MIN).min();
        figures.state_rows = state_rows as u64;
    }
}
