//! Back-pressure: deliveries to a flowing query wait for slow readers, otherwise unread rows would fill memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Maximum bytes of one stage that may be unread before deliveries to it wait.
pub(super) const UNREAD_BYTES_MAX: u64 = 2 << 20;

/// The back-pressure state of one query.
///
/// A delivery waits only while no reader of the query, of any stage, waits for rows: otherwise it could block the rows
/// that the reader waits for. A reader stops waiting once rows arrive for it, even before it reads them.
#[derive(Debug, Default)]
pub(super) struct Pace {
    hungry: AtomicUsize,
    changed: Notify,
}

impl Pace {
    /// Returns true if a reader waits for rows.
    pub(super) fn is_hungry(&self) -> bool {
        self.hungry.load(Ordering::SeqCst) > 0
    }

    /// Returns a future that completes at the next change that a delivery may wait for.
    pub(super) fn change(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Wakes all waiting deliveries, so that they check again.
    pub(super) fn changed(&self) {
        self.changed.notify_waiters();
    }
}

/// The readers of one partition that wait for rows.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    readers: usize,
    /// Number of times that rows arrived for waiting readers.
    fed: u64,
}

impl Waiting {
    /// Adds a waiting reader. Returns the value to pass to [`Waiting::leave`].
    pub(super) fn join(&mut self, pace: &Pace) -> u64 {
        self.readers += 1;
        pace.hungry.fetch_add(1, Ordering::SeqCst);
        pace.changed();
        self.fed
    }

    /// Records that rows arrived for all waiting readers.
    pub(super) fn feed(&mut self, pace: &Pace) {
        pace.hungry.fetch_sub(std::mem::take(&mut self.readers), Ordering::SeqCst);
        self.fed += 1;
    }

    /// Removes a reader that joined at `fed`, whether it received rows or not.
    pub(super) fn leave(&mut self, pace: &Pace, fed: u64) {
        if fed == self.fed {
            self.readers -= 1;
            pace.hungry.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_waits_until_rows_arrive_or_it_leaves() {
        let pace = Pace::default();
        let (mut one, mut other) = (Waiting::default(), Waiting::default());
        let (first, second, third) = (one.join(&pace), one.join(&pace), other.join(&pace));
        one.feed(&pace);
        assert!(pace.is_hungry());
        other.leave(&pace, third);
        assert!(!pace.is_hungry());
        one.leave(&pace, first);
        let again = one.join(&pace);
        one.leave(&pace, second);
        assert!(pace.is_hungry());
        one.leave(&pace, again);
        assert!(!pace.is_hungry());
    }
}
