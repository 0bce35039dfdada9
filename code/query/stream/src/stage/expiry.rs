//! Keys that were not touched for longer than a time to live, and rows of joins that find no partners any more: they leave the
//! state without a change.
//!
//! A key expires by the times of epochs, which state files keep, so that each process drops the same keys. Its rows no longer
//! count from then on; they are removed a little later, for many keys at once.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use buzz_protocol::Result;

use super::counted::{HIDDEN, touched_times};
use super::fold::with_slice;
use super::state::{StageState, times};
use super::{Advance, END_OF_TIME, Stage, Work};
use crate::lower::Keyed;
use crate::window::WindowSpec;

/// A part of the time to live, after which expired rows are looked for.
const SWEEPS: i64 = 4;

impl Stage {
    /// Removes the rows of keys that were not touched for longer than the time to live, and those that find no partners any
    /// more.
    ///
    /// # Errors
    /// `Internal` if rows cannot be copied.
    pub(crate) fn expire(&self, state: &mut StageState, advance: Advance) -> Result<()> {
        let Advance { now, watermark, .. } = advance;
        let (length, clock) = match (self.reach(), self.ttl.filter(|_| self.spec == WindowSpec::Never)) {
            (_, Some(ttl)) => (ttl, now),
            (Some(reach), None) => (reach.max(0), watermark),
            (None, None) => return Ok(()),
        };
        if state.swept.saturating_add(length / SWEEPS) > clock {
            return Ok(());
        }
        state.swept = clock;
        for part in &mut state.parts {
            let mut found = Vec::new();
            let expired =
                |rows: &RecordBatch| self.are_alive(rows, now, watermark).iter().map(|alive| !alive).collect();
            part.sessions.find(expired, &mut found);
            found.sort_unstable();
            found.dedup();
            // A key may have rows that stay.
            let mut kept = Vec::new();
            for rows in part.sessions.take(&found)? {
                kept.push(self.alive(&rows, now, watermark)?);
            }
            part.sessions.add(concat_batches(&self.state_schema, &kept)?, &self.keys())?;
        }
        Ok(())
    }

    /// Returns how far the watermark may be ahead of a row that is kept for a join, in nanoseconds.
    fn reach(&self) -> Option<i64> {
        match &self.work {
            Work::Keyed(Keyed::Rows { reach, .. }) => *reach,
            _ => None,
        }
    }

    fn last_touched<'a>(&self, rows: &'a RecordBatch) -> &'a [i64] {
        match &self.work {
            Work::Fold(fold) => times(rows, fold.window_index).values(),
            Work::Buffer | Work::Keyed(_) => touched_times(rows),
        }
    }

    fn are_alive(&self, rows: &RecordBatch, now: i64, watermark: i64) -> Vec<bool> {
        let oldest = self.ttl.map_or(i64::MIN, |ttl| now.saturating_sub(ttl));
        let touched = self.last_touched(rows).iter().map(|&time| time >= oldest);
        match self.reach() {
            None => touched.collect(),
            Some(reach) => {
                let times = times(rows, rows.num_columns() - HIDDEN).values().iter();
                // When all sources have ended, the rows of a later run may still be partners.
                let has_ended = watermark == END_OF_TIME;
                let partners = times.map(|time| has_ended || time.saturating_add(reach) >= watermark);
                touched.zip(partners).map(|(touched, partners)| touched && partners).collect()
            }
        }
    }

    /// Returns those of `rows` whose keys have not expired and that may find partners.
    pub(super) fn alive(&self, rows: &RecordBatch, now: i64, watermark: i64) -> Result<RecordBatch> {
        if self.ttl.is_none() && self.reach().is_none() {
            return Ok(rows.clone());
        }
        Ok(filter_record_batch(rows, &BooleanArray::from(self.are_alive(rows, now, watermark)))?)
    }

    /// Returns partial rows of an aggregate without a window with the time of their epoch, if its keys expire.
    pub(crate) fn touched_at(&self, rows: RecordBatch, now: i64) -> Result<RecordBatch> {
        match (&self.work, self.spec, self.ttl) {
            (Work::Fold(fold), WindowSpec::Never, Some(_)) => with_slice(&rows, fold.window_index, now),
            _ => Ok(rows),
        }
    }
}
