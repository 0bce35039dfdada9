//! Decides which rows of an inbox count: pure functions over the log's entries and the headers of segments.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};

use buzz_protocol::RowRun;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::time_of;
use crate::rules::Rules;
use crate::segment::Part;

/// Maximum number of segments in an entry of the log.
pub const ENTRY_SEGMENTS_MAX: usize = 1000;

/// Maximum number of requests in an entry of the log, if it has more than one segment.
pub const ENTRY_PARTS_MAX: usize = 50_000;

/// Maximum number of idempotency keys that a sealing process keeps in memory, with about 64 bytes each. A key before the
/// last ones is forgotten, also within the horizon.
pub const KEYS_MAX: usize = 10_000_000;

/// Times that decide about repetitions, fixed when a source is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Rows with the key of rows that were sealed within this time are left out. Later ones are new rows.
    pub dedup_horizon_ms: i64,
    /// Maximum duration of a write to the inbox. A write that takes longer is not acknowledged.
    pub append_ms_max: i64,
    /// Maximum difference between the clocks of two writers or sealing processes.
    pub clock_skew_ms_max: i64,
}

impl Default for Times {
    fn default() -> Self {
        let minute_ms = 60_000;
        Self { dedup_horizon_ms: 24 * 60 * minute_ms, append_ms_max: minute_ms, clock_skew_ms_max: 5 * minute_ms }
    }
}

impl Times {
    /// Time after which no acknowledged segment with an older name can appear in the inbox.
    pub(crate) fn settle_ms(self) -> i64 {
        self.append_ms_max.saturating_add(self.clock_skew_ms_max)
    }

    /// Returns the oldest time of entries that a process needs to find segments that are not sealed, and with `keys` to seal
    /// them, if `newest` is the newest entry.
    pub(crate) fn entries_from_ms(self, newest: &Entry, keys: bool) -> i64 {
        let names = newest.scan_from_ms.saturating_sub(self.settle_ms());
        if keys { names.min(newest.at_ms.saturating_sub(self.dedup_horizon_ms)) } else { names }
    }
}

/// An entry of a source's log, created once under its number. Rows belong to the source because an entry names them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The number of the entry, from 1.
    pub n: u64,
    /// The process that created it.
    pub by: String,
    /// The time of sealing in milliseconds; not smaller than that of the entry before.
    pub at_ms: i64,
    /// Every acknowledged segment with an older name is in this entry or one before.
    pub scan_from_ms: i64,
    /// The segments, in the order of their names. A segment is in one entry only.
    pub segments: Vec<Sealed>,
    /// Rows that were left out because their key was sealed before.
    pub repeated: u64,
    /// Sums over this entry and all before it.
    pub totals: Totals,
}

/// Sums over the entries of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Rows that count.
    pub rows: u64,
    /// Bytes of these rows, as they arrived.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
}

impl Totals {
    /// Returns the sums with those of `segments`.
    fn with(mut self, segments: &[Sealed]) -> Self {
        self.segments = self.segments.saturating_add(segments.len() as u64);
        for rows in segments.iter().flat_map(|segment| &segment.rows) {
            self.rows = self.rows.saturating_add(rows.part.rows);
            self.bytes = self.bytes.saturating_add(rows.part.bytes);
        }
        self
    }
}

/// A segment in the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sealed {
    /// The name of the segment in the inbox.
    pub segment: String,
    /// Runs of rows that count, in ascending order.
    pub rows: Vec<SealedRows>,
}

impl Sealed {
    /// Returns the runs of rows that count, for [`Segment::runs`](crate::Segment::runs). Requests without rows have none.
    pub fn runs(&self) -> impl Iterator<Item = RowRun> {
        let rows = self.rows.iter().filter(|rows| rows.part.rows > 0);
        rows.map(|rows| RowRun { from: rows.from, rows: rows.part.rows, bytes: rows.part.bytes })
    }
}

/// A run of rows that count: those of one request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SealedRows {
    /// The first row in the segment.
    pub from: u64,
    /// The request.
    #[serde(flatten)]
    pub part: Part,
}

/// Digests of the rows that were sealed with a key.
#[derive(Debug, Default)]
pub struct SentRows(HashMap<u128, u64>);

impl SentRows {
    /// Returns the digest of the rows that were sealed with `key`; `None` if it is not known.
    pub fn digest_of(&self, key: &str) -> Option<u64> {
        self.0.get(&digest(key)).copied()
    }
}

/// A segment in the inbox that no entry names.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) parts: Vec<Part>,
}

/// The part of the log that decides about the next entry.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The number of the newest entry that was applied.
    pub(crate) head: u64,
    at_ms: i64,
    scan_from_ms: Option<i64>,
    totals: Totals,
    /// Segments that entries name and that the next listing of the inbox may return.
    named: BTreeSet<String>,
    /// It was made of all entries whose keys decide.
    has_keys: bool,
    /// The time at which a key was sealed last, and the digest of its rows if that is known, by the digest of the key.
    keys: HashMap<u128, (i64, Option<u64>)>,
    /// The keys in the order of their time.
    oldest: VecDeque<(i64, u128)>,
}

/// Returns a digest of a key. Two keys of one source have the same only by a chance of 1 to 2^128.
fn digest(key: &str) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, key).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

impl Index {
    /// Makes the index of an empty log. `has_keys` says that all entries whose keys decide will be applied.
    pub(crate) fn new(has_keys: bool) -> Self {
        Self { has_keys, ..Self::default() }
    }

    /// Returns true if the next entry can be made of it.
    pub(crate) fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Adds the next entry, and forgets what the next one does not need.
    pub(crate) fn apply(&mut self, entry: &Entry, times: Times) {
        self.head = entry.n;
        self.at_ms = entry.at_ms;
        self.scan_from_ms = Some(entry.scan_from_ms);
        self.totals = entry.totals;
        for segment in &entry.segments {
            self.named.insert(segment.segment.clone());
            for part in segment.rows.iter().map(|rows| &rows.part) {
                let Some(key) = part.key.as_deref().map(digest) else { continue };
                self.keys.insert(key, (entry.at_ms, part.digest));
                self.oldest.push_back((entry.at_ms, key));
            }
        }
        self.named = self.named.split_off(&first_name(entry.scan_from_ms));
        let horizon_ms = entry.at_ms.saturating_sub(times.dedup_horizon_ms);
        while let Some(&(at_ms, key)) = self.oldest.front()
            && (at_ms < horizon_ms || self.oldest.len() > KEYS_MAX)
        {
            self.oldest.pop_front();
            if self.keys.get(&key).is_some_and(|(last_ms, _)| *last_ms == at_ms) {
                self.keys.remove(&key);
            }
        }
    }

    /// Returns the digests of the rows of the last `count` keys.
    pub(crate) fn sent(&self, count: usize) -> SentRows {
        let last = self.oldest.iter().rev().take(count);
        SentRows(last.filter_map(|(_, key)| Some((*key, self.keys.get(key)?.1?))).collect())
    }

    /// Returns the time of the newest entry that was applied; 0 if there is none.
    pub(crate) fn at_ms(&self) -> i64 {
        self.at_ms
    }

    /// Returns the time from which the next listing of the inbox needs segments, and a name before all theirs; `None` for
    /// all.
    pub(crate) fn scan_from(&self) -> Option<(i64, String)> {
        self.scan_from_ms.map(|ms| (ms, first_name(ms)))
    }

    /// Returns the time of an entry that is created at `now_ms`.
    pub(crate) fn next_at_ms(&self, now_ms: i64) -> i64 {
        now_ms.max(self.at_ms)
    }

    /// Selects the segments of the next entry from `names`, the sorted names of a listing, and returns the time of the
    /// first one that must wait for the entry after it.
    pub(crate) fn select(&self, names: Vec<String>, segments_max: usize) -> (Vec<String>, Option<i64>) {
        let open = names.into_iter().filter(|name| name_time(name).is_some() && !self.named.contains(name));
        let mut selected: Vec<String> = open.take(segments_max + 1).collect();
        let rest = selected.get(segments_max).and_then(|name| name_time(name));
        selected.truncate(segments_max);
        (selected, rest)
    }

    /// Returns the next entry: all of `found`, up to the bound of an entry, without the rows of keys that were sealed
    /// within the horizon. `at_ms` is the time before the listing that returned them, `rest_ms` the time of the first
    /// segment after them. `None` if there is nothing to seal.
    pub(crate) fn next(
        &self,
        by: String,
        at_ms: i64,
        mut found: Vec<Found>,
        mut rest_ms: Option<i64>,
        times: Times,
        rules: Rules,
    ) -> Option<Entry> {
        if found.is_empty() {
            return None;
        }
        if let Some(beyond) = first_beyond(&found, ENTRY_PARTS_MAX) {
            rest_ms = name_time(&found[beyond].name);
            found.truncate(beyond);
        }
        let mut fresh = BTreeSet::new();
        let mut repeated = 0;
        let mut seal = |found: Found| {
            let mut from = 0;
            let mut rows = Vec::new();
            for part in found.parts {
                let first = from;
                from += part.rows;
                let new = part.key.as_deref().map(digest).is_none_or(|key| {
                    let sealed =
                        self.keys.get(&key).is_some_and(|(at, _)| *at >= at_ms.saturating_sub(times.dedup_horizon_ms));
                    !sealed && fresh.insert(key)
                });
                if new || !rules.deduplicates() {
                    rows.push(SealedRows { from: first, part });
                } else {
                    repeated += part.rows;
                }
            }
            Sealed { segment: found.name, rows }
        };
        let segments: Vec<Sealed> = found.into_iter().map(&mut seal).collect();
        let settle_ms = if rules.waits_for_writes() { times.settle_ms() } else { 0 };
        let settled = at_ms.saturating_sub(settle_ms);
        // Never smaller than before: older segments are all sealed.
        let scan_from_ms = settled.min(rest_ms.unwrap_or(i64::MAX)).max(self.scan_from_ms.unwrap_or(i64::MIN));
        let totals = self.totals.with(&segments);
        Some(Entry { n: self.head + 1, by, at_ms, scan_from_ms, segments, repeated, totals })
    }
}

/// Returns the index of the first segment, after at least one, with which `found` has more than `parts_max` requests.
fn first_beyond(found: &[Found], parts_max: usize) -> Option<usize> {
    let mut parts = 0;
    found.iter().enumerate().position(|(index, found)| {
        parts += found.parts.len();
        index > 0 && parts > parts_max
    })
}

/// Returns the time in the name of a segment; `None` if this crate did not make the name.
fn name_time(name: &str) -> Option<i64> {
    time_of(&Uuid::parse_str(name).ok()?)
}

/// Returns a text that sorts before the names of all segments of `at_ms` and later.
fn first_name(at_ms: i64) -> String {
    let ms = u128::try_from(at_ms.max(0)).expect("the time is not negative");
    Uuid::from_u128(ms << 80).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Ids;

    const TIMES: Times = Times { dedup_horizon_ms: 1000, append_ms_max: 50, clock_skew_ms_max: 50 };

    fn part(key: &str, rows: u64) -> Part {
        Part { key: Some(key.to_string()).filter(|key| !key.is_empty()), rows, ..Default::default() }
    }

    fn found(at_ms: i64, parts: &[Part]) -> Found {
        Found { name: Ids::random().next_at(at_ms).to_string(), parts: parts.to_vec() }
    }

    fn next(index: &Index, at_ms: i64, found: Vec<Found>) -> Entry {
        index.next("me".into(), at_ms, found, None, TIMES, Rules::default()).unwrap()
    }

    fn counted(entry: &Entry) -> Vec<(u64, u64)> {
        entry.segments.iter().flat_map(|s| &s.rows).map(|rows| (rows.from, rows.part.rows)).collect()
    }

    #[test]
    fn rows_of_a_key_count_once_in_an_entry_and_across_entries() {
        let mut index = Index::default();
        let entry = next(
            &index,
            5000,
            vec![found(4990, &[part("a", 2), part("b", 3)]), found(4991, &[part("a", 2), part("c", 1)])],
        );
        assert_eq!((counted(&entry), entry.repeated), (vec![(0, 2), (2, 3), (2, 1)], 2));
        index.apply(&entry, TIMES);
        let entry = next(&index, 5100, vec![found(5090, &[part("c", 1), part("d", 4), part("c", 1)])]);
        assert_eq!((entry.n, counted(&entry), entry.repeated), (2, vec![(1, 4)], 2));
    }

    #[test]
    fn last_keys_have_the_digests_of_their_rows() {
        let mut index = Index::default();
        let sent = |key: &str, digest: Option<u64>| Part { digest, ..part(key, 1) };
        let parts = [sent("a", Some(1)), sent("b", None), sent("c", Some(3)), sent("a", Some(9))];
        let entry = next(&index, 5000, vec![found(4990, &parts)]);
        index.apply(&entry, TIMES);
        let of = |sent: &SentRows| ["a", "b", "c", "z"].map(|key| sent.digest_of(key));
        // The rows that count are those that came first.
        assert_eq!(of(&index.sent(10)), [Some(1), None, Some(3), None]);
        assert_eq!(of(&index.sent(1)), [None, None, Some(3), None]);
    }

    #[test]
    fn rows_without_key_always_count() {
        let mut index = Index::default();
        for _ in 0..2 {
            let entry = next(&index, 5000, vec![found(4990, &[part("", 2), part("", 2)])]);
            assert_eq!(counted(&entry), [(0, 2), (2, 2)]);
            index.apply(&entry, TIMES);
        }
    }

    #[test]
    fn key_counts_again_after_the_horizon() {
        let mut index = Index::default();
        let entry = next(&index, 5000, vec![found(4990, &[part("a", 1)])]);
        index.apply(&entry, TIMES);
        let again = |index: &Index, at_ms| counted(&next(index, at_ms, vec![found(at_ms, &[part("a", 1)])])).len();
        assert_eq!((again(&index, 6000), again(&index, 6001)), (0, 1));
        let other = next(&index, 6001, vec![found(6001, &[part("z", 1)])]);
        index.apply(&other, TIMES);
        assert_eq!(index.keys.keys().collect::<Vec<_>>(), [&digest("z")]);
        assert_eq!(index.oldest.len(), 1);
    }

    #[test]
    fn segment_is_selected_until_an_entry_names_it() {
        let mut index = Index::default();
        let (a, b) = (found(4990, &[part("a", 1)]), found(4991, &[part("b", 1)]));
        let names = || vec![a.name.clone(), b.name.clone(), "notes.txt".to_string()];
        let (selected, rest) = index.select(names(), 1);
        assert_eq!((selected, rest), (vec![a.name.clone()], Some(4991)));
        let entry = index.next("me".into(), 9000, vec![a.clone()], rest, TIMES, Rules::default()).unwrap();
        // The listing starts at the segment that waits, although it is older than the time to settle.
        assert_eq!(entry.scan_from_ms, 4991);
        index.apply(&entry, TIMES);
        assert_eq!(index.select(names()[1..].to_vec(), 10), (vec![b.name.clone()], None));
        let (_, scan_from) = index.scan_from().unwrap();
        assert!(scan_from < b.name && scan_from > a.name);
        let entry = next(&index, 9000, vec![b.clone()]);
        assert_eq!(entry.scan_from_ms, 8900);
        index.apply(&entry, TIMES);
        assert_eq!(index.named.len(), 0);
    }

    #[test]
    fn entry_with_too_many_requests_leaves_the_rest_to_the_next_one() {
        let requests: Vec<Part> = (0..ENTRY_PARTS_MAX - 1).map(|n| part(&n.to_string(), 1)).collect();
        let all = vec![found(4990, &requests), found(4991, &[part("x", 1)]), found(4992, &[part("y", 1)])];
        let entry = next(&Index::default(), 9000, all);
        assert_eq!((entry.segments.len(), entry.scan_from_ms), (2, 4992));
        // A segment that exceeds the bound alone is sealed alone.
        let large = vec![part("", 1); ENTRY_PARTS_MAX + 1];
        let entry = next(&Index::default(), 9000, vec![found(4990, &large), found(4991, &[part("x", 1)])]);
        assert_eq!((entry.segments.len(), entry.scan_from_ms), (1, 4991));
    }

    #[test]
    fn time_of_entries_does_not_go_back() {
        let mut index = Index::default();
        let entry = next(&index, 5000, vec![found(4990, &[part("a", 1)])]);
        index.apply(&entry, TIMES);
        assert_eq!((index.next_at_ms(4000), index.next_at_ms(6000)), (5000, 6000));
        assert!(index.next("me".into(), 6000, vec![], None, TIMES, Rules::default()).is_none());
    }
}
