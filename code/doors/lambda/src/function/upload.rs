//! Rows on their way to object storage: written by one thread, uploaded in parts meanwhile. Nothing appears of an upload
//! that fails.

use std::io::{self, Write};
use std::sync::Arc;

use buzz_answer::{Format, Rows, WriteError, format};
use buzz_protocol::{QueryError, Result};
use buzz_storage::Location;
use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, UploadPart};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

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
    let mut upload = Upload(Some(store.put_multipart(&place.path).await.map_err(failed)?));
    let mut parts = JoinSet::new();
    let (sender, mut chunks) = mpsc::channel::<Bytes>(PARTS_AT_ONCE);
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = ChunkWriter { sender, chunk: Vec::new() };
        format::write(&rows, format, &mut out)?;
        Ok::<_, WriteError>(out.give()?)
    });
    let mut bytes = 0;
    while let Some(chunk) = chunks.recv().await {
        bytes += chunk.len() as u64;
        parts.spawn(upload.part(chunk));
        while parts.len() >= PARTS_AT_ONCE {
            uploaded(&mut parts).await.map_err(failed)?;
        }
    }
    match writing.await {
        Ok(Ok(())) => {}
        Ok(Err(WriteError::Rows(error))) => return Err(error),
        Ok(Err(WriteError::Io(error))) => {
            return Err(QueryError::internal(format!("the result cannot be uploaded: {error}")));
        }
        Err(_) => return Err(QueryError::internal("a bug in Buzz: the writer of a result panicked")),
    }
    while !parts.is_empty() {
        uploaded(&mut parts).await.map_err(failed)?;
    }
    upload.complete().await.map_err(failed)?;
    Ok(bytes)
}

/// Waits for one of `parts`.
async fn uploaded(parts: &mut JoinSet<object_store::Result<()>>) -> object_store::Result<()> {
    match parts.join_next().await {
        Some(Ok(part)) => part,
        Some(Err(ended)) => Err(ended.into()),
        None => Ok(()),
    }
}

/// An upload that is taken back if it is dropped before its end: its parts would cost for as long as the bucket keeps them.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    fn part(&mut self, bytes: Bytes) -> UploadPart {
        match &mut self.0 {
            Some(upload) => upload.put_part(bytes.into()),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    async fn complete(mut self) -> object_store::Result<()> {
        if let Some(upload) = &mut self.0 {
            upload.complete().await?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

/// Gives away what is written in chunks of one size, but for the last: not every store takes parts of different sizes.
struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    /// Gives away what is there, if anything.
    fn give(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.sender.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(PART_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..fits]);
        if self.chunk.len() == PART_BYTES {
            self.give()?;
        }
        Ok(fits)
    }

    /// Does nothing: a part that is too small is refused.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
