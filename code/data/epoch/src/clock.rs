//! Time and randomness as values, so that a test can determine both.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use rand::Rng;
#[cfg(test)]
use rand::SeedableRng;
use rand::rngs::StdRng;
use uuid::{Builder, Uuid};

/// Returns the current time. Everything that continuous queries do by time uses a clock that was passed to it.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the milliseconds since 1970-01-01 UTC. Two calls may return the same value, and a later call a smaller
    /// one: the operator of a machine may set its clock.
    fn now_ms(&self) -> i64;
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = buzz_protocol::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct VirtualClock(AtomicI64);

impl VirtualClock {
    /// Creates a clock that shows `now_ms`.
    pub fn new(now_ms: i64) -> Self {
        Self(AtomicI64::new(now_ms))
    }

    /// Moves the clock by `ms` and returns the new time.
    pub fn advance(&self, ms: i64) -> i64 {
        self.0.fetch_add(ms, Ordering::SeqCst) + ms
    }

    /// Sets the clock to `now_ms`.
    pub fn set(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Makes the unique parts of file names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    /// The generator of a test; `None` uses the one of the thread.
    seeded: Option<Arc<Mutex<StdRng>>>,
}

impl Ids {
    /// Makes ids that differ from those of every other process.
    pub(crate) fn random() -> Self {
        Self::default()
    }

    /// Makes the same ids in each run of a test with the same `seed`.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))) }
    }

    /// Returns a new id.
    pub(crate) fn next(&self) -> Uuid {
        Builder::from_random_bytes(self.bytes()).into_uuid()
    }

    /// Returns a new id whose text sorts by `at_ms` (UUID version 7).
    pub(crate) fn next_at(&self, at_ms: i64) -> Uuid {
        Builder::from_unix_timestamp_millis(at_ms.max(0).unsigned_abs(), &self.bytes()).into_uuid()
    }

    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.seeded {
            Some(seeded) => seeded.lock().fill(&mut bytes[..]),
            None => rand::rng().fill(&mut bytes[..]),
        }
        bytes
    }
}

/// Returns the time in milliseconds that [`Ids::next_at`] put into `id`; `None` for ids of another version.
pub(crate) fn time_of(id: &Uuid) -> Option<i64> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    i64::try_from(seconds.checked_mul(1000)? + u64::from(nanoseconds) / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_ids_repeat_and_differ_from_each_other() {
        let (a, b) = (Ids::seeded(7), Ids::seeded(7));
        let first = a.next();
        assert_eq!(first, b.next());
        assert_ne!(first, a.next());
        assert_ne!(Ids::random().next(), Ids::random().next());
    }

    #[test]
    fn id_with_time_sorts_by_it_and_returns_it() {
        let ids = Ids::seeded(1);
        let (early, late) = (ids.next_at(1_700_000_000_123), ids.next_at(1_700_000_000_124));
        assert!(early.to_string() < late.to_string());
        assert_eq!(time_of(&early), Some(1_700_000_000_123));
        assert_eq!(time_of(&ids.next()), None);
    }

    #[test]
    fn virtual_clock_moves_only_when_told() {
        let clock = VirtualClock::new(5);
        assert_eq!((clock.now_ms(), clock.advance(3), clock.now_ms()), (5, 8, 8));
        clock.set(1);
        assert_eq!(clock.now_ms(), 1);
        assert!(SystemClock.now_ms() > 1_700_000_000_000);
    }
}
