//! Locates the deletion vector of a file, which lists its deleted rows.

use buzz_protocol::{DeletionVector, QueryError, Result};
use bytes::{BufMut, Bytes, BytesMut};
use deltalake::kernel::{DeletionVectorDescriptor, StorageType};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::paths::FilePaths;

/// Length of the encoded UUID at the end of a relative deletion vector's name.
const UUID_LENGTH: usize = 20;

/// Magic number of a `RoaringBitmapArray`.
const DELETION_VECTOR_MAGIC: u32 = 1_681_511_377;

/// Converts a deletion vector of the log to its location, or its bytes if it is inline.
///
/// # Errors
/// `Data` if the descriptor is invalid.
pub(super) fn vector(paths: &mut FilePaths<'_>, descriptor: &DeletionVectorDescriptor) -> Result<DeletionVector> {
    let table = paths.table().to_string();
    let bad = |why: &str| QueryError::data(format!("Delta table {table}: a deletion vector {why}"));
    let text = descriptor.path_or_inline_dv.as_str();
    let cardinality = u64::try_from(descriptor.cardinality).map_err(|_| bad("has a negative cardinality"))?;
    let path = match descriptor.storage_type {
        StorageType::Inline => {
            let bytes = inline_bytes(text, descriptor.size_in_bytes).ok_or_else(|| bad("is not valid Base85"))?;
            return Ok(DeletionVector::Inline { bytes, cardinality });
        }
        StorageType::UuidRelativePath => {
            let split = text.len().checked_sub(UUID_LENGTH).filter(|at| text.is_char_boundary(*at));
            let (prefix, encoded) = text.split_at(split.ok_or_else(|| bad("has a name that is too short"))?);
            let uuid = z85::decode(encoded).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
            let uuid = uuid.ok_or_else(|| bad("has a name that is not valid Base85"))?;
            let slash = if prefix.is_empty() { "" } else { "/" };
            paths.path(&format!("{prefix}{slash}deletion_vector_{uuid}.bin"))?
        }
        StorageType::AbsolutePath => {
            // A URI-encoded path. The paths of data files are URI-encoded too, but delta-rs decodes them.
            let decoded = percent_decode_str(text).decode_utf8().map_err(|_| bad("has a path that is not UTF-8"))?;
            paths.path(&decoded)?
        }
    };
    Ok(DeletionVector::File {
        path,
        offset: u64::try_from(descriptor.offset.unwrap_or_default()).map_err(|_| bad("has a negative offset"))?,
        size: u64::try_from(descriptor.size_in_bytes).map_err(|_| bad("has a negative size"))?,
        cardinality,
    })
}

/// Decodes inline bytes and truncates them to their length, because Base85 pads to four bytes. Adds the magic number in
/// front if it is missing, so that they have the form of bytes in a file.
fn inline_bytes(text: &str, size_in_bytes: i32) -> Option<Bytes> {
    let mut decoded = z85::decode(text).ok()?;
    decoded.truncate(usize::try_from(size_in_bytes).ok()?);
    if decoded.starts_with(&DELETION_VECTOR_MAGIC.to_le_bytes()) {
        return Some(Bytes::from(decoded));
    }
    let mut with_magic = BytesMut::with_capacity(decoded.len() + 4);
    with_magic.put_u32_le(DELETION_VECTOR_MAGIC);
    with_magic.extend_from_slice(&decoded);
    Some(with_magic.freeze())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use buzz_storage::Location;

    use super::*;

    #[test]
    fn relative_deletion_vector_resolves_to_the_path_in_the_protocol() {
        // The example of PROTOCOL.md, "Derived Fields".
        let place = Location::parse("/t", Path::new("/")).unwrap();
        let descriptor = DeletionVectorDescriptor {
            storage_type: StorageType::UuidRelativePath,
            path_or_inline_dv: "ab^-aqEH.-t@S}K{vb[*k^".to_string(),
            offset: Some(4),
            size_in_bytes: 40,
            cardinality: 6,
        };
        let path = "t/ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin".to_string();
        let expected = DeletionVector::File { path, offset: 4, size: 40, cardinality: 6 };
        assert_eq!(vector(&mut FilePaths::of(&place), &descriptor).unwrap(), expected);
    }
}
