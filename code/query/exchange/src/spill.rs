//! Spills batches that exceed an inbox's memory to one unnamed file per query.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use buzz_protocol::{QueryError, Result};

/// The position of a batch in the spill file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpilledBatch {
    offset: u64,
    length: usize,
}

/// An append-only file of batches, each a separate Arrow IPC stream. It has no name, so the system deletes it when the
/// process ends.
#[derive(Debug)]
pub(crate) struct SpillFile {
    file: OnceLock<File>,
    end: AtomicU64,
    bytes_max: u64,
}

impl SpillFile {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { file: OnceLock::new(), end: AtomicU64::new(0), bytes_max }
    }

    /// Returns the bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// `Limit` when the bound is exceeded or the disk is full.
    pub(crate) async fn write(self: &Arc<Self>, batch: RecordBatch) -> Result<SpilledBatch> {
        let this = Arc::clone(self);
        blocking(move || this.write_now(&batch)).await
    }

    fn write_now(&self, batch: &RecordBatch) -> Result<SpilledBatch> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
        writer.write(batch)?;
        writer.finish()?;

        let length = bytes.len() as u64;
        let offset = self.end.fetch_add(length, Ordering::Relaxed);
        if offset + length > self.bytes_max {
            return Err(QueryError::limit(format!(
                "the inbox spilled more than {} bytes; raise the option `inbox_disk_bytes` or `inbox_memory_bytes`, \
                 or let the map step return fewer rows",
                self.bytes_max
            )));
        }
        let full = |error: std::io::Error| {
            QueryError::not_spilled("the inbox cannot spill", Some("inbox_memory_bytes"), &error)
        };
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let made = tempfile::tempfile().map_err(full)?;
                self.file.get_or_init(|| made)
            }
        };
        file.write_all_at(&bytes, offset).map_err(full)?;
        Ok(SpilledBatch { offset, length: bytes.len() })
    }

    /// Reads a batch back.
    ///
    /// # Errors
    /// `Internal` when the batch cannot be read back.
    pub(crate) async fn read(self: &Arc<Self>, place: SpilledBatch) -> Result<RecordBatch> {
        let this = Arc::clone(self);
        blocking(move || {
            let lost = |why: String| QueryError::internal(format!("a spilled batch cannot be read back: {why}"));
            let file = this.file.get().ok_or_else(|| lost("nothing was spilled".to_string()))?;
            let mut bytes = vec![0; place.length];
            file.read_exact_at(&mut bytes, place.offset).map_err(|error| lost(error.to_string()))?;
            let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
            reader.next().ok_or_else(|| lost("the stream is empty".to_string()))?.map_err(QueryError::from)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(QueryError::cancelled("the process is stopping")),
    }
}
