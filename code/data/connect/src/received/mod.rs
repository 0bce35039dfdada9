//! Sources without offsets: event streams, WebSockets, and servers that are polled.
//!
//! `receiver` keeps their messages in the inbox of the pipeline, in batches of `buzz_epoch::Feed`, before one counts; the
//! source reads the batches, so reading again from an offset returns the same rows. `sse`, `websocket` and `polling` are
//! the connections, `decode` makes rows of messages.

mod decode;
pub(crate) mod polling;
mod receiver;
pub(crate) mod sse;
pub(crate) mod websocket;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_epoch::Feed;
use buzz_protocol::{QueryError, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

pub(crate) use self::decode::{MessageFormat, decode};
use self::receiver::{Connection, Progress, Receiver};
use crate::source::{BadData, End, Source, SourceBatch};

/// Bytes of unread messages in memory above which a connection waits.
const UNREAD_BYTES_MAX: u64 = 256 << 20;

/// Bytes of messages after which a read ends.
const READ_BYTES_MAX: u64 = 64 << 20;

/// The partition of all messages.
const PARTITION: &str = "0";

/// The store of the messages that count.
#[derive(Debug, Clone)]
pub(crate) struct MessageStore {
    pub(crate) feed: Feed,
    /// Batches outlive the process; otherwise they are deleted once they are read.
    pub(crate) outlives: bool,
    /// Time for which messages are collected before they are kept.
    pub(crate) linger: Duration,
}

/// Reads the messages that its receiver keeps.
pub(crate) struct ReceivedSource {
    connection: Arc<dyn Connection>,
    store: MessageStore,
    schema: SchemaRef,
    format: MessageFormat,
    bad_data: BadData,
    /// The number of the next batch; `None` before the first read.
    next: Option<u64>,
    progress: Arc<Mutex<Progress>>,
    /// The receiver, once rows are read. It ends with the source.
    receiver: JoinSet<()>,
}

impl fmt::Debug for ReceivedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedSource")
            .field("connection", &self.connection.place())
            .field("next", &self.next)
            .finish()
    }
}

impl ReceivedSource {
    /// Makes a source. Nothing is received before its first read.
    pub(crate) fn new(
        connection: impl Connection + 'static,
        store: MessageStore,
        schema: SchemaRef,
        format: MessageFormat,
        bad_data: BadData,
    ) -> Self {
        Self {
            connection: Arc::new(connection),
            store,
            schema,
            format,
            bad_data,
            next: None,
            progress: Arc::default(),
            receiver: JoinSet::new(),
        }
    }

    /// Resumes from an offset.
    ///
    /// # Errors
    /// `Data` if the offset is not one of received messages.
    pub(crate) fn resume(&mut self, offset: &Value) -> Result<()> {
        if offset.is_null() {
            return Ok(());
        }
        let batch = offset.get("batch").and_then(Value::as_u64);
        let wrong = || QueryError::data(format!("offset {offset} is not one of received messages"));
        self.next = Some(batch.filter(|batch| *batch > 0).ok_or_else(wrong)?);
        Ok(())
    }

    /// Starts to receive, at the first read.
    fn start(&mut self) {
        if self.receiver.is_empty() && self.progress.lock().ends.is_none() {
            let receiver = Receiver {
                connection: Arc::clone(&self.connection),
                feed: self.store.feed.clone(),
                progress: Arc::clone(&self.progress),
                linger: self.store.linger,
                by: uuid::Uuid::new_v4().to_string(),
                unread_max: if self.store.outlives { u64::MAX } else { UNREAD_BYTES_MAX },
            };
            self.receiver.spawn(receiver.run());
        }
    }

    /// Reads and decodes batch `n` into `read`. Returns the number of its rows.
    async fn read_batch(&self, n: u64, first: u64, read: &mut SourceBatch) -> Result<usize> {
        let Some(batch) = self.store.feed.read(n).await? else {
            return Err(QueryError::data(format!(
                "batch {n} of the messages of {} does not exist, and those from {first} on do; restore it, or start the \
                 pipeline under another name",
                self.connection.place()
            )));
        };
        if batch.of != self.connection.identity() {
            return Ok(0);
        }
        read.bytes += batch.messages.iter().map(|message| message.len() as u64).sum::<u64>();
        let (schema, format, bad_data) = (Arc::clone(&self.schema), self.format, self.bad_data);
        let decoding = tokio::task::spawn_blocking(move || decode(&batch.messages, &schema, format, bad_data));
        let decoded = decoding.await.map_err(|error| QueryError::internal(format!("a decoder stopped: {error}")))?;
        let decoded = decoded.map_err(|error| error.at(format!("{}, batch {n}", self.connection.place())))?;
        let rows = decoded.batches.iter().map(|batch| batch.num_rows()).sum::<usize>() + decoded.bad.len();
        if let Some((_, batches)) = read.partitions.first_mut() {
            batches.extend(decoded.batches);
        }
        read.bad.extend(decoded.bad);
        Ok(rows)
    }
}

#[async_trait]
impl Source for ReceivedSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn read(&mut self, rows: usize, _: i64) -> Result<SourceBatch> {
        self.start();
        let mut read = SourceBatch { partitions: vec![(PARTITION.to_string(), Vec::new())], ..SourceBatch::default() };
        let (ends, error, finished) = {
            let progress = self.progress.lock();
            read.notes.extend(progress.trouble.clone());
            (progress.ends, progress.error.clone(), progress.finished)
        };
        let Some((first, newest)) = ends else { return error.map_or(Ok(read), Err) };
        let mut next = self.next.unwrap_or(first);
        if next > newest.saturating_add(1) {
            return Err(QueryError::data(format!(
                "batch {} of the messages of {} was read before and does not exist any more; restore it, or start the \
                 pipeline under another name",
                next - 1,
                self.connection.place()
            )));
        }
        let mut count = 0;
        while count < rows && read.bytes < READ_BYTES_MAX && next <= newest {
            count += self.read_batch(next, first, &mut read).await?;
            next += 1;
        }
        self.next = Some(next);
        {
            let mut progress = self.progress.lock();
            progress.unread = progress.unread.saturating_sub(read.bytes);
        }
        if !self.store.outlives {
            self.store.feed.delete_before(next).await?;
        }
        read.more = next <= newest;
        read.ended = finished && !read.more;
        match error {
            // The rows before it come first.
            Some(error) if count == 0 && !read.more => Err(error),
            _ => Ok(read),
        }
    }

    fn end(&self) -> End {
        End::Never
    }

    fn offset(&self) -> Value {
        self.next.map_or(Value::Null, |next| json!({"batch": next}))
    }

    async fn note_reader(&mut self, _reader: &str, offset: Option<&Value>) -> Result<()> {
        match offset.and_then(|offset| offset.get("batch")?.as_u64()) {
            Some(batch) => self.store.feed.delete_before(batch).await,
            None => Ok(()),
        }
    }
}
