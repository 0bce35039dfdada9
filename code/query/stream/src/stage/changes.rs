//! Aggregates without a window: their groups never end, so an epoch emits how the rows of its groups change.
//!
//! The state is one row of partial aggregates for each group, found by the hash of its key as open sessions are. An epoch
//! takes out the rows of the groups that it has rows of, adds these, and finishes both: the rows before and after it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::row::{RowConverter, Rows, SortField};
use buzz_protocol::{QueryError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::aggregates::AggregateMode;
use datafusion::physical_plan::collect;

use super::Stage;
use super::fold::{Fold, above_last, with_slice};
use super::keyed::hashes;
use super::state::{StatePart, times};
use crate::lower::Output;

/// The largest number of changes of a key group in an epoch.
pub(super) const CHANGES_MAX: usize = 1 << 40;

impl Stage {
    /// Adds `delta` to the groups, and returns the rows of those that change: each before and after. The time of a row is
    /// its place among all changes of the epoch, twice the number of the change, and one more for the row after it.
    pub(super) async fn change(
        &self,
        part: &mut StatePart,
        fold: &Fold,
        (delta, emits): (Vec<RecordBatch>, bool),
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let keys = self.keys();
        let mut changed = Vec::new();
        for batch in &delta {
            changed.extend(hashes(batch, &keys)?);
        }
        changed.sort_unstable();
        changed.dedup();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut before = part.sessions.take(&changed)?;
        let mut rows = before.clone();
        if let Some(now) = self.time_of(fold, &delta) {
            before = before.iter().map(|rows| self.alive(rows, now, i64::MIN)).collect::<Result<_>>()?;
            // The slice is the time at which the key was touched last. Rows that come together have one.
            rows = before.iter().map(|rows| with_slice(rows, fold.window_index, now)).collect::<Result<_>>()?;
        }
        rows.extend(delta);
        let reduced = self.aggregate(fold, AggregateMode::PartialReduce, &rows)?;
        let after = concat_batches(&self.state_schema, &collect(reduced, Arc::clone(context)).await?)?;
        let mut emitted = Vec::new();
        if emits {
            let first = self.first_place() + i64::from(part.groups.start) * (2 * CHANGES_MAX as i64);
            let old = self.finals(fold, &before, context).await?;
            let new = self.finals(fold, std::slice::from_ref(&after), context).await?;
            emitted = self.changes(fold, old.as_ref(), new.as_ref(), first)?;
        }
        part.sessions.add(after, &keys)?;
        Ok(emitted)
    }

    /// Returns the time of the epoch that added `delta`, if keys expire. The rows of a whole state have several.
    fn time_of(&self, fold: &Fold, delta: &[RecordBatch]) -> Option<i64> {
        self.ttl?;
        let mut times = delta.iter().flat_map(|rows| times(rows, fold.window_index).values());
        let first = times.next().copied()?;
        times.all(|&time| time == first).then_some(first)
    }

    /// Finishes state rows; `None` if there are none.
    async fn finals(
        &self,
        fold: &Fold,
        rows: &[RecordBatch],
        context: &Arc<TaskContext>,
    ) -> Result<Option<RecordBatch>> {
        let last = self.aggregate(fold, AggregateMode::Final, rows)?;
        let finals = match rows.iter().any(|rows| rows.num_rows() > 0) {
            true => above_last(fold, last, context).await?,
            false => Vec::new(),
        };
        match finals.first() {
            Some(first) => Ok(Some(concat_batches(&first.schema(), &finals)?)),
            None => Ok(None),
        }
    }

    /// Returns the rows that differ between `old` and `new`, which have a row for each group that has changed. `first` is
    /// the place of the first change.
    fn changes(
        &self,
        fold: &Fold,
        old: Option<&RecordBatch>,
        new: Option<&RecordBatch>,
        first: i64,
    ) -> Result<Vec<RecordBatch>> {
        let Some(new) = new else { return Ok(Vec::new()) };
        let keys: Vec<usize> = (0..fold.output_index).collect();
        let values: Vec<usize> = (fold.output_index + 1..new.num_columns()).collect();
        let (keys, values) = (Comparable::new(new, &keys)?, Comparable::new(new, &values)?);
        let (new_keys, new_values) = (keys.rows(new)?, values.rows(new)?);
        let old_rows = match old {
            Some(old) => Some((keys.rows(old)?, values.rows(old)?)),
            None => None,
        };
        let count = old.map_or(0, RecordBatch::num_rows);
        let known: HashMap<&[u8], usize> = match &old_rows {
            Some((old_keys, _)) => (0..count).map(|row| (row_bytes(old_keys.as_ref(), row), row)).collect(),
            None => HashMap::new(),
        };
        let (mut before, mut after) = (Changed::default(), Changed::default());
        let mut place = first;
        for row in 0..new.num_rows() {
            if let Some(&old_row) = known.get(row_bytes(new_keys.as_ref(), row)) {
                let old_values = old_rows.as_ref().and_then(|(_, values)| values.as_ref());
                if row_bytes(old_values, old_row) == row_bytes(new_values.as_ref(), row) {
                    continue;
                }
                before.add(old_row, place);
            }
            after.add(row, place + 1);
            place += 2;
        }
        let mut emitted = Vec::new();
        for (rows, changed) in [(old, before), (Some(new), after)] {
            if let Some(rows) = rows.filter(|_| !changed.places.is_empty()) {
                emitted.push(self.changed_rows(fold, rows, changed)?);
            }
        }
        Ok(emitted)
    }

    fn changed_rows(&self, fold: &Fold, rows: &RecordBatch, changed: Changed) -> Result<RecordBatch> {
        let indices = UInt32Array::from(changed.rows);
        let mut columns = Vec::with_capacity(fold.outputs.len() + 1);
        for output in &fold.outputs {
            let Output::Column(index) = output else {
                return Err(QueryError::internal("an aggregate without a window has one"));
            };
            columns.push(take(rows.column(*index), &indices, None)?);
        }
        columns.push(Arc::new(TimestampNanosecondArray::from(changed.places)) as ArrayRef);
        self.slot_batch(columns, indices.len())
    }
}

/// Rows that change, with their places.
#[derive(Default)]
struct Changed {
    rows: Vec<u32>,
    places: Vec<i64>,
}

impl Changed {
    fn add(&mut self, row: usize, place: i64) {
        self.rows.push(row as u32);
        self.places.push(place);
    }
}

/// Columns whose rows can be compared. Without columns, all rows are equal.
pub(crate) struct Comparable {
    converter: Option<RowConverter>,
    columns: Vec<usize>,
}

impl Comparable {
    pub(crate) fn new(rows: &RecordBatch, columns: &[usize]) -> Result<Self> {
        let fields: Vec<SortField> =
            columns.iter().map(|&index| SortField::new(rows.column(index).data_type().clone())).collect();
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { converter, columns: columns.to_vec() })
    }

    pub(crate) fn rows(&self, rows: &RecordBatch) -> Result<Option<Rows>> {
        let Some(converter) = &self.converter else { return Ok(None) };
        let columns: Vec<ArrayRef> = self.columns.iter().map(|&index| Arc::clone(rows.column(index))).collect();
        Ok(Some(converter.convert_columns(&columns)?))
    }
}

/// Returns the bytes of a row, by which it equals others of its converter.
pub(crate) fn row_bytes(rows: Option<&Rows>, row: usize) -> &[u8] {
    rows.map_or(&[], |rows| rows.row(row).data())
}
