//! The log of a stream, to which clients push rows, as a source.
//!
//! `check` looks at the rows of a request before they are kept (`frames` at those of Arrow), `format` names their formats,
//! `piece` decodes them.
//! Segments and entries are those of `buzz_epoch`: an entry says which rows count, so reading again from an offset returns
//! the same rows.

mod check;
mod format;
mod frames;
mod piece;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_epoch::{Entry, Sealed, Segment, SourceLog, SystemClock};
use buzz_protocol::{QueryError, Result};
use buzz_storage::synced_folder;
use futures::{StreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;
use serde_json::{Value, json};

pub(crate) use self::check::objects;
pub use self::check::{CheckedRows, check_rows};
pub use self::format::{stream_bad_data, stream_columns};
pub(crate) use self::piece::decode_objects;
use self::piece::{SHARED, pieces};
use crate::source::{BadData, Source, SourceBatch};

/// Time between two attempts to seal what no server has sealed.
const SEAL_EVERY: Duration = Duration::from_secs(1);

/// Segments that are read at once.
const READS_AT_ONCE: usize = 8;

/// Bytes of rows after which a read ends.
const READ_BYTES_MAX: u64 = 256 << 20;

/// Maximum number of producers with a watermark of their own.
const PRODUCERS_MAX: usize = 1000;

/// The folder or bucket of streams.
#[derive(Debug, Clone)]
pub struct StreamsRoot {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The path in it.
    pub path: Path,
    /// A local folder, whose objects must be synced by who writes them.
    pub folder: Option<std::path::PathBuf>,
    /// The place as the user wrote it.
    pub written: String,
}

impl StreamsRoot {
    /// Opens the log of `stream`; `None` if it does not exist yet.
    async fn log(&self, stream: &str) -> Result<Option<SourceLog>> {
        let found = SourceLog::existing(Arc::clone(&self.store), self.path.clone(), stream).await?;
        // The source seals what servers have left, so its writes must survive a loss of power.
        match (&found, &self.folder) {
            (Some(_), Some(folder)) => {
                SourceLog::existing(synced_folder(FilePath::new(folder))?, Path::default(), stream).await
            }
            _ => Ok(found),
        }
    }
}

/// The entry from which a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushedStart {
    /// All rows.
    Earliest,
    /// Rows that are sealed after the first read.
    Latest,
}

/// A position in a log: the next segment to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    /// The number of an entry, from 1.
    entry: u64,
    /// The index of a segment in it.
    segment: usize,
}

/// Reads the rows of a stream in the order in which they were sealed.
#[derive(Debug)]
pub struct PushedSource {
    /// The place of the streams.
    pub root: StreamsRoot,
    /// The name of the stream.
    pub stream: String,
    /// The columns.
    pub schema: SchemaRef,
    /// Treatment of rows that cannot be decoded.
    pub bad_data: BadData,
    /// Waits for new rows instead of ending.
    pub follow: bool,
    /// Each producer is a partition, with a watermark of its own.
    pub by_producer: bool,
    /// The first rows that are read, unless an offset says where to go on.
    pub start: PushedStart,
    log: Option<SourceLog>,
    /// `None` before the first read.
    at: Option<At>,
    /// The entry at the position.
    entry: Option<Entry>,
    /// The last entry that is read, if the source ends.
    end: Option<u64>,
    sealed: Option<Instant>,
    /// The entry before the position is known to exist.
    is_checked: bool,
    /// Partitions that had rows.
    partitions: BTreeSet<String>,
    /// The reader, if it is noted only with its first position.
    unnoted: Option<String>,
}

impl PushedSource {
    /// Makes the source of `stream`, which follows all its rows.
    pub fn new(root: StreamsRoot, stream: String, schema: SchemaRef) -> Self {
        Self {
            root,
            stream,
            schema,
            bad_data: BadData::Fail,
            follow: true,
            by_producer: false,
            start: PushedStart::Earliest,
            log: None,
            at: None,
            entry: None,
            end: None,
            sealed: None,
            is_checked: false,
            partitions: BTreeSet::new(),
            unnoted: None,
        }
    }

    /// Resumes from an offset.
    ///
    /// # Errors
    /// `Data` if the offset is not one of a stream.
    pub fn resume(&mut self, offset: &Value) -> Result<()> {
        if offset.is_null() {
            return Ok(());
        }
        let number = |key: &str| offset.get(key).and_then(Value::as_u64);
        let at = || Some(At { entry: number("entry")?, segment: usize::try_from(number("segment")?).ok()? });
        let at = at().filter(|at| at.entry > 0);
        self.at = Some(at.ok_or_else(|| QueryError::data(format!("offset {offset} is not one of a stream")))?);
        let named = offset.get("partitions").and_then(Value::as_array);
        self.partitions = named.into_iter().flatten().filter_map(Value::as_str).map(String::from).collect();
        Ok(())
    }

    /// Seals what no server has sealed, at most once in [`SEAL_EVERY`]. Returns true if it looked.
    async fn seal(&mut self, log: &SourceLog) -> Result<bool> {
        if self.sealed.is_some_and(|sealed| sealed.elapsed() < SEAL_EVERY) {
            return Ok(false);
        }
        log.seal_all(&SystemClock).await?;
        self.sealed = Some(Instant::now());
        Ok(true)
    }

    /// Fails if the log is shorter than what was read of it: rows would be missing, or others under numbers that were read.
    async fn check_read(&mut self, log: &SourceLog) -> Result<()> {
        let Some(At { entry, segment }) = self.at.filter(|_| !self.is_checked) else { return Ok(()) };
        let last = if segment > 0 { entry } else { entry - 1 };
        // The entry before the first one was removed, after it was read.
        let is_first = segment == 0 && log.first().await? == entry;
        if last > 0 && !is_first && log.entry(last).await?.is_none() {
            return Err(QueryError::data(format!(
                "entry {last} of the log of stream `{}` in `{}` was read before and does not exist any more; restore it, or \
                 start the pipeline under another name",
                self.stream, self.root.written
            )));
        }
        self.is_checked = true;
        Ok(())
    }

    /// Returns the position of the next segment, and, for a source that ends, finds its last entry.
    async fn begin(&mut self, log: &SourceLog) -> Result<At> {
        self.check_read(log).await?;
        if !self.follow && self.end.is_none() {
            self.seal(log).await?;
            self.end = Some(log.newest().await?.map_or(0, |entry| entry.n));
        }
        if let Some(at) = self.at {
            return Ok(at);
        }
        let entry = match self.start {
            PushedStart::Earliest => log.first().await?,
            PushedStart::Latest => {
                self.seal(log).await?;
                log.newest().await?.map_or(0, |entry| entry.n) + 1
            }
        };
        let at = At { entry, segment: 0 };
        self.at = Some(at);
        Ok(at)
    }

    /// Returns the next segments of the log, which are in one entry; none if there are none yet, or the source has ended.
    async fn next(&mut self, log: &SourceLog, at: &mut At) -> Result<Vec<Sealed>> {
        loop {
            if self.end.is_some_and(|end| at.entry > end) {
                return Ok(Vec::new());
            }
            if self.entry.is_none() {
                self.entry = log.entry(at.entry).await?;
            }
            if self.entry.is_none() && self.seal(log).await? {
                self.entry = log.entry(at.entry).await?;
            }
            let Some(entry) = &self.entry else {
                return match self.end {
                    None => Ok(Vec::new()),
                    Some(_) => Err(QueryError::data(format!(
                        "entry {} of the log of stream `{}` in `{}` does not exist, but later ones do; restore it",
                        at.entry, self.stream, self.root.written
                    ))),
                };
            };
            let next: Vec<Sealed> = entry.segments.iter().skip(at.segment).take(READS_AT_ONCE).cloned().collect();
            if !next.is_empty() {
                return Ok(next);
            }
            *at = At { entry: at.entry + 1, segment: 0 };
            (self.at, self.entry) = (Some(*at), None);
        }
    }

    /// Decodes a segment into `read` and the rows by partition. Returns the number of rows.
    async fn decode(
        &mut self,
        segment: &Segment,
        sealed: &Sealed,
        rows: &mut BTreeMap<String, Vec<arrow::array::RecordBatch>>,
        read: &mut SourceBatch,
    ) -> Result<usize> {
        let mut tasks = Vec::new();
        for piece in pieces(segment, sealed, self.by_producer, &self.schema)? {
            let (schema, bad_data) = (Arc::clone(&self.schema), self.bad_data);
            read.bytes += piece.bytes.len() as u64;
            let partition = piece.partition.clone();
            tasks.push((partition, tokio::task::spawn_blocking(move || piece.decode(&schema, bad_data))));
        }
        let mut count = 0;
        for (partition, task) in tasks {
            let decoded = task.await.map_err(|error| QueryError::internal(format!("a decoder stopped: {error}")))?;
            let decoded = decoded?;
            count += decoded.batches.iter().map(|batch| batch.num_rows()).sum::<usize>() + decoded.bad.len();
            read.bad.extend(decoded.bad);
            if self.partitions.len() >= PRODUCERS_MAX && !self.partitions.contains(&partition) {
                return Err(QueryError::limit(format!(
                    "the stream has more than {PRODUCERS_MAX} producers, each with a watermark of its own; set \
                     producers = 'false'"
                )));
            }
            self.partitions.insert(partition.clone());
            rows.entry(partition).or_default().extend(decoded.batches);
        }
        Ok(count)
    }
}

#[async_trait]
impl Source for PushedSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn read(&mut self, rows: usize, _: i64) -> Result<SourceBatch> {
        let mut read = SourceBatch::default();
        if self.log.is_none() {
            self.log = self.root.log(&self.stream).await?;
        }
        let Some(log) = self.log.clone() else {
            let missing = format!("stream `{}` does not exist in `{}`", self.stream, self.root.written);
            if !self.follow {
                return Err(QueryError::data(format!("{missing}; push rows to it, or correct `path` or `stream`")));
            }
            read.notes.push(format!("{missing} yet; waiting for its first rows"));
            // All its rows will be new ones.
            self.at.get_or_insert(At { entry: 1, segment: 0 });
            return Ok(read);
        };
        let mut at = self.begin(&log).await?;
        if let Some(reader) = &self.unnoted {
            if log.may_be_trimmed() {
                log.need(reader, at.entry).await?;
            }
            self.unnoted = None;
        }
        let mut by_partition = BTreeMap::new();
        let mut count = 0;
        while count < rows && read.bytes < READ_BYTES_MAX {
            let next = self.next(&log, &mut at).await?;
            if next.is_empty() {
                break;
            }
            // The first ones are decoded while the others are on their way.
            let reads: Vec<_> = next.iter().map(|sealed| log.segment(sealed)).collect();
            let mut segments = stream::iter(reads).buffered(READS_AT_ONCE);
            for sealed in &next {
                let place = format!("stream {}, entry {}, segment {}", self.stream, at.entry, sealed.segment);
                let segment = segments.next().await.transpose().map_err(|error| error.at(place.as_str()))?;
                let segment = segment.ok_or_else(|| QueryError::internal("a segment was not read"))?;
                let decoded = self.decode(&segment, sealed, &mut by_partition, &mut read).await;
                count += decoded.map_err(|error| error.at(place))?;
                at.segment += 1;
                self.at = Some(at);
                if count >= rows || read.bytes >= READ_BYTES_MAX {
                    break;
                }
            }
        }
        read.more = count >= rows || read.bytes >= READ_BYTES_MAX;
        read.ended = !read.more && !self.follow && self.end.is_some_and(|end| at.entry > end);
        for partition in &self.partitions {
            let batches = by_partition.remove(partition).unwrap_or_default();
            read.partitions.push((partition.clone(), batches));
        }
        if read.partitions.is_empty() && !self.by_producer {
            read.partitions.push((SHARED.to_string(), Vec::new()));
        }
        Ok(read)
    }

    async fn note_reader(&mut self, reader: &str, offset: Option<&Value>) -> Result<()> {
        if self.log.is_none() {
            self.log = self.root.log(&self.stream).await?;
        }
        let Some(log) = self.log.clone() else {
            self.unnoted = offset.map(|_| reader.to_string());
            return Ok(());
        };
        if !log.may_be_trimmed() {
            return Ok(());
        }
        let Some(offset) = offset else { return log.forget(reader).await };
        match offset.get("entry").and_then(Value::as_u64) {
            Some(entry) => log.need(reader, entry).await,
            None if self.start == PushedStart::Earliest => log.need(reader, log.first().await?).await,
            None => {
                self.unnoted = Some(reader.to_string());
                Ok(())
            }
        }
    }

    fn starts_at_newest(&self) -> bool {
        self.start == PushedStart::Latest
    }

    fn offset(&self) -> Value {
        match self.at {
            None => Value::Null,
            Some(At { entry, segment }) => {
                json!({"entry": entry, "segment": segment, "partitions": self.partitions})
            }
        }
    }
}

#[cfg(test)]
mod tests;
