//! Deleted rows: converts a deletion vector to a selection of the remaining rows of a Parquet file.

use std::ops::Range;

use buzz_protocol::{DeletionVector, QueryError, Result};
use bytes::Bytes;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::RowSelection;
use roaring::RoaringTreemap;

/// Magic number of a `RoaringBitmapArray` in its portable form.
const MAGIC: u32 = 1_681_511_377;

/// Returns the selection of rows that `vector` does not delete, for the Parquet reader. `path` is the data file, which
/// has `row_count` rows.
///
/// # Errors
/// `Data` if the vector cannot be decoded or names rows beyond the end of the file.
pub async fn remaining_rows(
    vector: &DeletionVector,
    store: &dyn ObjectStore,
    path: &str,
    row_count: usize,
) -> Result<ParquetRowSelection> {
    let (bytes, cardinality) = match vector {
        DeletionVector::Inline { bytes, cardinality } => (bytes.clone(), *cardinality),
        DeletionVector::File { path, offset, size, cardinality } => {
            let place = Path::parse(path).map_err(|error| bad(&format!("`{path}` is not a valid path: {error}")))?;
            // Layout: a big-endian length, the bytes, a CRC-32 of the bytes.
            let end = size.checked_add(8).and_then(|length| offset.checked_add(length));
            let end = end.ok_or_else(|| bad(&format!("of `{path}` has an impossible place")))?;
            let stored = store.get_range(&place, *offset..end).await?;
            (checked(&stored, *size).map_err(|why| bad(&format!("`{path}` {why}")))?, *cardinality)
        }
    };
    let deleted = parse(&bytes).map_err(|why| bad(&format!("of `{path}` {why}")))?;
    if deleted.len() != cardinality {
        return Err(bad(&format!("of `{path}` deletes {} rows, but the log records {cardinality}", deleted.len())));
    }
    if deleted.max().is_some_and(|last| last >= row_count as u64) {
        return Err(bad(&format!("of `{path}` deletes rows beyond the file's {row_count}")));
    }
    let kept = RowSelection::from_consecutive_ranges(gaps(&deleted, row_count).into_iter(), row_count);
    Ok(ParquetRowSelection::new(kept))
}

fn bad(what: &str) -> QueryError {
    QueryError::data(format!("deletion vector {what}"))
}

fn checked(stored: &Bytes, size: u64) -> Result<Bytes, String> {
    let size = usize::try_from(size).map_err(|_| "is too large".to_string())?;
    let length = stored.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    if length.map(|length| length as usize) != Some(size) || stored.len().checked_sub(8) != Some(size) {
        return Err(format!("does not have the {size} bytes that the log records"));
    }
    let bytes = stored.slice(4..4 + size);
    let sum = stored[4 + size..].try_into().map(u32::from_be_bytes);
    if sum.ok() != Some(crc32fast::hash(&bytes)) {
        return Err("is corrupt: its checksum does not match".to_string());
    }
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<RoaringTreemap, String> {
    let magic = bytes.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    if magic != Some(MAGIC) {
        return Err("does not start with the magic number".to_string());
    }
    RoaringTreemap::deserialize_from(&bytes[4..]).map_err(|error| format!("cannot be decoded: {error}"))
}

/// Returns the ranges of rows that are not deleted.
fn gaps(deleted: &RoaringTreemap, row_count: usize) -> Vec<Range<usize>> {
    let mut kept = Vec::new();
    let mut next = 0;
    for row in deleted {
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        if row > next {
            kept.push(next..row);
        }
        next = row.saturating_add(1);
    }
    if next < row_count {
        kept.push(next..row_count);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_outside_the_deletion_vector_are_kept() {
        let deleted: RoaringTreemap = [0, 3, 4, 9].into_iter().collect();
        assert_eq!(gaps(&deleted, 10), [1..3, 5..9]);
        assert_eq!(gaps(&deleted, 12), [1..3, 5..9, 10..12]);
        assert_eq!(gaps(&RoaringTreemap::new(), 2).len(), 1);
    }

    #[tokio::test]
    async fn impossible_place_of_a_deletion_vector_is_rejected() {
        let store = object_store::memory::InMemory::new();
        for (offset, size) in [(u64::MAX, 1), (1, u64::MAX), (u64::MAX - 8, 1)] {
            let vector = DeletionVector::File { path: "a.bin".to_string(), offset, size, cardinality: 1 };
            let error = remaining_rows(&vector, &store, "a.parquet", 9).await.unwrap_err();
            assert!(error.message.contains("of `a.bin` has an impossible place"), "{error}");
        }
    }

    #[test]
    fn corrupt_deletion_vectors_are_rejected() {
        assert!(parse(b"").unwrap_err().contains("magic"));
        assert!(parse(&[1, 2, 3, 4, 5]).unwrap_err().contains("magic"));
        let mut truncated = MAGIC.to_le_bytes().to_vec();
        truncated.extend_from_slice(&[1, 0, 0]);
        assert!(parse(&truncated).unwrap_err().contains("cannot be decoded"));
        assert!(checked(&Bytes::from_static(&[0, 0, 0, 9, 1, 2]), 9).is_err());
        let mut stored = [&[0, 0, 0, 2, 7, 8][..], &crc32fast::hash(&[7, 8]).to_be_bytes()].concat();
        assert_eq!(checked(&Bytes::from(stored.clone()), 2).unwrap(), [7, 8][..]);
        stored[4] ^= 1;
        assert!(checked(&Bytes::from(stored), 2).unwrap_err().contains("checksum"));
    }
}
