//! Who delivers to a flowing query waits for slow readers, or its rows would pile up in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Bytes of one stage that may lie unread before deliveries to it wait.
pub(super) const UNREAD_BYTES_MAX: u64 = 2 << 20;

/// How the readers of one query keep up.
///
/// A delivery waits only while no reader of the query, of any stage, waits for rows: what is waited for may be behind the
/// very delivery that would wait. A reader that was given rows no longer waits, even if it has had no time to take them.
#[derive(Debug, Default)]
pub(super) struct Pace {
    hungry: AtomicUsize,
    changed: Notify,
}

impl Pace {
    /// Whether a reader waits for rows.
    pub(super) fn is_hungry(&self) -> bool {
        self.hungry.load(Ordering::SeqCst) > 0
    }

    /// Ends when something changes from now on that a delivery may wait for.
    pub(super) fn change(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Lets waiting deliveries look again.
    pub(super) fn changed(&self) {
        self.changed.notify_waiters();
    }
}

/// The readers of one partition that wait for rows.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    readers: usize,
    /// How often rows came for those who waited.
    fed: u64,
}

impl Waiting {
    /// Notes one more reader that waits, and what to [`Waiting::leave`] with.
    pub(super) fn join(&mut self, pace: &Pace) -> u64 {
        self.readers += 1;
        pace.hungry.fetch_add(1, Ordering::SeqCst);
        pace.changed();
        self.fed
    }

    /// Notes that rows came for all who wait.
    pub(super) fn feed(&mut self, pace: &Pace) {
        pace.hungry.fetch_sub(std::mem::take(&mut self.readers), Ordering::SeqCst);
        self.fed += 1;
    }

    /// Notes that a reader that joined at `fed` waits no more, with rows or without.
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
    fn a_reader_is_hungry_until_it_is_fed_or_leaves() {
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
