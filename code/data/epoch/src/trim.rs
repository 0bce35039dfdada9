//! Removes old entries of a log and their segments.
//!
//! A log that may be trimmed has documents in a [`Sequence`], of which the newest says where the log begins. It is created before
//! anything before that beginning is deleted, and names what is deleted, so that any process can finish a deletion that was
//! interrupted. A process that was asleep may still create an entry under a number that was deleted. Such an entry is before
//! the beginning, so it does not count: a process that reads or creates an entry looks afterwards at where the log begins.

use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::names;
use crate::object;
use crate::record::decode;
use crate::sequence::Sequence;
use crate::source::SourceLog;

/// The option of a source that may be trimmed. It is set when the source is created.
pub const RETENTION: &str = "retention";

/// Segments that one call removes at most; the next one goes on.
const SEGMENTS_MAX: usize = 10_000;

/// The beginning of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Start {
    /// The first entry. Those before do not count.
    first: u64,
    /// The first entry of the log before.
    from: u64,
    /// The segments of the entries between.
    segments: Vec<String>,
    /// Makes the document unique.
    by: String,
}

impl Default for Start {
    fn default() -> Self {
        Self { first: 1, from: 1, segments: Vec::new(), by: String::new() }
    }
}

/// The beginnings of a log, if it may be trimmed.
#[derive(Debug)]
pub(crate) struct Starts {
    sequence: Sequence,
    /// The newest document that was read, with its number; 0 if none was.
    known: Mutex<(u64, u64)>,
}

impl Starts {
    /// Opens the beginnings of the source in `folder`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, folder: &Path) -> Self {
        Self { sequence: Sequence::new(store, folder.clone().join("starts")), known: Mutex::new((0, 1)) }
    }

    /// Returns the first entry that counts.
    pub(crate) async fn first(&self) -> Result<u64> {
        let (n, first) = *self.known.lock();
        if !self.sequence.is_replaced(n).await? {
            return Ok(first);
        }
        Ok(self.newest().await?.1.first)
    }

    /// Returns the newest document and its number.
    async fn newest(&self) -> Result<(u64, Start)> {
        let Some((n, bytes)) = self.sequence.newest().await? else { return Ok((0, Start::default())) };
        let start: Start = decode(&Path::from("starts"), &bytes)?;
        let mut known = self.known.lock();
        *known = (*known).max((n, start.first));
        Ok((n, start))
    }
}

impl SourceLog {
    /// Returns the first entry that counts. Entries before were removed, since they were older than the retention of the source.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn first(&self) -> Result<u64> {
        match self.starts() {
            Some(starts) => starts.first().await,
            None => Ok(1),
        }
    }

    /// Returns true if entries may be removed.
    pub fn may_be_trimmed(&self) -> bool {
        self.starts().is_some()
    }

    /// Removes entries, with their segments, that are older than `retention_ms` and before entry `needed`, the first one that
    /// a reader has not read. Entries whose keys decide about repetitions stay. Returns the number of deleted objects. Does
    /// nothing for a source without the option [`RETENTION`].
    ///
    /// # Errors
    /// The error of the store. What was not deleted is deleted by the next call.
    pub async fn trim(&self, retention_ms: i64, needed: u64, clock: &dyn Clock) -> Result<u64> {
        let Some(starts) = self.starts() else { return Ok(0) };
        let (n, start) = starts.newest().await?;
        let deleted = self.sweep(&start).await?;
        let Some(newest) = self.newest().await? else { return Ok(deleted) };
        let horizon_ms =
            if self.rules().spares_keys() { self.spec().times.entries_from_ms(&newest, true) } else { i64::MAX };
        let until_ms = clock.now_ms().saturating_sub(retention_ms).min(horizon_ms);
        let last = newest.n.min(needed);
        let (mut first, mut segments) = (start.first, Vec::new());
        while first < last && segments.len() < SEGMENTS_MAX {
            let Some(entry) = self.read_entry(first).await? else { return Ok(deleted) };
            if entry.at_ms >= until_ms {
                break;
            }
            segments.extend(entry.segments.into_iter().map(|sealed| sealed.segment));
            first += 1;
        }
        if first == start.first {
            return Ok(deleted);
        }
        let next = Start { first, from: start.first, segments, by: self.unique() };
        let bytes = serde_json::to_vec(&next)
            .map_err(|error| QueryError::internal(format!("the beginning of a log cannot be encoded: {error}")))?;
        // The entries that were read are certain only if no other process has trimmed meanwhile.
        if !starts.sequence.create(n + 1, bytes.into()).await? {
            return Ok(deleted);
        }
        Ok(deleted + self.sweep(&next).await?)
    }

    /// Deletes the objects that `start` names, unless they are deleted.
    async fn sweep(&self, start: &Start) -> Result<u64> {
        // The last entry is deleted last: while it exists, the deletion is incomplete.
        let last = self.entry_path(start.first - 1);
        if start.first <= start.from || !object::exists(self.store(), &last).await? {
            return Ok(0);
        }
        let segments = start.segments.iter().map(|segment| self.segment_path(segment));
        let entries = (start.from..start.first - 1).map(|n| self.entry_path(n));
        let deleted = object::delete(self.store(), segments.chain(entries).collect()).await?;
        Ok(deleted + object::delete(self.store(), vec![last]).await?)
    }

    /// Notes that `reader` needs entry `entry` and those after it.
    ///
    /// # Errors
    /// `Invalid` if the reader's name cannot be that of a file; errors of the store.
    pub async fn need(&self, reader: &str, entry: u64) -> Result<()> {
        names::check("reader", reader)?;
        let bytes = serde_json::json!({"entry": entry}).to_string();
        object_store::ObjectStoreExt::put(self.store(), &self.reader_path(reader), bytes.into()).await?;
        Ok(())
    }

    /// Removes the note of `reader`.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn forget(&self, reader: &str) -> Result<()> {
        names::check("reader", reader)?;
        object::delete(self.store(), vec![self.reader_path(reader)]).await?;
        Ok(())
    }

    /// Returns the first entry that a reader needs; the largest number if there are no readers.
    ///
    /// # Errors
    /// The error of the store; `Data` if the note of a reader is damaged, since nothing may be removed then.
    pub async fn needed(&self) -> Result<u64> {
        let mut needed = u64::MAX;
        for path in object::list(self.store(), &self.readers(), None).await? {
            if let Some(bytes) = object::read(self.store(), &path).await? {
                let note: serde_json::Value = decode(&path, &bytes)?;
                let entry = note.get("entry").and_then(serde_json::Value::as_u64);
                let damaged = || QueryError::data(format!("`{path}` has no entry; restore it, or delete it"));
                needed = needed.min(entry.ok_or_else(damaged)?);
            }
        }
        Ok(needed)
    }

    fn readers(&self) -> Path {
        self.folder().clone().join("readers")
    }

    fn reader_path(&self, reader: &str) -> Path {
        self.readers().join(format!("{reader}.json"))
    }
}
