//! The rows of a pipeline, read from the files of its epochs: any server of the state can return them, and a reader that
//! names the last row it has gets the next one.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use buzz_connect::{WriteFormat, encode_lines};
use buzz_epoch::{EpochLog, Record};
use buzz_protocol::{ErrorKind, QueryError, Result};

use crate::commit::KEPT_EPOCHS;
use crate::jobs::registry::Registry;

/// Records that are read at once.
const RECORDS_MAX: usize = 16;

/// Interval at which a reader looks for a new epoch, with state in a folder and in a bucket.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY_REMOTE: Duration = Duration::from_secs(2);

/// A row of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its epoch and its number within the epoch, as `<epoch>-<number>`. Numbers begin at 1.
    pub id: String,
    /// The sink that gets the row.
    pub sink: String,
    /// The time of its epoch in milliseconds since 1970.
    pub at_ms: i64,
    /// The row as JSON.
    pub row: String,
    /// Rows before this one were deleted before they were read: the number of epochs with rows.
    pub missed: u64,
}

/// Reads the rows of a pipeline, in the order of its epochs.
#[derive(Debug)]
pub struct Tail {
    registry: Arc<Registry>,
    id: String,
    log: Option<EpochLog>,
    /// The name of the epochs that are read.
    of: String,
    /// The next epoch; `None` starts with the oldest one whose rows are kept.
    next: Option<u64>,
    /// Rows of the next epoch that the reader has.
    had: usize,
    events: VecDeque<Event>,
    missed: u64,
}

impl Tail {
    /// Makes a reader that goes on behind the event `after`.
    pub(crate) fn new(registry: Arc<Registry>, id: String, after: Option<&str>) -> Self {
        let place = after.and_then(|after| after.split_once('-'));
        let place = place.and_then(|(epoch, n)| Some((epoch.parse().ok()?, n.parse().ok()?)));
        let (next, had) = place.map_or((None, 0), |(epoch, had): (u64, usize)| (Some(epoch), had));
        Self { registry, id, log: None, of: String::new(), next, had, events: VecDeque::new(), missed: 0 }
    }

    /// Waits for the next row. Returns `None` when the pipeline has ended and all its rows were returned.
    ///
    /// # Errors
    /// Errors of the store; `Invalid` if the pipeline was deleted.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let pipeline = self.registry.get(&self.id).await?.ok_or_else(|| crate::jobs::unknown(&self.id))?;
            if self.of != pipeline.wanted.log {
                if !self.of.is_empty() {
                    (self.next, self.had) = (None, 0);
                }
                self.log = None;
                self.of.clone_from(&pipeline.wanted.log);
            }
            if self.log.is_none() {
                self.log = self.registry.log(&pipeline).await?;
            }
            // Its rows are read after its state was seen to be final, so none is missing.
            if !self.read().await? {
                if pipeline.status.state.is_final() {
                    return Ok(None);
                }
                tokio::time::sleep(if self.registry.is_remote { LOOK_EVERY_REMOTE } else { LOOK_EVERY }).await;
            }
        }
    }

    /// Reads the rows of the next epochs. Returns false if there are none.
    async fn read(&mut self) -> Result<bool> {
        let Some(log) = self.log.clone() else { return Ok(false) };
        let newest = match log.newest().await {
            Ok(Some(newest)) => newest,
            Ok(None) => return Ok(false),
            // Another version has replaced this one.
            Err(error) if error.kind == ErrorKind::Cancelled => {
                self.log = None;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let oldest = (newest.epoch + 1).saturating_sub(KEPT_EPOCHS as u64).max(1);
        let next = *self.next.get_or_insert(oldest);
        if next > newest.epoch.saturating_add(1) {
            // The reader has rows of another pipeline of this name, which was deleted.
            self.next = None;
            self.had = 0;
            return Ok(true);
        }
        if next > newest.epoch {
            return Ok(false);
        }
        let through = newest.epoch.min(next.saturating_add(RECORDS_MAX as u64 - 1));
        for record in log.records(next, through, RECORDS_MAX).await? {
            self.add(&log, &record).await?;
            if !self.events.is_empty() {
                (self.next, self.had) = (Some(record.epoch + 1), 0);
                return Ok(true);
            }
        }
        self.next = Some(through + 1);
        self.had = 0;
        Ok(true)
    }

    /// Adds the rows of an epoch.
    async fn add(&mut self, log: &EpochLog, record: &Record) -> Result<()> {
        let had = if Some(record.epoch) == self.next { self.had } else { 0 };
        let mut n = 0;
        let mut is_missed = false;
        for (sink, files) in &record.outputs {
            for file in files {
                let path = file.path.as_str().into();
                let Some(bytes) = log.get(&path).await? else {
                    // The reader may have these rows.
                    n += usize::try_from(file.rows).unwrap_or_default();
                    is_missed = is_missed || n > had;
                    continue;
                };
                let batches = StreamReader::try_new(Cursor::new(bytes), None)?;
                let batches = batches.collect::<Result<Vec<RecordBatch>, _>>()?;
                for row in lines(&batches)? {
                    n += 1;
                    if n > had {
                        self.events.push_back(Event {
                            id: format!("{}-{n}", record.epoch),
                            sink: sink.clone(),
                            at_ms: record.at_ms,
                            row,
                            missed: std::mem::take(&mut self.missed),
                        });
                    }
                }
            }
        }
        self.missed += u64::from(is_missed);
        Ok(())
    }
}

/// Returns rows as lines of JSON.
pub(crate) fn lines(batches: &[RecordBatch]) -> Result<Vec<String>> {
    let bytes = encode_lines(WriteFormat::Json, true, batches)?;
    let text = String::from_utf8(bytes).map_err(|error| QueryError::internal(format!("JSON is not text: {error}")))?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_string).collect())
}
