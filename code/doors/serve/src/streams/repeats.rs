//! The keys of the last requests, so that a repeated one is answered without writing its rows again.
//!
//! The log leaves out repeated rows in any case, also those that another server took.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use buzz_connect::CheckedRows;
use buzz_epoch::SentRows;
use ring::digest::{Context, SHA256};

/// Maximum number of keys.
pub(super) const KEYS_MAX: usize = 100_000;

/// Time for which a key is known here: as long as the log leaves out the rows of a repeated request.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

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
    /// The rows of requests that the log had when the stream was opened.
    sent: SentRows,
    looked: Option<Instant>,
    answers: HashMap<String, (u64, Instant, Answer)>,
    oldest: VecDeque<String>,
}

impl Repeats {
    /// Takes the rows of requests that the log has.
    pub(super) fn note_sent(&mut self, sent: SentRows) {
        (self.sent, self.looked) = (sent, Some(Instant::now()));
    }

    /// Returns what is known about `key`, with which rows of the digest `digest` were sent. A request that only the log has is
    /// new: its rows are kept again, and the log leaves them out.
    pub(super) fn find(&self, key: &str, digest: u64) -> Repeat {
        let sent = self.looked.filter(|looked| looked.elapsed() <= KNOWN_FOR).and_then(|_| self.sent.digest_of(key));
        match self.answers.get(key).filter(|(_, noted, _)| noted.elapsed() <= KNOWN_FOR) {
            None if sent.is_some_and(|known| known != digest) => Repeat::Other,
            None => Repeat::New,
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

/// Returns a digest of the rows of a request. It is stored, so it stays the same in all versions.
pub(super) fn digest(format: &str, body: &[u8]) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(format.as_bytes());
    context.update(&[0]);
    context.update(body);
    context.finish().as_ref().iter().take(8).fold(0_u64, |digest, byte| digest << 8 | u64::from(*byte))
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

    #[test]
    fn digest_stays_the_same() {
        // The first bytes of SHA-256 of `json`, a zero byte and `a`.
        assert_eq!(digest("json", b"a"), 0xe067_12f1_5f5b_89e7);
        assert_ne!(digest("jsona", b""), digest("json", b"a"));
    }
}
