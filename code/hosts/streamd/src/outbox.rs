//! Sinks as targets of the epoch log: rows come from the files that a record names.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use async_trait::async_trait;
use buzz_connect::{Sink, Written};
use buzz_epoch::{EpochLog, OutputFile, Target};
use buzz_protocol::{QueryError, Result, milliseconds};

/// A sink that takes its rows from files of the log.
pub(crate) struct Outbox {
    name: String,
    sink: Arc<dyn Sink>,
    /// Set when the reader of the sink has ended.
    closed: Arc<AtomicBool>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sink.fmt(f)
    }
}

/// Returns sinks as targets. `closed` is set when the reader of one has ended.
pub(crate) fn targets<'a>(
    sinks: impl IntoIterator<Item = (&'a String, &'a Arc<dyn Sink>)>,
    closed: &Arc<AtomicBool>,
) -> BTreeMap<String, Arc<dyn Target>> {
    let target = |(name, sink): (&String, &Arc<dyn Sink>)| {
        let outbox = Outbox { name: name.clone(), sink: Arc::clone(sink), closed: Arc::clone(closed) };
        (name.clone(), Arc::new(outbox) as Arc<dyn Target>)
    };
    sinks.into_iter().map(target).collect()
}

/// Returns the span of time in milliseconds whose epochs a sink takes together; 0 if it takes each alone.
pub(crate) fn span_ms(sink: &Arc<dyn Sink>) -> u64 {
    sink.roll().map_or(0, milliseconds)
}

#[async_trait]
impl Target for Outbox {
    async fn marker(&self) -> Result<Option<u64>> {
        self.sink.marker().await
    }

    async fn publish(&self, epoch: u64, files: &[OutputFile], log: &EpochLog) -> Result<()> {
        let mut rows = Vec::new();
        for file in files {
            let Some(bytes) = log.read(epoch, &file.path, &file.sum).await? else {
                return Err(QueryError::data(format!("output `{}` was deleted before it was published", file.path)));
            };
            for batch in StreamReader::try_new(Cursor::new(bytes), None)? {
                rows.push(batch?);
            }
        }
        if write(&self.name, &self.sink, epoch, &rows).await? == Written::Closed {
            self.closed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn span_ms(&self) -> u64 {
        span_ms(&self.sink)
    }
}

/// Writes the rows of an epoch to the sink `name`. An error names it.
pub(crate) async fn write(name: &str, sink: &Arc<dyn Sink>, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
    sink.write(epoch, rows).await.map_err(|error| error.at(format!("sink {name}")))
}
