//! The keys of the last requests, so that a repeated one is answered without writing its rows again.
//!
//! The log leaves out repeated rows in any case, also those that another server took.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use buzz_connect::CheckedRows;

/// Maximum number of keys.
const KEYS_MAX: usize = 100_000;

/// Time for which a key is known here. The log leaves out the rows of a repeated request for longer, and decides afterwards.
const KNOWN_FOR: Duration = Duration::from_secs(12 * 3600);

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Number of rows.
    pub(super) rows: u64,
    /// Number of rows that do not fit the declared columns.
    pub(super) bad: u64,
    /// The first of these.
    pub(super) first_bad: Option<String>,
}

impl Answer {
    /// Makes the answer to a request with `rows`.
    pub(super) fn of(rows: &CheckedRows) -> Self {
        Self { rows: rows.rows, bad: rows.bad, first_bad: rows.first_bad.clone() }
    }
}

/// A request with a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The key is new.
    New,
    /// The request was answered before.
    Same(Answer),
    /// The key was used for other rows.
    Other,
}

/// Answers by the keys of their requests.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    answers: HashMap<String, (u64, Instant, Answer)>,
    oldest: VecDeque<String>,
}

impl Repeats {
    /// Returns what is known about `key`, with which rows of the digest `digest` were sent.
    pub(super) fn find(&self, key: &str, digest: u64) -> Repeat {
        match self.answers.get(key) {
            None => Repeat::New,
            Some((_, noted, _)) if noted.elapsed() > KNOWN_FOR => Repeat::New,
            Some((known, _, answer)) if *known == digest => Repeat::Same(answer.clone()),
            Some(_) => Repeat::Other,
        }
    }

    /// Notes that a request was answered.
    pub(super) fn note(&mut self, key: String, digest: u64, answer: Answer) {
        if self.answers.insert(key.clone(), (digest, Instant::now(), answer)).is_none() {
            self.oldest.push_back(key);
        }
        if self.oldest.len() > KEYS_MAX
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }
}

/// Returns a digest of the rows of a request.
pub(super) fn digest(format: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    format.hash(&mut hasher);
    body.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_keys_are_remembered() {
        let answer = |rows| Answer { rows, bad: 0, first_bad: None };
        let mut repeats = Repeats::default();
        for n in 0..=KEYS_MAX as u64 {
            repeats.note(n.to_string(), digest("json", b"a"), answer(n));
        }
        assert_eq!(repeats.find("0", digest("json", b"a")), Repeat::New);
        assert_eq!(repeats.find("1", digest("json", b"a")), Repeat::Same(answer(1)));
        assert_eq!(repeats.find("1", digest("csv", b"a")), Repeat::Other);
        assert_eq!(repeats.answers.len(), repeats.oldest.len());
    }
}
