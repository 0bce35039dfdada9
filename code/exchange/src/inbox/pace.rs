//! Who delivers to a flowing query waits for slow readers, or its rows would pile up in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Bytes of one stage that may lie unread before deliveries to it wait.
pub(super) const UNREAD_BYTES_MAX: u64 = 8 << 20;

/// How the readers of one query keep up.
///
/// A delivery waits only while no reader of the query, of any stage, waits for rows: what is waited for may be behind the
/// very delivery that would wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    hungry: AtomicUsize,
    changed: Notify,
}

impl Pace {
    /// Notes that a reader waits for rows, until what is returned is dropped.
    pub(super) fn hungry(&self) -> Hungry<'_> {
        self.hungry.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        Hungry(self)
    }

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

/// A reader that waits for rows.
pub(super) struct Hungry<'a>(&'a Pace);

impl Drop for Hungry<'_> {
    fn drop(&mut self) {
        self.0.hungry.fetch_sub(1, Ordering::SeqCst);
    }
}
