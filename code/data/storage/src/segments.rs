//! Objects of segments: written once from front to back, and read segment by segment.

use std::fmt;
use std::time::Duration;

use buzz_protocol::{ErrorKind, QueryError, Result};
use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::{Error as StoreError, ObjectStoreExt};
use tokio::io::AsyncWriteExt;

use crate::{Location, QueryStores};

/// Bytes up to which an object is written by one request, and of a part of a larger one. S3 requires at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// Parts that are uploaded at the same time. Each is in memory.
const PARTS_AT_ONCE: usize = 2;

/// Maximum time to abort an upload. The bucket removes parts that remain after a day.
const ABORT_MAX: Duration = Duration::from_secs(2);

/// A range of an object, and what its bytes must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// CRC-32 of the bytes.
    pub crc: u32,
}

/// Writes an object. It exists only after [`SegmentWriter::finish`]; a writer that is dropped before leaves none.
pub struct SegmentWriter {
    place: Location,
    /// The upload; `None` once it has ended.
    upload: Option<BufWriter>,
    end: u64,
}

impl fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentWriter").field("place", &self.place).field("end", &self.end).finish_non_exhaustive()
    }
}

impl SegmentWriter {
    /// Begins the object at `place`. Sends no request.
    ///
    /// # Errors
    /// `Invalid` if the settings of its store are incomplete.
    pub fn create(stores: &QueryStores, place: Location) -> Result<Self> {
        let store = stores.store(&place.store)?;
        let upload = BufWriter::with_capacity(store, place.path.clone(), PART_BYTES);
        Ok(Self { place, upload: Some(upload.with_max_concurrency(PARTS_AT_ONCE)), end: 0 })
    }

    /// Appends `bytes` and returns their range.
    ///
    /// # Errors
    /// `Unavailable` if the store does not respond, `Data` if it refuses the write.
    pub async fn write(&mut self, bytes: Bytes) -> Result<SegmentRange> {
        let range = SegmentRange { offset: self.end, length: bytes.len() as u64, crc: crc32fast::hash(&bytes) };
        let upload = self.upload.as_mut().ok_or_else(|| QueryError::internal("an object was written after its end"))?;
        upload.put(bytes).await.map_err(|error| not_written(&self.place, error))?;
        self.end += range.length;
        Ok(range)
    }

    /// Completes the object.
    ///
    /// # Errors
    /// As [`SegmentWriter::write`].
    pub async fn finish(mut self) -> Result<()> {
        let Some(mut upload) = self.upload.take() else {
            return Ok(());
        };
        // The writer wraps errors of the store in those of the system.
        let unwrapped = |error: std::io::Error| match error.downcast::<StoreError>() {
            Ok(error) => not_written(&self.place, error),
            Err(error) => QueryError::unavailable(error.to_string()).at(format!("writing {}", self.place)),
        };
        upload.shutdown().await.map_err(unwrapped)
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        // Without a request, there is nothing to abort.
        let (Some(mut upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        if self.end < PART_BYTES as u64 {
            return;
        }
        runtime.spawn(async move {
            _ = tokio::time::timeout(ABORT_MAX, upload.abort()).await;
        });
    }
}

fn not_written(place: &Location, error: StoreError) -> QueryError {
    QueryError::from(error).at(format!("writing {place}"))
}

/// Reads `range` of the object at `place`.
///
/// # Errors
/// `Unavailable` if the object is missing, shorter or other than it was written, or the store does not respond.
pub async fn read_segment(stores: &QueryStores, place: &Location, range: SegmentRange) -> Result<Bytes> {
    let lost = |why: &str| QueryError::unavailable(format!("the object {place} of a delivery {why}"));
    let SegmentRange { offset, length, crc } = range;
    let end = offset.checked_add(length).ok_or_else(|| QueryError::internal("a range of an object overflows"))?;
    let bytes = match stores.store(&place.store)?.get_range(&place.path, offset..end).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Err(lost("is missing")),
        Err(error) => {
            let error = QueryError::from(error);
            return Err(match error.kind {
                ErrorKind::Unavailable => error.at(format!("reading {place}")),
                // Such as a range beyond the end of the object.
                _ => lost(&format!("cannot be read: {}", error.message)),
            });
        }
    };
    if bytes.len() as u64 != length {
        return Err(lost(&format!("ends after {} of {length} bytes", bytes.len())));
    }
    if crc32fast::hash(&bytes) != crc {
        return Err(lost("has other bytes than were written"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::PutPayload;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;
    use crate::Stores;

    fn place() -> Location {
        Location::parse("s3://stack/exchange/7/1-2-3", std::path::Path::new("/")).unwrap()
    }

    fn stores() -> (Arc<QueryStores>, Arc<InMemory>) {
        let (stores, memory) = (Arc::new(Stores::default()), Arc::new(InMemory::new()));
        stores.replace(&place().store, Arc::clone(&memory) as _);
        (stores.for_stack(), memory)
    }

    /// Writes segments of one part and of several, and returns their bytes and ranges.
    async fn written(stores: &QueryStores) -> Vec<(Bytes, SegmentRange)> {
        let mut writer = SegmentWriter::create(stores, place()).unwrap();
        let mut segments = Vec::new();
        for (fill, length) in [(1_u8, 10_usize), (2, PART_BYTES), (3, 0), (4, PART_BYTES / 2)] {
            let bytes = Bytes::from(vec![fill; length]);
            segments.push((bytes.clone(), writer.write(bytes).await.unwrap()));
        }
        writer.finish().await.unwrap();
        segments
    }

    #[tokio::test]
    async fn segments_are_read_as_they_were_written() {
        let (stores, _) = stores();
        for (bytes, range) in written(&stores).await {
            if range.length > 0 {
                assert_eq!(read_segment(&stores, &place(), range).await.unwrap(), bytes);
            }
        }
    }

    #[tokio::test]
    async fn object_that_is_dropped_unfinished_does_not_exist() {
        let (stores, memory) = stores();
        for length in [10, PART_BYTES * 2] {
            let mut writer = SegmentWriter::create(&stores, place()).unwrap();
            writer.write(Bytes::from(vec![1; length])).await.unwrap();
            drop(writer);
            assert!(memory.head(&place().path).await.is_err(), "{length}");
        }
    }

    #[tokio::test]
    async fn missing_short_and_changed_objects_are_unavailable() {
        let (stores, memory) = stores();
        let range = written(&stores).await[1].1;
        let path: Path = place().path;
        for (how, bytes) in [("bytes than were written", vec![0; PART_BYTES * 2]), ("", vec![2; 20])] {
            memory.put(&path, PutPayload::from(bytes)).await.unwrap();
            let error = read_segment(&stores, &place(), range).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains(how) && error.to_string().contains("exchange/7/1-2-3"), "{error}");
        }
        memory.delete(&path).await.unwrap();
        let error = read_segment(&stores, &place(), range).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.to_string().contains("is missing"), "{error}");
    }
}
