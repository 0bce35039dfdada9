//! The record of an epoch: the one object whose creation makes offsets, state and output visible.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::names;
use crate::pipeline::Manifest;

/// Maximum size of an encoded record.
pub const RECORD_BYTES_MAX: usize = 8 << 20;

/// Maximum size of the payloads that a record carries itself, altogether and as text.
pub const INLINE_BYTES_MAX: usize = 256 << 10;

/// Maximum number of timers in a record. A stage with more keeps them in its state and enters the earliest ones.
pub const TIMERS_MAX: usize = 10_000;

/// Everything that an epoch made, created once under the epoch's number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The number of the epoch. The first epoch of a pipeline is 1.
    pub epoch: u64,
    /// The coordinator that created the record. Must be unique per process.
    pub by: String,
    /// Counts the starts of the pipeline.
    pub generation: u64,
    /// The time of the epoch in milliseconds since 1970. `now()` and system timers use it.
    pub at_ms: i64,
    /// The position after the rows that were read, by source. Opaque to this crate.
    pub sources: BTreeMap<String, Value>,
    /// Watermarks by source or stage, in microseconds of event time.
    pub watermarks: BTreeMap<String, i64>,
    /// All state files that the next epoch starts from, of this and earlier epochs.
    pub state: Vec<StateFile>,
    /// Output files of this epoch by sink.
    pub outputs: BTreeMap<String, Vec<OutputFile>>,
    /// For each sink, the epoch up to which its target is known to be complete. Shortens the search for epochs to
    /// publish after a restart.
    pub published: BTreeMap<String, u64>,
    /// Timers that have not fired.
    pub timers: Vec<Timer>,
    /// Late rows of this epoch by source or stage.
    pub late: BTreeMap<String, u64>,
    /// Bad rows of this epoch by source.
    pub bad: BTreeMap<String, u64>,
    /// Figures for people. Nothing is decided by them.
    pub metrics: Map<String, Value>,
    /// The pipeline was stopped with this epoch.
    pub stop: bool,
    /// Small payloads, as base64, that would otherwise be files.
    pub inline: BTreeMap<String, String>,
    /// Closes this version: no epoch follows, and the pipeline continues in another version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<Box<Moved>>,
}

/// A file with state of one stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateFile {
    /// The stage.
    pub stage: String,
    /// The path in the store, from [`EpochLog::state_path`](crate::EpochLog::state_path).
    pub path: String,
    /// The key groups of the rows: first, and one past the last.
    pub groups: (u32, u32),
    /// The smallest and largest slice of the rows, if they belong to slices.
    pub slices: Option<(i64, i64)>,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// The [`sum`] of the bytes; empty if an earlier build wrote the file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sum: String,
    /// Number of compactions that the rows went through.
    pub level: u32,
}

/// A file with rows for one sink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputFile {
    /// The path in the store, from [`EpochLog::output_path`](crate::EpochLog::output_path).
    pub path: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// The [`sum`] of the bytes; empty if an earlier build wrote the file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sum: String,
}

/// A timer of one key. It is fired and removed by the same record, so it fires once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timer {
    /// The time that the timer waits for.
    pub at: TimerTime,
    /// The stage that set it.
    pub stage: String,
    /// The key group of `key`, by the same hash as the rows of the stage.
    pub group: u32,
    /// The grouping key, as the stage encodes it.
    pub key: String,
}

/// The clock of a timer, and the time on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerTime {
    /// Microseconds of event time: due when the watermark of the stage has reached it.
    Event(i64),
    /// Milliseconds since 1970: due when the epoch's time has reached it.
    System(i64),
}

/// The end of a version: the next version, and the record that it starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// The manifest of the next version.
    pub manifest: Manifest,
    /// The first record of the next version.
    pub start: Record,
}

/// Divides `timers` into those that are due and those that wait, in their order.
pub fn due(timers: Vec<Timer>, watermarks: &BTreeMap<String, i64>, now_ms: i64) -> (Vec<Timer>, Vec<Timer>) {
    timers.into_iter().partition(|timer| match timer.at {
        TimerTime::Event(at) => watermarks.get(&timer.stage).is_some_and(|watermark| at <= *watermark),
        TimerTime::System(at) => at <= now_ms,
    })
}

impl Record {
    /// Encodes the record and checks its bounds.
    ///
    /// # Errors
    /// `Limit` if it exceeds [`INLINE_BYTES_MAX`], [`TIMERS_MAX`] or [`RECORD_BYTES_MAX`].
    pub(crate) fn encode(&self) -> Result<Bytes> {
        let inline: usize = self.inline.values().map(String::len).sum();
        let bytes = serde_json::to_vec(self)
            .map_err(|error| QueryError::internal(format!("epoch {} cannot be encoded: {error}", self.epoch)))?;
        let bounds = [
            ("bytes of inline payload", inline, INLINE_BYTES_MAX, "write payloads to files"),
            ("timers", self.timers.len(), TIMERS_MAX, "keep timers in the state of their stage"),
            ("bytes", bytes.len(), RECORD_BYTES_MAX, "compact the state into fewer files"),
        ];
        for (unit, actual, max, remedy) in bounds {
            if actual > max {
                let epoch = self.epoch;
                return Err(QueryError::limit(format!(
                    "the record of epoch {epoch} has {actual} {unit}, more than the {max} allowed; {remedy}"
                )));
            }
        }
        Ok(bytes.into())
    }

    /// Decodes the record in `path`.
    ///
    /// # Errors
    /// `Data` if the object is not a record.
    pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Record> {
        decode(path, bytes)
    }

    /// Checks that garbage collection can decide about each file by its name: the file is in `folder`, and was written
    /// for this epoch or an earlier one.
    pub(crate) fn check_names(&self, folder: &Path) -> Result<()> {
        let state = self.state.iter().map(|file| &file.path);
        for path in state.chain(self.outputs.values().flatten().map(|file| &file.path)) {
            let valid = Path::parse(path).is_ok_and(|path| {
                path.prefix_matches(folder) && names::epoch_of(&path).is_some_and(|epoch| epoch <= self.epoch)
            });
            if !valid {
                let epoch = self.epoch;
                return Err(QueryError::internal(format!(
                    "the record of epoch {epoch} names `{path}`, which is not a file of this or an earlier epoch in \
                     `{folder}`"
                )));
            }
        }
        Ok(())
    }

    /// Returns the paths of the state files.
    pub(crate) fn state_paths(&self) -> impl Iterator<Item = &str> {
        self.state.iter().map(|file| file.path.as_str())
    }

    /// Returns the paths of the output files.
    pub(crate) fn output_paths(&self) -> impl Iterator<Item = &str> {
        self.outputs.values().flatten().map(|file| file.path.as_str())
    }
}

/// Returns a text of 32 letters that is another one for other bytes.
pub fn sum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_string()
}

/// Checks that the file in `path` has the bytes that were written, by their [`sum`]. An empty one fits all bytes.
///
/// # Errors
/// `Data`, which names the path.
pub(crate) fn check_sum(path: &str, expected: &str, bytes: &[u8]) -> Result<()> {
    if expected.is_empty() || sum(bytes) == expected {
        return Ok(());
    }
    Err(QueryError::data(format!("`{path}` does not have the bytes that were written; restore it")))
}

/// Checks that the object in `path` has the number of its name.
///
/// # Errors
/// `Data`, which names the path.
pub(crate) fn check_number(path: &Path, expected: u64, found: u64) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(QueryError::data(format!("`{path}` has the content of number {found}; restore it")))
}

/// Decodes the JSON object in `path`.
///
/// # Errors
/// `Data`, which names the path.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| QueryError::data(format!("`{path}` is not readable: {error}")))
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use super::*;

    #[test]
    fn record_survives_encoding() {
        let record = Record {
            epoch: 3,
            sources: BTreeMap::from([("bids".into(), serde_json::json!({"z": 1, "a": [2]}))]),
            timers: vec![Timer { at: TimerTime::System(5), stage: "s".into(), group: 9, key: "k".into() }],
            state: vec![StateFile { slices: Some((1, 2)), ..Default::default() }],
            ..Default::default()
        };
        let bytes = record.encode().unwrap();
        assert_eq!(Record::decode(&Path::from("x"), &bytes).unwrap(), record);
        assert_eq!(record.encode().unwrap(), bytes);
        assert!(Record::decode(&Path::from("epochs/3.json"), b"{").unwrap_err().message.contains("epochs/3.json"));
    }

    #[test]
    fn other_bytes_have_another_sum() {
        let whole = sum(b"rows");
        check_sum("state/1", &whole, b"rows").unwrap();
        check_sum("state/1", "", b"rows of an earlier build").unwrap();
        for damaged in [&b"row"[..], b"rowt", b""] {
            let error = check_sum("state/1", &whole, damaged).unwrap_err().message;
            assert!(error.contains("`state/1` does not have the bytes"), "{error}");
        }
    }

    #[test]
    fn record_of_another_build_is_read() {
        let record = Record::decode(&Path::from("x"), br#"{"epoch": 2, "by": "a", "later": 1}"#).unwrap();
        assert_eq!((record.epoch, record.by.as_str(), record.stop), (2, "a", false));
    }

    #[test]
    fn record_beyond_a_bound_is_rejected() {
        let inline = BTreeMap::from([("a".to_string(), "x".repeat(INLINE_BYTES_MAX + 1))]);
        let timer = Timer { at: TimerTime::Event(0), stage: String::new(), group: 0, key: String::new() };
        let large = StateFile { stage: "x".repeat(1 << 20), ..Default::default() };
        for (record, unit) in [
            (Record { inline, ..Default::default() }, "inline payload"),
            (Record { timers: vec![timer; TIMERS_MAX + 1], ..Default::default() }, "timers"),
            (Record { state: vec![large; 9], ..Default::default() }, "compact"),
        ] {
            let error = record.encode().unwrap_err();
            assert_eq!(error.kind, ErrorKind::Limit);
            assert!(error.message.contains(unit), "{error}");
        }
    }

    #[test]
    fn timers_are_due_by_their_own_clock() {
        let timer = |at, stage: &str| Timer { at, stage: stage.into(), group: 0, key: String::new() };
        let timers = vec![
            timer(TimerTime::Event(10), "a"),
            timer(TimerTime::Event(11), "a"),
            timer(TimerTime::Event(0), "unknown"),
            timer(TimerTime::System(100), "a"),
            timer(TimerTime::System(101), "a"),
        ];
        let (fired, waiting) = due(timers, &BTreeMap::from([("a".to_string(), 10)]), 100);
        let times = |timers: &[Timer]| timers.iter().map(|timer| timer.at).collect::<Vec<_>>();
        assert_eq!(times(&fired), [TimerTime::Event(10), TimerTime::System(100)]);
        assert_eq!(times(&waiting), [TimerTime::Event(11), TimerTime::Event(0), TimerTime::System(101)]);
    }

    #[test]
    fn file_of_a_later_epoch_or_another_folder_is_rejected() {
        let folder = Path::from("p/v2");
        let named = |path: String| {
            let state = vec![StateFile { path, ..Default::default() }];
            Record { epoch: 5, state, ..Default::default() }.check_names(&folder)
        };
        let name = |epoch| names::file(epoch, uuid::Uuid::nil(), "parquet");
        named(format!("p/v2/state/s/{}", name(5))).unwrap();
        for path in [format!("p/v2/state/s/{}", name(6)), format!("p/v1/state/s/{}", name(5)), "p/v2/x".into()] {
            assert_eq!(named(path).unwrap_err().kind, ErrorKind::Internal);
        }
    }
}
