//! The state of a stage: rows by part, and in a part by slice.
//!
//! A part holds a range of key groups. Each worker begins with one; a part with many rows is divided, so that the hash
//! tables of its aggregates are small enough for the caches of a core, and so that all cores have work when a window closes.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch, TimestampNanosecondArray};
use arrow::compute::{sort_to_indices, take_record_batch};
use arrow::datatypes::{SchemaRef, TimestampNanosecondType};
use buzz_protocol::Result;

use super::blocks::Block;
use super::keyed::{KEY_GROUPS, divided, ranges};
use super::sessions::Sessions;

/// The state of a stage, by part.
#[derive(Debug, Clone)]
pub(crate) struct StageState {
    pub(super) parts: Vec<StatePart>,
    /// Number of parts that are folded at once.
    pub(super) workers: usize,
    /// State rows above which a part is divided.
    part_rows: usize,
    /// The time at which rows of expired keys were removed last.
    pub(super) swept: i64,
}

/// State rows of a range of key groups: by slice, or those of sessions.
#[derive(Debug, Clone)]
pub(super) struct StatePart {
    pub(super) groups: Range<u32>,
    /// State rows of a window from which it has an aggregate of its own.
    pub(super) alone_rows: usize,
    pub(super) slices: BTreeMap<i64, SliceState>,
    /// State rows of several slices, made from those of `slices`.
    pub(super) blocks: BTreeMap<Block, Vec<RecordBatch>>,
    pub(super) sessions: Sessions,
}

#[derive(Debug, Default, Clone)]
pub(super) struct SliceState {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) rows: usize,
    /// Rows after the last compaction.
    pub(super) compacted: usize,
}

impl StatePart {
    pub(super) fn new(groups: Range<u32>, alone_rows: usize) -> Self {
        Self { groups, alone_rows, slices: BTreeMap::new(), blocks: BTreeMap::new(), sessions: Sessions::default() }
    }

    fn rows(&self) -> usize {
        self.slices.values().map(|slice| slice.rows).sum::<usize>() + self.sessions.rows()
    }

    /// Divides the part into at most `count` parts. `keys` are the columns of the key, of which there is at least one.
    fn divide(self, schema: &SchemaRef, keys: &[usize], count: usize) -> Result<Vec<Self>> {
        let ranges = ranges(&self.groups, count);
        let mut parts: Vec<Self> = ranges.iter().map(|range| Self::new(range.clone(), self.alone_rows)).collect();
        for (start, kept) in self.slices {
            for (part, batches) in parts.iter_mut().zip(divided(schema, keys, &kept.batches, &ranges)?) {
                let rows = batches.iter().map(RecordBatch::num_rows).sum();
                if rows > 0 {
                    // Rows that were added since the last compaction are in one of the batches.
                    let compacted = if kept.compacted == kept.rows { rows } else { 0 };
                    part.slices.insert(start, SliceState { batches, rows, compacted });
                }
            }
        }
        let sessions = divided(schema, keys, &self.sessions.batches()?, &ranges)?;
        for (part, batches) in parts.iter_mut().zip(sessions) {
            for batch in batches {
                part.sessions.add(batch, keys)?;
            }
        }
        Ok(parts)
    }
}

impl StageState {
    /// Returns the empty state of `workers` workers. A part with more than `part_rows` state rows will be divided.
    pub(crate) fn new(workers: usize, part_rows: usize) -> Self {
        let workers = workers.max(1);
        let parts = ranges(&(0..KEY_GROUPS as u32), workers);
        let parts = parts.into_iter().map(|groups| StatePart::new(groups, (part_rows / 4).max(1))).collect();
        Self { parts, workers, part_rows, swept: i64::MIN }
    }

    /// Divides the parts that have too many rows, with those that `added` counts. `keys` are the columns of the key.
    pub(super) fn divide(
        &mut self,
        schema: &SchemaRef,
        keys: &[usize],
        added: impl Fn(&Range<u32>) -> usize,
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in std::mem::take(&mut self.parts) {
            let count = (part.rows() + added(&part.groups)).div_ceil(self.part_rows.max(1));
            match count > 1 && part.groups.len() > 1 {
                true => parts.extend(part.divide(schema, keys, count)?),
                false => parts.push(part),
            }
        }
        self.parts = parts;
        Ok(())
    }

    /// Returns all state rows.
    pub(crate) fn batches(&self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for part in &self.parts {
            batches.extend(part.slices.values().flat_map(|slice| slice.batches.iter().cloned()));
            batches.extend(part.sessions.batches()?);
        }
        Ok(batches)
    }

    pub(crate) fn rows(&self) -> usize {
        self.parts.iter().map(StatePart::rows).sum()
    }

    pub(crate) fn slices(&self) -> usize {
        self.parts.iter().map(|part| part.slices.len()).max().unwrap_or_default()
    }
}

pub(super) fn times(batch: &RecordBatch, index: usize) -> &TimestampNanosecondArray {
    batch.column(index).as_primitive::<TimestampNanosecondType>()
}

pub(super) fn take_closed(state: &mut StatePart, is_closed: impl Fn(i64) -> bool) -> Vec<(i64, SliceState)> {
    let closed: Vec<i64> = state.slices.keys().copied().take_while(|&start| is_closed(start)).collect();
    closed.into_iter().filter_map(|start| state.slices.remove_entry(&start)).collect()
}

/// Divides a batch by its slice. Rows without a slice have no event time and are dropped.
pub(super) fn by_slice(batch: &RecordBatch, index: usize) -> Result<Vec<(i64, RecordBatch)>> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let slices = times(batch, index);
    let first = slices.value(0);
    if slices.null_count() == 0 && slices.values().iter().all(|&slice| slice == first) {
        return Ok(vec![(first, batch.clone())]);
    }
    let indices = sort_to_indices(slices, None, None)?;
    let sorted = take_record_batch(batch, &indices)?;
    let slices = times(&sorted, index).clone();
    let (mut parts, mut from) = (Vec::new(), slices.null_count());
    while from < sorted.num_rows() {
        let slice = slices.value(from);
        let until = from + slices.values()[from..].partition_point(|&other| other <= slice);
        parts.push((slice, sorted.slice(from, until - from)));
        from = until;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn batch(keys: Range<i64>) -> RecordBatch {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
        RecordBatch::try_from_iter([("k", keys)]).expect("one column is a batch")
    }

    #[test]
    fn part_with_many_rows_is_divided_by_its_key_groups() {
        let mut state = StageState::new(2, 100);
        let schema = batch(0..1).schema();
        assert_eq!(state.parts.iter().map(|part| part.groups.clone()).collect::<Vec<_>>(), [0..32, 32..64]);
        let ranges: Vec<Range<u32>> = state.parts.iter().map(|part| part.groups.clone()).collect();
        for (slice, keys) in [(0, 0..400), (10, 200..600)] {
            let rows = divided(&schema, &[0], &[batch(keys)], &ranges).expect("integers have hashes");
            for (part, batches) in state.parts.iter_mut().zip(rows) {
                let rows = batches.iter().map(RecordBatch::num_rows).sum();
                part.slices.insert(slice, SliceState { batches, rows, compacted: 0 });
            }
        }
        state.divide(&schema, &[], |_| 1000).expect("nothing is divided");
        assert_eq!(state.parts.len(), 2, "rows without a key are not divided");
        state.divide(&schema, &[0], |_| 0).expect("integers have hashes");
        assert!(state.parts.len() >= 8 && state.parts.len() <= 10, "{} parts of 800 rows", state.parts.len());
        assert_eq!(state.rows(), 800);
        let groups: Vec<u32> = state.parts.iter().flat_map(|part| part.groups.clone()).collect();
        assert_eq!(groups, (0..64).collect::<Vec<_>>());
        for part in &state.parts {
            for kept in part.slices.values() {
                let of = divided(&schema, &[0], &kept.batches, std::slice::from_ref(&part.groups));
                let of = of.expect("integers have hashes").concat();
                assert_eq!(of.iter().map(RecordBatch::num_rows).sum::<usize>(), kept.rows, "rows of other groups");
            }
        }
        let mut keys: Vec<i64> = state
            .batches()
            .expect("slices are returned as they are")
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        keys.sort_unstable();
        let mut expected: Vec<i64> = (0..400).chain(200..600).collect();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}
