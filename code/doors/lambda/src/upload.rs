//! Uploads rows to object storage: one thread encodes them while encoded parts are uploaded. A failed upload leaves no
//! object.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use buzz_engine::Rows;
use buzz_protocol::{Format, QueryError, Result};
use buzz_results::{WriteError, format};
use buzz_storage::Location;
use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, UploadPart};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes of a part. S3 requires at least 5 MiB and allows 10,000 parts.
const PART_BYTES: usize = 8 << 20;

/// Maximum number of parts that upload at the same time, and of parts that wait for it.
const PARTS_AT_ONCE: usize = 4;

/// Maximum time to abort an upload. The bucket removes parts that remain after a day.
const ABORT_MAX: Duration = Duration::from_secs(2);

/// Writes `rows` as `format` to `place` in `store`. Returns the number of bytes.
///
/// # Errors
/// `Invalid` if the rows do not fit the format, `Data` or `Unavailable` if the store does not accept them.
pub(crate) async fn rows(
    rows: Arc<Rows>,
    format: Format,
    store: Arc<dyn ObjectStore>,
    place: &Location,
) -> Result<u64> {
    let failed = |error: object_store::Error| QueryError::from(error).at(format!("writing the result to {place}"));
    let mut upload = Upload(Some(store.put_multipart(&place.path).await.map_err(failed)?));
    match parts_of(rows, format, &mut upload).await {
        Ok(bytes) => {
            upload.complete().await.map_err(failed)?;
            Ok(bytes)
        }
        Err(error) => {
            upload.abort().await;
            Err(match error {
                UploadError::Store(error) => failed(error),
                UploadError::Query(error) => error,
            })
        }
    }
}

/// The failure of an upload.
enum UploadError {
    Store(object_store::Error),
    Query(QueryError),
}

/// Uploads the parts. Returns the number of bytes.
async fn parts_of(rows: Arc<Rows>, format: Format, upload: &mut Upload) -> Result<u64, UploadError> {
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
            uploaded(&mut parts).await.map_err(UploadError::Store)?;
        }
    }
    match writing.await {
        Ok(Ok(())) => {}
        Ok(Err(WriteError::Rows(error))) => return Err(UploadError::Query(error)),
        Ok(Err(WriteError::Io(error))) => {
            let error = QueryError::internal(format!("the result cannot be uploaded: {error}"));
            return Err(UploadError::Query(error));
        }
        Err(_) => {
            let error = QueryError::internal("a bug in Buzz: the writer of a result panicked");
            return Err(UploadError::Query(error));
        }
    }
    while !parts.is_empty() {
        uploaded(&mut parts).await.map_err(UploadError::Store)?;
    }
    Ok(bytes)
}

/// Waits until one of `parts` is uploaded.
async fn uploaded(parts: &mut JoinSet<object_store::Result<()>>) -> object_store::Result<()> {
    match parts.join_next().await {
        Some(Ok(part)) => part,
        Some(Err(ended)) => Err(ended.into()),
        None => Ok(()),
    }
}

/// A multipart upload that is aborted if it is dropped before it completes. The bucket would keep the parts, which cost
/// money.
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

    /// Aborts the upload. The function is frozen after its answer, so this does not wait for the background.
    async fn abort(mut self) {
        if let Some(mut upload) = self.0.take() {
            _ = tokio::time::timeout(ABORT_MAX, upload.abort()).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

/// A writer that sends chunks of equal size, except the last: some stores reject parts of different sizes.
struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    /// Sends the buffered bytes, if any.
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

    /// Does nothing: S3 rejects parts that are too small.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
