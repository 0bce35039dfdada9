//! The state of a stage: rows by worker and slice.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, TimestampNanosecondArray};
use arrow::compute::{sort_to_indices, take_record_batch};
use arrow::datatypes::TimestampNanosecondType;
use buzz_protocol::Result;

use super::blocks::Block;

/// The state of a stage, by worker.
#[derive(Debug, Default, Clone)]
pub(crate) struct StageState {
    pub(super) workers: Vec<WorkerState>,
}

/// State rows by slice. Sessions are all in slice 0.
#[derive(Debug, Default, Clone)]
pub(super) struct WorkerState {
    pub(super) slices: BTreeMap<i64, SliceState>,
    /// State rows of several slices, made from those of `slices`.
    pub(super) blocks: BTreeMap<Block, Vec<RecordBatch>>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct SliceState {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) rows: usize,
    /// Rows after the last compaction.
    pub(super) compacted: usize,
}

impl StageState {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: vec![WorkerState::default(); workers.max(1)] }
    }

    /// Returns all state rows.
    pub(crate) fn batches(&self) -> Vec<RecordBatch> {
        let slices = self.workers.iter().flat_map(|worker| worker.slices.values());
        slices.flat_map(|slice| slice.batches.iter().cloned()).collect()
    }

    pub(crate) fn rows(&self) -> usize {
        self.workers.iter().flat_map(|worker| worker.slices.values()).map(|slice| slice.rows).sum()
    }

    pub(crate) fn slices(&self) -> usize {
        self.workers.iter().map(|worker| worker.slices.len()).max().unwrap_or_default()
    }
}

pub(super) fn times(batch: &RecordBatch, index: usize) -> &TimestampNanosecondArray {
    batch.column(index).as_primitive::<TimestampNanosecondType>()
}

pub(super) fn take_closed(state: &mut WorkerState, is_closed: impl Fn(i64) -> bool) -> Vec<(i64, SliceState)> {
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
