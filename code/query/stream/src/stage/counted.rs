//! Rows with how often each occurs: how stages keep rows by key, and how their changes are merged.
//!
//! Behind the columns of a row stand its time, the time at which its key was touched last, and its number. A change is a row
//! with the number by which it differs. The rows of a key are found by the hash of the key, as open sessions are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampNanosecondType};
use buzz_protocol::{QueryError, Result};

use super::changes::{CHANGES_MAX, Comparable, row_bytes};
use super::keyed::{KEY_GROUPS, divided, hashes};
use super::state::StageState;
use super::{Advance, Stage};
use crate::lower::{COUNT, TIME};
use crate::window::time_type;

/// The hidden column of the time at which the key of a row was touched last, in nanoseconds since 1970.
const TOUCHED: &str = "__buzz_touched";

/// Columns behind those of a row: its time, the time of the last change of its key, and its number.
pub(super) const HIDDEN: usize = 3;

/// Returns the columns of rows with `columns` that are kept with their number.
pub(super) fn counted_schema(columns: &[&Field]) -> SchemaRef {
    let mut fields: Vec<Field> = columns.iter().map(|field| (*field).clone().with_nullable(true)).collect();
    fields.push(Field::new(TIME, time_type(), true));
    fields.push(Field::new(TOUCHED, DataType::Int64, true));
    fields.push(Field::new(COUNT, DataType::Int64, true));
    Arc::new(Schema::new(fields))
}

/// Puts a time, `touched` and a number behind `columns`.
pub(super) fn counted(
    schema: &SchemaRef,
    columns: &[ArrayRef],
    times: Option<ArrayRef>,
    touched: i64,
    counts: Int64Array,
) -> Result<RecordBatch> {
    let rows = counts.len();
    let mut columns = columns.to_vec();
    columns.push(times.unwrap_or_else(|| Arc::new(TimestampNanosecondArray::from_value(0, rows))));
    columns.push(Arc::new(Int64Array::from_value(touched, rows)));
    columns.push(Arc::new(counts));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Returns how often each row occurs.
pub(super) fn counts(rows: &RecordBatch) -> &[i64] {
    rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>().values()
}

/// Returns rows without what stands behind their columns.
pub(super) fn columns(rows: &RecordBatch) -> &[ArrayRef] {
    &rows.columns()[..rows.num_columns() - HIDDEN]
}

/// Returns the time at which the key of each row was touched last.
pub(super) fn touched_times(rows: &RecordBatch) -> &[i64] {
    rows.column(rows.num_columns() - 2).as_primitive::<Int64Type>().values()
}

/// Returns the rows at `indices` with other times of their last change and other numbers.
fn with_counts(rows: &RecordBatch, indices: Vec<u32>, touched: Vec<i64>, counts: Vec<i64>) -> Result<RecordBatch> {
    let rows = take_record_batch(rows, &UInt32Array::from(indices))?;
    let mut columns = rows.columns().to_vec();
    columns.truncate(columns.len() - 2);
    columns.push(Arc::new(Int64Array::from(touched)));
    columns.push(Arc::new(Int64Array::from(counts)));
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

/// Adds up the numbers of equal rows. Rows whose numbers cancel out are left out; the others stay in their order.
pub(super) fn added_up(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let all = concat_batches(schema, batches)?;
    let compared: Vec<usize> = (0..all.num_columns() - 2).collect();
    let rows = Comparable::new(&all, &compared)?.rows(&all)?;
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut found: Vec<(u32, i64, i64)> = Vec::new();
    for (row, (&count, &time)) in counts(&all).iter().zip(touched_times(&all)).enumerate() {
        let place = *places.entry(row_bytes(rows.as_ref(), row)).or_insert_with(|| {
            found.push((row as u32, i64::MIN, 0));
            found.len() - 1
        });
        let (_, last, sum) = &mut found[place];
        *last = (*last).max(time);
        *sum = sum.checked_add(count).ok_or_else(|| QueryError::data("a row occurs more than 2^63 times"))?;
    }
    found.retain(|(_, _, count)| *count != 0);
    let indices = found.iter().map(|(row, ..)| *row).collect();
    let times = found.iter().map(|(_, time, _)| *time).collect();
    with_counts(&all, indices, times, found.iter().map(|(.., count)| *count).collect())
}

/// Returns `rows` with the opposite numbers.
pub(super) fn taken_away(rows: &RecordBatch) -> Result<RecordBatch> {
    let indices = (0..rows.num_rows() as u32).collect();
    with_counts(rows, indices, touched_times(rows).to_vec(), counts(rows).iter().map(|count| -count).collect())
}

/// Returns the index of each row as often as it occurs.
pub(super) fn repeated(rows: &RecordBatch) -> UInt32Array {
    let indices = counts(rows).iter().enumerate();
    indices.flat_map(|(row, &count)| std::iter::repeat_n(row as u32, usize::try_from(count).unwrap_or(0))).collect()
}

/// The rows of the keys that an epoch touches.
pub(super) struct Merged {
    pub(super) before: RecordBatch,
    pub(super) after: RecordBatch,
    /// The rows that bring another process from `before` to `after`.
    pub(super) stored: RecordBatch,
}

impl Stage {
    /// Takes out the rows of the keys whose hashes are in `touched`, in order.
    fn take(&self, state: &mut StageState, touched: &[u64]) -> Result<RecordBatch> {
        let mut taken = Vec::new();
        for part in &mut state.parts {
            let of_part = |hash: &u64| part.groups.contains(&((hash % KEY_GROUPS as u64) as u32));
            let hashes: Vec<u64> = touched.iter().copied().filter(of_part).collect();
            taken.extend(part.sessions.take(&hashes)?);
        }
        Ok(concat_batches(&self.state_schema, &taken)?)
    }

    /// Adds rows of keys that have no others in the state.
    fn give(&self, state: &mut StageState, rows: &RecordBatch) -> Result<()> {
        let keys = self.keys();
        let added = std::slice::from_ref(rows);
        let ordered = super::keyed(&self.state_schema, &keys, false, added)?;
        state.divide(&self.state_schema, &keys, |groups| {
            ordered.iter().filter_map(|rows| rows.of(groups)).map(|rows| rows.num_rows()).sum()
        })?;
        let ranges: Vec<Range<u32>> = state.parts.iter().map(|part| part.groups.clone()).collect();
        let of_parts = divided(&self.state_schema, &keys, added, &ranges)?;
        for (part, batches) in state.parts.iter_mut().zip(of_parts) {
            for batch in batches {
                part.sessions.add(batch, &keys)?;
            }
        }
        Ok(())
    }

    /// Merges changes into the state. `touched` are the hashes of the keys that count as touched now, in order, among
    /// which are those of `delta`.
    ///
    /// # Errors
    /// `Data` if a row is taken away that the state does not have.
    pub(super) fn merge(
        &self,
        state: &mut StageState,
        delta: &RecordBatch,
        touched: &[u64],
        advance: Advance,
    ) -> Result<Merged> {
        let before = self.taken(state, touched, advance)?;
        self.settle(state, before, delta, advance.now)
    }

    /// Takes out the rows of the keys whose hashes are in `touched`, in order, and returns those that have not expired.
    pub(super) fn taken(&self, state: &mut StageState, touched: &[u64], advance: Advance) -> Result<RecordBatch> {
        self.alive(&self.take(state, touched)?, advance.now, advance.before)
    }

    /// Puts `before`, which were taken out of the state, back with the changes `delta`.
    ///
    /// # Errors
    /// As [`Self::merge`].
    pub(super) fn settle(
        &self,
        state: &mut StageState,
        before: RecordBatch,
        delta: &RecordBatch,
        now: i64,
    ) -> Result<Merged> {
        let mut after = added_up(&self.state_schema, &[before.clone(), delta.clone()])?;
        if self.ttl.is_some() {
            // The row that a change takes away may have expired on its own.
            let kept = counts(&after).iter().map(|count| Some(*count > 0)).collect();
            after = filter_record_batch(&after, &kept)?;
            let (indices, times) = ((0..after.num_rows() as u32).collect(), vec![now; after.num_rows()]);
            after = with_counts(&after, indices, times, counts(&after).to_vec())?;
        } else if counts(&after).iter().any(|count| *count < 0) {
            return Err(QueryError::data(format!(
                "{}: a row is taken away that did not come before; read the changes from their start, each once, and let \
                 `before` have the whole row (of PostgreSQL: ALTER TABLE … REPLICA IDENTITY FULL)",
                self.clause
            )));
        }
        self.give(state, &after)?;
        let stored = self.with_marks(delta, &before, now)?;
        Ok(Merged { before, after, stored })
    }

    /// Returns the rows to store: `delta`, and a row with the number 0 for each key that was touched without a
    /// change, so that another process knows when.
    fn with_marks(&self, delta: &RecordBatch, before: &RecordBatch, now: i64) -> Result<RecordBatch> {
        if self.ttl.is_none() {
            return Ok(delta.clone());
        }
        let indices = (0..delta.num_rows() as u32).collect();
        let delta = with_counts(delta, indices, vec![now; delta.num_rows()], counts(delta).to_vec())?;
        let keys = self.keys();
        let mut known: std::collections::HashSet<u64> = hashes(&delta, &keys)?.into_iter().collect();
        let unchanged = hashes(before, &keys)?.into_iter().enumerate();
        let marks: Vec<u32> = unchanged.filter(|(_, hash)| known.insert(*hash)).map(|(row, _)| row as u32).collect();
        let (times, numbers) = (vec![now; marks.len()], vec![0; marks.len()]);
        let marks = with_counts(before, marks, times, numbers)?;
        Ok(concat_batches(&self.state_schema, [&delta, &marks])?)
    }

    /// Adds changes that another process stored.
    pub(super) fn merge_stored(&self, state: &mut StageState, stored: &[RecordBatch]) -> Result<()> {
        let rows = concat_batches(&self.state_schema, stored)?;
        let Some(now) = touched_times(&rows).iter().max().copied() else { return Ok(()) };
        let mut found = hashes(&rows, &self.keys())?;
        found.sort_unstable();
        found.dedup();
        let times = touched_times(&rows).iter();
        if times.clone().min() == times.max() {
            let advance = Advance { before: i64::MIN, watermark: i64::MIN, emits: false, now };
            return self.merge(state, &rows, &found, advance).map(|_| ());
        }
        // The whole state: each key was touched at another time, and the state is empty.
        let before = self.take(state, &found)?;
        let after = added_up(&self.state_schema, &[before, rows])?;
        self.give(state, &after)
    }

    /// Returns the rows of the slot for `changes`: those before and after them, as often as they change. A row that is taken
    /// away and a new one with the same key are one change.
    pub(super) fn emitted(&self, changes: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let found = hashes(changes, &self.keys())?;
        let mut order: Vec<usize> = (0..changes.num_rows()).collect();
        order.sort_by_key(|&row| found[row]);
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        let mut place = self.first_place();
        for of_key in order.chunk_by(|&a, &b| found[a] == found[b]) {
            let signed = |sign: i64| {
                let rows = of_key.iter().copied().filter(move |&row| counts(changes)[row].signum() == sign);
                rows.flat_map(|row| std::iter::repeat_n(row as u32, counts(changes)[row].unsigned_abs() as usize))
            };
            let (mut before, mut after) = (signed(-1), signed(1));
            loop {
                let (old, new) = (before.next(), after.next());
                if old.is_none() && new.is_none() {
                    break;
                }
                for (row, place) in [(old, place), (new, place + 1)] {
                    if let Some(row) = row {
                        rows.push(row);
                        places.push(place);
                    }
                }
                place += 2;
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let rows = take_record_batch(changes, &UInt32Array::from(rows))?;
        let mut output = columns(&rows).to_vec();
        output.push(Arc::new(TimestampNanosecondArray::from(places)));
        let count = rows.num_rows();
        Ok(vec![self.slot_batch(output, count)?])
    }

    /// Returns the place of the first change of the stage among those of its statement.
    pub(super) fn first_place(&self) -> i64 {
        (self.number as i64).saturating_mul(2 * CHANGES_MAX as i64).saturating_mul(KEY_GROUPS as i64)
    }

    /// Brings rows of an epoch to the columns of the state, with the number by which each changes.
    pub(super) fn counted_rows(
        &self,
        batches: &[RecordBatch],
        (changing, timed): (bool, bool),
        advance: Advance,
    ) -> Result<RecordBatch> {
        let touched = self.ttl.map_or(0, |_| advance.now);
        let mut rows = Vec::with_capacity(batches.len());
        for batch in batches {
            let last = batch.num_columns() - 1;
            let times = batch.column(last);
            let counts = match changing {
                true => {
                    let places = times.as_primitive::<TimestampNanosecondType>().values().iter();
                    places.map(|place| if place.rem_euclid(2) == 1 { 1 } else { -1 }).collect()
                }
                false => Int64Array::from_value(1, batch.num_rows()),
            };
            let kept: Option<ArrayRef> = timed.then(|| Arc::clone(times));
            rows.push(counted(&self.state_schema, &batch.columns()[..last], kept, touched, counts)?);
        }
        added_up(&self.state_schema, &rows)
    }
}
