//! Sinks as targets of the epoch log: rows come from the files that a record names.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use async_trait::async_trait;
use buzz_connect::Sink;
use buzz_epoch::{EpochLog, OutputFile, Target};
use buzz_protocol::{QueryError, Result};

/// A sink that takes its rows from files of the log.
pub(super) struct Outbox {
    pub(super) name: String,
    pub(super) sink: Arc<dyn Sink>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sink.fmt(f)
    }
}

#[async_trait]
impl Target for Outbox {
    async fn marker(&self) -> Result<Option<u64>> {
        self.sink.marker().await
    }

    async fn publish(&self, epoch: u64, files: &[OutputFile], log: &EpochLog) -> Result<()> {
        let mut rows = Vec::new();
        for file in files {
            let Some(bytes) = log.read(epoch, &file.path).await? else {
                return Err(QueryError::data(format!("output `{}` was deleted before it was published", file.path)));
            };
            for batch in StreamReader::try_new(Cursor::new(bytes), None)? {
                rows.push(batch?);
            }
        }
        write(&self.name, &self.sink, epoch, &rows).await
    }
}

/// Writes the rows of an epoch to the sink `name`. An error names it.
pub(super) async fn write(name: &str, sink: &Arc<dyn Sink>, epoch: u64, rows: &[RecordBatch]) -> Result<()> {
    sink.write(epoch, rows).await.map_err(|error| error.at(format!("sink {name}")))
}
