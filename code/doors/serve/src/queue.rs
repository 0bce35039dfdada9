//! The queue: bounds the queries that run and wait, and shares the slots fairly among users.
//!
//! A free slot goes to the waiting user with the fewest running queries; among them, to the one whose last slot is the longest ago, and
//! of this one to the query that has waited longest. So users take turns, however many queries each of them sends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Users whose last slot is remembered while they have no query.
const REMEMBERED_MAX: usize = 1_000;

/// A queue for slots. Its clones share the slots.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    slots: usize,
    waiting_max: usize,
    /// Number of slots that each user has.
    running: HashMap<String, usize>,
    running_total: usize,
    /// Number of the last slot of each user.
    last: HashMap<String, u64>,
    slots_given: u64,
    waiting: VecDeque<Waiter>,
    next_number: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    user: String,
    wake: oneshot::Sender<Slot>,
}

/// The right to run one query. Dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Slot {
    user: String,
    state: Arc<Mutex<State>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let granted = {
            let mut state = self.state.lock();
            state.release(&self.user);
            state.grants(&self.state)
        };
        wake(granted);
    }
}

/// Sends each slot to its waiter. A slot whose waiter has left is dropped, which passes it on.
fn wake(granted: Vec<(oneshot::Sender<Slot>, Slot)>) {
    for (waiter, slot) in granted {
        drop(waiter.send(slot));
    }
}

impl State {
    fn release(&mut self, user: &str) {
        self.running_total -= 1;
        if let Some(count) = self.running.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(user);
            }
        }
    }

    fn take(&mut self, user: &str) {
        self.running_total += 1;
        *self.running.entry(user.to_string()).or_default() += 1;
        self.slots_given += 1;
        if self.last.len() >= REMEMBERED_MAX {
            let running = &self.running;
            self.last.retain(|user, _| running.contains_key(user));
        }
        self.last.insert(user.to_string(), self.slots_given);
    }

    /// Removes the waiters that get a slot now.
    fn grants(&mut self, shared: &Arc<Mutex<State>>) -> Vec<(oneshot::Sender<Slot>, Slot)> {
        let mut granted = Vec::new();
        while self.running_total < self.slots {
            let running = |waiter: &Waiter| self.running.get(&waiter.user).copied().unwrap_or(0);
            let last = |waiter: &Waiter| self.last.get(&waiter.user).copied().unwrap_or(0);
            let order = |index: &usize| self.waiting.get(*index).map(|waiter| (running(waiter), last(waiter), *index));
            let next = (0..self.waiting.len()).min_by_key(order);
            let Some(waiter) = next.and_then(|index| self.waiting.remove(index)) else { break };
            self.take(&waiter.user);
            granted.push((waiter.wake, Slot { user: waiter.user, state: Arc::clone(shared) }));
        }
        granted
    }
}

/// Removes a waiter that no longer waits.
struct Leave<'a> {
    queue: &'a Queue,
    number: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.queue.state.lock().waiting.retain(|waiter| waiter.number != self.number);
    }
}

impl Queue {
    /// Makes a queue with `slots` slots, in which at most `waiting_max` queries wait.
    pub(crate) fn new(slots: usize, waiting_max: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                slots,
                waiting_max,
                running: HashMap::new(),
                running_total: 0,
                last: HashMap::new(),
                slots_given: 0,
                waiting: VecDeque::new(),
                next_number: 0,
            })),
        }
    }

    /// Waits for a slot for `user`.
    ///
    /// # Errors
    /// `Limit` if too many queries wait already.
    pub(crate) async fn slot(&self, user: &str) -> Result<Slot> {
        let (wake, woken) = oneshot::channel();
        let number = {
            let mut state = self.state.lock();
            if state.running_total < state.slots && state.waiting.is_empty() {
                state.take(user);
                return Ok(Slot { user: user.to_string(), state: Arc::clone(&self.state) });
            }
            if state.waiting.len() >= state.waiting_max {
                return Err(QueryError::limit(format!(
                    "{} queries run and {} wait, which is the maximum; try again later",
                    state.running_total,
                    state.waiting.len()
                )));
            }
            let number = state.next_number;
            state.next_number += 1;
            state.waiting.push_back(Waiter { number, user: user.to_string(), wake });
            number
        };
        let _leave = Leave { queue: self, number };
        woken.await.map_err(|_| QueryError::internal("a waiting query was forgotten"))
    }

    /// Returns the number of running and of waiting queries.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.running_total, state.waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn free_slot_goes_to_the_user_with_the_fewest() {
        let queue = Queue::new(2, 10);
        let first = queue.slot("ann").await.unwrap();
        let _second = queue.slot("ann").await.unwrap();
        let mut third = Box::pin(queue.slot("ann"));
        let mut bob = Box::pin(queue.slot("bob"));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(bob.as_mut().now_or_never().is_none());
        assert_eq!(queue.counts(), (2, 2));
        drop(first);
        let bobs = bob.as_mut().now_or_never().expect("bob has none and is next").unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(bobs);
        third.as_mut().now_or_never().expect("the last one is next").unwrap();
    }

    #[tokio::test]
    async fn users_take_turns_however_many_queries_each_sends() {
        let queue = Queue::new(1, 100);
        let mut held = queue.slot("ann").await.unwrap();
        let ask = |user: &'static str| {
            let queue = queue.clone();
            let mut waiting = Box::pin(async move { queue.slot(user).await });
            assert!(waiting.as_mut().now_or_never().is_none());
            (user, waiting)
        };
        let mut waiting: Vec<_> = std::iter::repeat_n("ann", 10).chain(["bob", "cem"]).map(ask).collect();
        let mut served = Vec::new();
        for _ in 0..9 {
            drop(held);
            let next =
                waiting.iter_mut().enumerate().find_map(|(index, (_, slot))| Some((index, slot.now_or_never()?)));
            let (index, slot) = next.expect("one is next");
            held = slot.unwrap();
            let (user, _) = waiting.remove(index);
            served.push(user);
            waiting.push(ask(user));
        }
        assert_eq!(served, ["bob", "cem", "ann"].repeat(3));
    }

    #[tokio::test]
    async fn waiter_that_leaves_frees_its_place() {
        let queue = Queue::new(1, 1);
        let slot = queue.slot("ann").await.unwrap();
        let mut waiting = Box::pin(queue.slot("bob"));
        assert!(waiting.as_mut().now_or_never().is_none());
        let error = queue.slot("bob").await.unwrap_err();
        assert_eq!(error.to_string(), "1 queries run and 1 wait, which is the maximum; try again later");
        drop(waiting);
        let mut next = Box::pin(queue.slot("bob"));
        assert!(next.as_mut().now_or_never().is_none());
        drop(slot);
        next.as_mut().now_or_never().expect("the slot is free").unwrap();
        drop(next);
        assert_eq!(queue.counts(), (0, 0));
    }

    #[tokio::test]
    async fn slot_granted_to_a_waiter_that_left_is_passed_on() {
        let queue = Queue::new(1, 10);
        let slot = queue.slot("ann").await.unwrap();
        let mut left = Box::pin(queue.slot("ann"));
        let mut next = Box::pin(queue.slot("ann"));
        assert!(left.as_mut().now_or_never().is_none());
        assert!(next.as_mut().now_or_never().is_none());
        drop(slot);
        // `left` was granted the slot, and has not received it.
        drop(left);
        next.as_mut().now_or_never().expect("the slot was passed on").unwrap();
    }
}
