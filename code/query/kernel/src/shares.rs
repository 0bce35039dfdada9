//! Divides the memory of a comb's operators among its queries, so that one that needs much does not make others fail.
//!
//! Each query has a guaranteed share, and may use what the others neither use nor are guaranteed. Within a query, the
//! operators that can spill have equal parts, as in DataFusion's `FairSpillPool`.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use buzz_protocol::human_bytes;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Number of guaranteed shares, unless the number of queries is bounded.
const SHARES: usize = 8;

/// Number of largest memory consumers that an out-of-memory message names.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(3).expect("a constant above 0");

/// The memory of a comb's operators.
#[derive(Debug)]
pub struct MemoryShares {
    bytes: usize,
    state: Mutex<State>,
    next: AtomicU64,
    /// Notified when a query frees memory or ends.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Maximum number of queries; `None` if it is not bounded.
    queries_max: Option<usize>,
    queries: HashMap<u64, Used>,
}

/// The memory that one query uses.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    /// True until the query ends; its pools may exist longer.
    open: bool,
    spillers: usize,
    spillable: usize,
    unspillable: usize,
}

impl Used {
    fn bytes(self) -> usize {
        self.spillable.saturating_add(self.unspillable)
    }

    fn of(&mut self, consumer: &MemoryConsumer) -> &mut usize {
        if consumer.can_spill() { &mut self.spillable } else { &mut self.unspillable }
    }
}

impl MemoryShares {
    /// Creates the memory of a comb, `bytes` in all.
    pub fn new(bytes: u64) -> Arc<Self> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Arc::new(Self { bytes, state: Mutex::default(), next: AtomicU64::new(0), freed: Notify::new() })
    }

    /// Bounds the number of queries to `queries_max`. A share stays free for a new query from now on, and a query is
    /// admitted only if its share is free.
    pub fn bound(&self, queries_max: usize) {
        self.state.lock().queries_max = Some(queries_max);
    }

    /// Admits a query, once its guaranteed share is free. Dropping the result ends the query.
    pub async fn admit(self: &Arc<Self>) -> OpenShare {
        loop {
            // Created before the look, so that memory that is freed after it is noticed.
            let freed = self.freed.notified();
            if let Some(share) = self.admit_now() {
                return share;
            }
            freed.await;
        }
    }

    /// Admits a query, if its guaranteed share is free.
    fn admit_now(self: &Arc<Self>) -> Option<OpenShare> {
        let mut state = self.state.lock();
        let share = self.share(&state);
        let full = state.queries_max.is_some() && self.bytes.saturating_sub(self.taken(&state, None)) < share;
        if full {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        state.queries.insert(id, Used { open: true, ..Used::default() });
        Some(OpenShare(Arc::new(QueryShare { shares: Arc::clone(self), id })))
    }

    /// Returns the guaranteed share of a query.
    fn share(&self, state: &State) -> usize {
        self.bytes / state.queries_max.unwrap_or(SHARES).max(1)
    }

    /// Returns the bytes that queries use or are guaranteed, without those of `but`.
    fn taken(&self, state: &State, but: Option<u64>) -> usize {
        let share = self.share(state);
        let others = state.queries.iter().filter(|(id, _)| Some(**id) != but);
        let of_one = |used: &Used| used.bytes().max(if used.open { share } else { 0 });
        others.fold(0, |sum: usize, (_, used)| sum.saturating_add(of_one(used)))
    }

    /// Returns the bytes that the query `id` may use in all: at least its share.
    fn most(&self, state: &State, id: u64) -> usize {
        let share = self.share(state);
        let open = state.queries.values().filter(|used| used.open).count();
        let kept_free = if state.queries_max.is_some_and(|queries_max| open < queries_max) { share } else { 0 };
        self.bytes.saturating_sub(self.taken(state, Some(id)).saturating_add(kept_free)).max(share)
    }
}

/// The memory of a query that is open. Dropping it ends the guarantee.
#[derive(Debug)]
pub struct OpenShare(Arc<QueryShare>);

impl OpenShare {
    /// Returns the memory of the query.
    pub fn share(&self) -> &Arc<QueryShare> {
        &self.0
    }
}

impl Drop for OpenShare {
    fn drop(&mut self) {
        self.0.change(|used| used.open = false);
        self.0.shares.freed.notify_waiters();
    }
}

/// The memory of one query on a comb.
#[derive(Debug)]
pub struct QueryShare {
    shares: Arc<MemoryShares>,
    id: u64,
}

impl QueryShare {
    /// Returns a pool for a plan of the query. The pools of one query share its memory.
    pub fn pool(self: &Arc<Self>) -> Arc<dyn MemoryPool> {
        Arc::new(TrackConsumersPool::new(QueryPool(Arc::clone(self)), CONSUMERS_NAMED))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Used) -> R) -> R {
        change(self.shares.state.lock().queries.entry(self.id).or_default())
    }
}

impl Drop for QueryShare {
    fn drop(&mut self) {
        self.shares.state.lock().queries.remove(&self.id);
        self.shares.freed.notify_waiters();
    }
}

/// A memory pool of one query.
#[derive(Debug)]
struct QueryPool(Arc<QueryShare>);

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "share of a query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.0.change(|used| used.spillers += 1);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.0.change(|used| used.spillers = used.spillers.saturating_sub(1));
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.0.change(|used| {
            let bytes = used.of(reservation.consumer());
            *bytes = bytes.saturating_add(additional);
        });
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.0.change(|used| {
            let bytes = used.of(reservation.consumer());
            *bytes = bytes.saturating_sub(shrink);
        });
        self.0.shares.freed.notify_waiters();
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DataFusionResult<()> {
        let QueryShare { shares, id } = &*self.0;
        let mut state = shares.state.lock();
        let most = shares.most(&state, *id);
        let used = state.queries.entry(*id).or_default();
        let consumer = reservation.consumer();
        // Operators that can spill have equal parts of what the others leave.
        let left = if consumer.can_spill() {
            (most.saturating_sub(used.unspillable) / used.spillers.max(1)).saturating_sub(reservation.size())
        } else {
            most.saturating_sub(used.bytes())
        };
        if additional > left {
            return Err(exhausted(reservation, additional, left, most));
        }
        let bytes = used.of(consumer);
        *bytes = bytes.saturating_add(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.0.change(|used| used.bytes())
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.0.shares.bytes)
    }
}

/// Returns the error of an operator that needs more than its query may use.
fn exhausted(reservation: &MemoryReservation, additional: usize, left: usize, most: usize) -> DataFusionError {
    let [additional, size, left, most] =
        [additional, reservation.size(), left, most].map(|bytes| human_bytes(bytes as u64));
    DataFusionError::ResourcesExhausted(format!(
        "{} has {size} and needs {additional} more, but {left} are left for it of the {most} that the memory pool of the comb \
         has for this query",
        reservation.consumer().name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(query: &OpenShare, can_spill: bool) -> MemoryReservation {
        MemoryConsumer::new("sort").with_can_spill(can_spill).register(&query.share().pool())
    }

    fn admitted(shares: &Arc<MemoryShares>) -> OpenShare {
        shares.admit_now().expect("a share is free")
    }

    #[test]
    fn one_query_may_use_all_and_leaves_others_their_shares() {
        let shares = MemoryShares::new(8000);
        let heavy = admitted(&shares);
        let join = reserve(&heavy, false);
        join.try_grow(5000).unwrap();
        let light = admitted(&shares);
        let other = reserve(&light, false);
        // 1,000 are guaranteed to the other query, which uses none of them yet.
        assert!(join.try_grow(2001).is_err());
        join.try_grow(2000).unwrap();
        other.try_grow(1000).unwrap();
        assert!(other.try_grow(1).is_err(), "the rest is in use");
        join.shrink(3000);
        other.try_grow(3000).unwrap();
        assert!(join.try_grow(1).is_err());
        // The query has ended, and its operators still hold memory.
        drop(light);
        other.shrink(3900);
        join.try_grow(3900).unwrap();
        assert!(join.try_grow(1).is_err());
        drop(other);
        join.try_grow(100).unwrap();
        assert_eq!(join.size(), 8000);
    }

    #[test]
    fn share_of_a_query_is_granted_also_if_others_used_all_before() {
        let shares = MemoryShares::new(8000);
        let heavy = admitted(&shares);
        let join = reserve(&heavy, false);
        join.try_grow(8000).unwrap();
        let light = admitted(&shares);
        let sort = reserve(&light, true);
        sort.try_grow(1000).unwrap();
        let error = sort.try_grow(1).unwrap_err().to_string();
        assert!(error.contains("memory pool") && error.contains("sort"), "{error}");
    }

    #[test]
    fn operators_that_can_spill_have_equal_parts() {
        let shares = MemoryShares::new(8000);
        let query = admitted(&shares);
        let (join, one, other) = (reserve(&query, false), reserve(&query, true), reserve(&query, true));
        join.try_grow(2000).unwrap();
        one.try_grow(3000).unwrap();
        assert!(one.try_grow(1).is_err());
        other.try_grow(3000).unwrap();
        drop(other);
        one.try_grow(3000).unwrap();
        assert!(join.try_grow(1).is_err());
    }

    #[tokio::test]
    async fn query_waits_for_its_share_if_queries_are_bounded() {
        let shares = MemoryShares::new(8000);
        shares.bound(4);
        let heavy = admitted(&shares);
        let join = reserve(&heavy, false);
        assert!(join.try_grow(6001).is_err(), "a share stays free for a new query");
        join.try_grow(6000).unwrap();
        let _second = admitted(&shares);
        assert!(shares.admit_now().is_none());
        let waiting = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.admit().await.share().id }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        join.shrink(2000);
        assert_eq!(waiting.await.unwrap(), 2);
    }
}
