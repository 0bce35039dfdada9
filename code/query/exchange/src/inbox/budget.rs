//! Bounds the bytes of batches in memory; batches beyond the bound go to disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use buzz_protocol::Segment;

use crate::objects::ObjectOfDelivery;
use crate::spill::SpilledBatch;

/// A bound on the bytes of batches in memory: of one query, nested in that of the comb if the comb has one.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    max: u64,
    within: Option<Arc<Budget>>,
}

impl Budget {
    pub(super) fn new(max: u64, within: Option<Arc<Budget>>) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), max, within })
    }

    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        let granted = self.within.as_ref().is_none_or(|within| within.reserve(bytes));
        if !granted {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        granted
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(within) = &self.within {
            within.release(bytes);
        }
    }
}

/// A batch in memory or on disk, or a segment of an object. Dropping it releases its reserved bytes.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) data: ChunkData,
    pub(super) reserved_bytes: u64,
    pub(super) budget: Arc<Budget>,
}

#[derive(Debug)]
pub(super) enum ChunkData {
    Memory(RecordBatch),
    Disk(SpilledBatch),
    Object(ObjectOfDelivery, Segment),
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.budget.release(self.reserved_bytes);
    }
}
