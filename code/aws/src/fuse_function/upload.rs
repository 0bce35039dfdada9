//! Rows on their way to object storage: written by one thread, uploaded in parts meanwhile. Nothing appears of an upload
//! that fails.

use std::io::{self, Write};
use std::sync::Arc;

use buzz_answer::{Format, Rows, WriteError, format};
use buzz_protocol::{QueryError, Result};
use buzz_storage::Location;
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use tokio::sync::mpsc;

/// Bytes of a part; S3 wants 5 MiB at least, and has 10,000 of them.
const PART_BYTES: usize = 8 << 20;

/// Parts on their way at the same time, and waiting to be sent.
const PARTS_AT_ONCE: usize = 4;

/// Writes `rows` as `format` to `place` in `store`; how many bytes that is.
///
/// # Errors
/// `Invalid` when the rows do not fit the format, `Data` or `Unavailable` when the store does not take them.
pub async fn rows(rows: Arc<Rows>, format: Format, store: Arc<dyn ObjectStore>, place: &Location) -> Result<u64> {
    let failed = |error: object_store::Error| QueryError::from(error).at(format!("writing the result to {place}"));
    let upload = store.put_multipart(&place.path).await.map_err(failed)?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
    let (sender, mut chunks) = mpsc::channel::<Bytes>(PARTS_AT_ONCE);
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = ChunkWriter { sender, chunk: Vec::new() };
        format::write(&rows, format, &mut out)?;
        Ok::<_, WriteError>(out.flush()?)
    });
    let mut bytes = 0;
    while let Some(chunk) = chunks.recv().await {
        bytes += chunk.len() as u64;
        upload.put(chunk);
        if let Err(error) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
            // Its parts would cost until the bucket's lifecycle removes them.
            _ = upload.abort().await;
            return Err(failed(error));
        }
    }
    let written = match writing.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(WriteError::Rows(error))) => Err(error),
        Ok(Err(WriteError::Io(error))) => Err(QueryError::internal(format!("the result cannot be uploaded: {error}"))),
        Err(_) => Err(QueryError::internal("a bug in Buzz: the writer of a result panicked")),
    };
    if let Err(error) = written {
        _ = upload.abort().await;
        return Err(error);
    }
    upload.finish().await.map_err(failed)?;
    Ok(bytes)
}

struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= PART_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.sender.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
