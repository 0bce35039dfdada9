//! The answers that are kept until they are sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use buzz_protocol::{QueryError, Result, human_bytes};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Maximum time to wait until one of the kept answers has been sent.
const KEPT_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of all kept answers, in memory and in temporary files. A user can have half of them, or one larger answer.
const KEPT_BYTES: u64 = 4 << 30;

/// Part of all bytes up to which an answer needs no room: the number of answers bounds the bytes of the small ones.
const SMALL_PART: u64 = 256;

/// Bounds the answers that are kept, by number and by bytes: all of them, and those of each user to half.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    each_max: usize,
    /// Free places of the users that have some of them taken.
    users: Mutex<HashMap<String, Arc<Semaphore>>>,
    bytes: Arc<Bytes>,
}

/// The bytes of the kept answers.
#[derive(Debug)]
struct Bytes {
    all_max: u64,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    /// Bytes of the users that have some.
    users: HashMap<String, u64>,
}

impl Bytes {
    /// Takes `bytes` for an answer of `user` if they are free, or if `user` keeps no other answer and all of them have room.
    fn take(&self, user: &str, bytes: u64) -> bool {
        let mut taken = self.taken.lock();
        let own = taken.users.get(user).copied().unwrap_or_default();
        let fits = |taken: u64, max: u64| taken == 0 || taken.saturating_add(bytes) <= max;
        let is_small = bytes <= self.all_max / SMALL_PART;
        let has_room = fits(taken.all, self.all_max) && fits(own, self.all_max / 2);
        if !is_small && !has_room {
            return false;
        }
        if bytes > 0 {
            taken.all += bytes;
            taken.users.insert(user.to_string(), own + bytes);
        }
        true
    }

    fn of(&self, user: &str) -> u64 {
        self.taken.lock().users.get(user).copied().unwrap_or_default()
    }

    fn give_back(&self, user: &str, bytes: u64) {
        let mut taken = self.taken.lock();
        taken.all = taken.all.saturating_sub(bytes);
        if let Some(own) = taken.users.get_mut(user) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                taken.users.remove(user);
            }
        }
        drop(taken);
        self.freed.notify_waiters();
    }
}

/// The place of an answer that is kept, and its bytes. Dropping it frees both.
#[derive(Debug)]
pub(crate) struct Reservation {
    user: String,
    bytes: u64,
    budget: Arc<Bytes>,
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Reservation {
    /// Takes the `bytes` of the answer, and waits up to [`KEPT_WITHIN`] until they are free.
    ///
    /// # Errors
    /// `Limit` if they are not free in this time.
    pub(crate) async fn hold(&mut self, bytes: u64) -> Result<()> {
        self.hold_within(bytes, KEPT_WITHIN).await
    }

    async fn hold_within(&mut self, bytes: u64, time_max: Duration) -> Result<()> {
        let taken = async {
            loop {
                let freed = self.budget.freed.notified();
                if self.budget.take(&self.user, bytes) {
                    return;
                }
                freed.await;
            }
        };
        if tokio::time::timeout(time_max, taken).await.is_err() {
            return Err(QueryError::limit(format!(
                "the answer has {}, and too many bytes of answers have not been fetched yet, of which a user can have {}; fetch \
                 or close them, or try again later",
                human_bytes(bytes),
                human_bytes(self.budget.all_max / 2)
            )));
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(&self.user, self.bytes);
    }
}

impl Places {
    /// Makes places for `all` answers.
    pub(crate) fn new(all: usize) -> Self {
        Self::with_bytes(all, KEPT_BYTES)
    }

    fn with_bytes(all: usize, all_max: u64) -> Self {
        let all = all.max(1);
        Self {
            all: Arc::new(Semaphore::new(all)),
            each_max: (all / 2).max(1),
            users: Mutex::default(),
            bytes: Arc::new(Bytes { all_max, taken: Mutex::default(), freed: Notify::new() }),
        }
    }

    /// Returns the places of `user`.
    fn of(&self, user: &str) -> Arc<Semaphore> {
        let mut users = self.users.lock();
        // A query that has a place, or waits for one, holds a reference.
        users.retain(|_, places| Arc::strong_count(places) > 1);
        let own = users.entry(user.to_string()).or_insert_with(|| Arc::new(Semaphore::new(self.each_max)));
        Arc::clone(own)
    }

    /// Returns true if no place is free for an answer of `user`, or if its answers have half of the bytes that it can have.
    pub(crate) fn are_taken(&self, user: &str) -> bool {
        let is_full = self.of(user).available_permits() == 0 || self.all.available_permits() == 0;
        is_full || self.bytes.of(user) > self.bytes.all_max / 4
    }

    fn kept(&self, user: &str, own: OwnedSemaphorePermit, all: OwnedSemaphorePermit) -> Reservation {
        Reservation { user: user.to_string(), bytes: 0, budget: Arc::clone(&self.bytes), _own: own, _all: all }
    }

    /// Takes a place for an answer of `user`, if one is free.
    pub(crate) fn free(&self, user: &str) -> Option<Reservation> {
        let own = self.of(user).try_acquire_owned().ok()?;
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(self.kept(user, own, all))
    }

    /// Waits up to [`KEPT_WITHIN`] for a place for an answer of `user`.
    ///
    /// # Errors
    /// `Limit` if none is free in this time.
    pub(crate) async fn wait(&self, user: &str) -> Result<Reservation> {
        let (own, all) = (self.of(user), Arc::clone(&self.all));
        let both = async { Some((own.acquire_owned().await.ok()?, all.acquire_owned().await.ok()?)) };
        match tokio::time::timeout(KEPT_WITHIN, both).await {
            Ok(Some((own, all))) => Ok(self.kept(user, own, all)),
            Ok(None) => Err(QueryError::internal("the count of kept answers was closed")),
            Err(_) => Err(QueryError::limit(format!(
                "too many answers have not been fetched yet, of which a user can have {}; fetch or close them, or try again \
                 later",
                self.each_max
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn one_user_keeps_half_of_the_answers() {
        let places = Places::new(4);
        let _first = places.free("ann").unwrap();
        let second = places.free("ann").unwrap();
        assert!(places.free("ann").is_none());
        let _other = places.free("bob").unwrap();
        drop(second);
        let _again = places.wait("ann").await.unwrap();
        let last = places.free("bob").unwrap();
        assert!(places.free("cem").is_none(), "all places are taken");
        drop(last);
        assert!(places.free("cem").is_some());
        assert!(Places::new(1).free("ann").is_some());
    }

    #[tokio::test]
    async fn one_user_keeps_half_of_the_bytes_or_one_answer() {
        let now = Duration::ZERO;
        let places = Places::with_bytes(16, 1000);
        let mut first = places.free("ann").unwrap();
        first.hold(400).await.unwrap();
        assert!(places.are_taken("ann") && !places.are_taken("bob"));
        let mut second = places.free("ann").unwrap();
        let error = second.hold_within(101, now).await.unwrap_err();
        assert!(error.kind == ErrorKind::Limit && error.message.contains("fetch or close them"), "{error}");
        second.hold_within(100, now).await.unwrap();
        let mut other = places.free("bob").unwrap();
        assert!(other.hold_within(501, now).await.is_err(), "all users have 1000");
        drop(second);
        {
            let holding = other.hold(601);
            tokio::pin!(holding);
            assert!(futures::poll!(holding.as_mut()).is_pending());
            drop(first);
            holding.await.expect("the bytes are free, and it is the only answer of its user");
        }
        drop(other);
        let mut large = places.free("cem").unwrap();
        large.hold_within(5000, now).await.unwrap();
        assert!(places.free("dan").unwrap().hold_within(4, now).await.is_err());
        assert!(places.free("dan").unwrap().hold_within(3, now).await.is_ok(), "it is small");
        drop(large);
        assert!(places.free("dan").unwrap().hold_within(4, now).await.is_ok());
    }
}
