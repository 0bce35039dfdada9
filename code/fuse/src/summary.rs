//! What a query did, while it runs and at its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts that grow while a query runs, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tasks of all map stages.
    pub tasks: AtomicU64,
    /// Tasks whose delivery was accepted.
    pub tasks_done: AtomicU64,
    /// Attempts beyond each task's first.
    pub retries: AtomicU64,
    /// Rows that the accepted tasks' scans gave.
    pub rows_scanned: AtomicU64,
    /// Bytes that the accepted tasks' scans read.
    pub bytes_scanned: AtomicU64,
    /// Rows that the accepted tasks delivered.
    pub rows_delivered: AtomicU64,
    /// Bytes of those rows in memory.
    pub bytes_delivered: AtomicU64,
    /// Runs of the whole query, beyond the first.
    pub reruns: AtomicU64,
}

impl Progress {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// The present value of one of the counters.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Back to the start, for another run of the query; retries are kept.
    pub(crate) fn restart(&self) {
        let counters =
            [&self.tasks_done, &self.rows_scanned, &self.bytes_scanned, &self.rows_delivered, &self.bytes_delivered];
        for counter in counters {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// What an answered query did.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Rows of the result.
    pub rows: u64,
    /// Files that the catalogs named, for all map stages.
    pub files_found: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Tasks.
    pub tasks: u64,
    /// Attempts beyond each task's first.
    pub retries: u64,
    /// Rows delivered to combs.
    pub rows_delivered: u64,
    /// Bytes delivered to combs.
    pub bytes_delivered: u64,
    /// Combs that reduced.
    pub combs: usize,
    /// Time to open the catalogs.
    pub opened_in: Duration,
    /// Time to plan.
    pub planned_in: Duration,
    /// Time from dispatch to the last row.
    pub ran_in: Duration,
}
