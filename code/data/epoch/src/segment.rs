//! Segments: rows as they arrived at a source, in one object with a header.
//!
//! ```text
//! "buzzseg1" | length of the header: u32, little endian | header: JSON | payload
//! ```

use buzz_protocol::{QueryError, Result, RowRun};
use bytes::{BufMut, Bytes, BytesMut};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::record::decode;
use crate::seal::{Sealed, SealedRows};

/// Maximum size of a segment's payload.
pub const SEGMENT_BYTES_MAX: usize = 64 << 20;

/// Maximum number of parts of a segment.
pub const PARTS_MAX: usize = 4096;

/// Maximum length of an idempotency key and of the name of a producer.
pub const KEY_BYTES_MAX: usize = 256;

/// Bytes that are read to get a header. A longer header costs a second request.
pub(crate) const HEADER_READ_BYTES: u64 = 16 << 10;

const MAGIC: &[u8] = b"buzzseg1";
const PREFIX: usize = MAGIC.len() + 4;

/// The rows of one request in a segment. Parts follow each other, so the first row of a part is the sum of the rows
/// before it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    /// The idempotency key of the request. Rows of a key that was sealed before are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The digest of the rows of a request with a key, by which other rows with the same key are noticed. Earlier versions kept
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<u64>,
    /// The producer, which has a watermark of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// The format of the rows, if it is not the one of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Number of rows.
    pub rows: u64,
    /// Number of bytes in the payload.
    pub bytes: u64,
    /// The smallest event time in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_us: Option<i64>,
    /// The largest event time in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_us: Option<i64>,
}

impl Part {
    /// Returns true if `other`, a part of a segment, is this sealed one. An earlier version has sealed it without its digest.
    fn is(&self, other: &Self) -> bool {
        self == other || (self.digest.is_none() && *self == Self { digest: None, ..other.clone() })
    }
}

/// Rows of one or more requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Segment {
    /// The requests.
    pub parts: Vec<Part>,
    /// All rows: those of each part follow those of the part before it.
    pub payload: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// The name of the segment; empty if an earlier build wrote it.
    #[serde(default)]
    name: String,
    parts: Vec<Part>,
}

impl Segment {
    /// Encodes the segment `name` and checks its bounds.
    ///
    /// # Errors
    /// `Limit`, which names the bound.
    pub(crate) fn encode(&self, name: &str) -> Result<Bytes> {
        let texts = self.parts.iter().flat_map(|part| [&part.key, &part.producer, &part.format]).flatten();
        let bounds = [
            ("bytes", self.payload.len(), SEGMENT_BYTES_MAX),
            ("requests", self.parts.len(), PARTS_MAX),
            (
                "bytes in an idempotency key, a producer or a format",
                texts.map(String::len).max().unwrap_or(0),
                KEY_BYTES_MAX,
            ),
        ];
        for (unit, actual, max) in bounds {
            if actual > max {
                return Err(QueryError::limit(format!(
                    "the segment has {actual} {unit}, more than the {max} allowed; send less at once"
                )));
            }
        }
        let header = serde_json::to_vec(&Header { name: name.to_string(), parts: self.parts.clone() })
            .map_err(|error| QueryError::internal(format!("the header of a segment cannot be encoded: {error}")))?;
        let mut bytes = BytesMut::with_capacity(PREFIX + header.len() + self.payload.len());
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(u32::try_from(header.len()).expect("a bounded number of bounded parts is below 4 GiB"));
        bytes.put_slice(&header);
        bytes.put_slice(&self.payload);
        Ok(bytes.freeze())
    }

    /// Returns the parts that `sealed` counts, each with its bytes. Bytes are known if [`Part::bytes`] was set.
    ///
    /// # Errors
    /// `Data` if the segment does not have these parts.
    pub fn counted(&self, sealed: &Sealed) -> Result<Vec<(&Part, Bytes)>> {
        let is_wanted = |rows: &&SealedRows, row: u64, part: &Part| rows.from == row && rows.part.is(part);
        self.selected(&sealed.segment, &mut sealed.rows.iter(), &is_wanted)
    }

    /// Returns the parts of `runs` in the segment `object`, which is in `path`, each with its bytes.
    ///
    /// # Errors
    /// `Data` if the object is not a segment, or does not have these parts.
    pub fn runs(path: &Path, object: &Bytes, runs: &[RowRun]) -> Result<Vec<(Part, Bytes)>> {
        let segment = Self::decode(path, object)?;
        let is_wanted =
            |run: &&RowRun, row: u64, part: &Part| (run.from, run.rows, run.bytes) == (row, part.rows, part.bytes);
        let selected = segment.selected(path.as_ref(), &mut runs.iter(), &is_wanted)?;
        Ok(selected.into_iter().map(|(part, bytes)| (part.clone(), bytes)).collect())
    }

    /// Returns the parts that `wanted` names in their order, by `is_wanted`, which gets the first row of a part too.
    fn selected<T>(
        &self,
        name: &str,
        wanted: &mut dyn Iterator<Item = T>,
        is_wanted: &dyn Fn(&T, u64, &Part) -> bool,
    ) -> Result<Vec<(&Part, Bytes)>> {
        let wrong =
            || QueryError::data(format!("segment `{name}` does not have the rows that the log names; restore it"));
        let mut wanted = wanted.peekable();
        let (mut row, mut byte) = (0_u64, 0_usize);
        let mut counted = Vec::new();
        for part in &self.parts {
            let end = usize::try_from(part.bytes).ok().and_then(|bytes| byte.checked_add(bytes)).ok_or_else(wrong)?;
            if wanted.next_if(|rows| is_wanted(rows, row, part)).is_some() {
                if end > self.payload.len() {
                    return Err(wrong());
                }
                counted.push((part, self.payload.slice(byte..end)));
            }
            (row, byte) = (row.saturating_add(part.rows), end);
        }
        if wanted.next().is_some() { Err(wrong()) } else { Ok(counted) }
    }

    /// Decodes the segment in `path`.
    ///
    /// # Errors
    /// `Data` if the object is not a segment.
    pub(crate) fn decode(path: &Path, bytes: &Bytes) -> Result<Segment> {
        let end = header_end(path, bytes)?;
        let parts = parts(path, bytes.get(..end).ok_or_else(|| damaged(path))?)?;
        Ok(Segment { parts, payload: bytes.slice(end..) })
    }
}

/// Returns where the header ends, from the first bytes of the segment in `path`.
pub(crate) fn header_end(path: &Path, bytes: &[u8]) -> Result<usize> {
    let prefix = bytes.get(..PREFIX).filter(|prefix| prefix.starts_with(MAGIC)).ok_or_else(|| damaged(path))?;
    let length: [u8; 4] = prefix[MAGIC.len()..].try_into().expect("the prefix ends with 4 bytes");
    usize::try_from(u32::from_le_bytes(length))
        .ok()
        .and_then(|length| length.checked_add(PREFIX))
        .ok_or_else(|| damaged(path))
}

/// Decodes the parts from the bytes of a whole header.
pub(crate) fn parts(path: &Path, bytes: &[u8]) -> Result<Vec<Part>> {
    let header: Header = decode(path, &bytes[PREFIX..])?;
    if !header.name.is_empty() && path.filename() != Some(header.name.as_str()) {
        return Err(QueryError::data(format!("`{path}` has the rows of segment `{}`; restore it", header.name)));
    }
    Ok(header.parts)
}

fn damaged(path: &Path) -> QueryError {
    QueryError::data(format!("`{path}` is not a segment, or only a part of one; restore it"))
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use super::*;
    use crate::seal::SealedRows;

    fn segment() -> Segment {
        let part = Part {
            key: Some("k".into()),
            digest: Some(u64::MAX),
            producer: Some("p".into()),
            format: Some("csv".into()),
            rows: 2,
            bytes: 4,
            min_us: Some(1),
            max_us: Some(9),
        };
        Segment {
            parts: vec![part, Part { rows: 1, bytes: 2, ..Default::default() }],
            payload: Bytes::from_static(b"a\nb\nc\n"),
        }
    }

    #[test]
    fn segment_survives_encoding() {
        let bytes = segment().encode("s").unwrap();
        assert_eq!(Segment::decode(&Path::from("s"), &bytes).unwrap(), segment());
    }

    #[test]
    fn segment_without_digests_is_readable() {
        let header = br#"{"parts":[{"key":"k","rows":1,"bytes":2}]}"#;
        let length = u32::try_from(header.len()).unwrap().to_le_bytes();
        let bytes = Bytes::from([MAGIC, &length, header, b"a\n"].concat());
        let part = Part { key: Some("k".into()), rows: 1, bytes: 2, ..Default::default() };
        assert_eq!(Segment::decode(&Path::from("s"), &bytes).unwrap().parts, [part]);
    }

    #[test]
    fn counted_parts_have_their_bytes() {
        let segment = segment();
        let sealed = |from: u64, part: usize| Sealed {
            segment: "s".into(),
            rows: vec![SealedRows { from, part: segment.parts[part].clone() }],
        };
        let bytes = |sealed| segment.counted(&sealed).map(|parts| parts[0].1.clone());
        assert_eq!(bytes(sealed(0, 0)).unwrap(), "a\nb\n");
        assert_eq!(bytes(sealed(2, 1)).unwrap(), "c\n");
        for wrong in [sealed(1, 1), sealed(2, 0)] {
            assert_eq!(segment.counted(&wrong).unwrap_err().kind, ErrorKind::Data);
        }
        let short = Segment { payload: segment.payload.slice(..5), ..segment.clone() };
        assert_eq!(short.counted(&sealed(2, 1)).unwrap_err().kind, ErrorKind::Data);
    }

    #[test]
    fn damaged_segment_is_an_error_at_each_length() {
        let bytes = segment().encode("s").unwrap();
        let whole = bytes.len() - segment().payload.len();
        for length in 0..whole {
            let error = Segment::decode(&Path::from("inbox/s"), &bytes.slice(..length)).unwrap_err();
            assert!(error.kind == ErrorKind::Data && error.message.contains("inbox/s"), "{error}");
        }
        let mut other = bytes.to_vec();
        other[0] ^= 1;
        assert!(Segment::decode(&Path::from("s"), &other.into()).is_err());
    }

    #[test]
    fn segment_under_the_name_of_another_is_an_error() {
        let bytes = segment().encode("s").unwrap();
        let error = Segment::decode(&Path::from("inbox/t"), &bytes).unwrap_err().message;
        assert!(error.contains("`inbox/t` has the rows of segment `s`"), "{error}");
        let unnamed = segment().encode("").unwrap();
        assert_eq!(Segment::decode(&Path::from("inbox/t"), &unnamed).unwrap(), segment(), "an earlier build wrote it");
    }

    #[test]
    fn segment_beyond_a_bound_is_rejected() {
        let long = Part { key: Some("x".repeat(KEY_BYTES_MAX + 1)), ..Default::default() };
        for segment in [
            Segment { payload: vec![0; SEGMENT_BYTES_MAX + 1].into(), ..Default::default() },
            Segment { parts: vec![Part::default(); PARTS_MAX + 1], ..Default::default() },
            Segment { parts: vec![long], ..Default::default() },
        ] {
            assert_eq!(segment.encode("s").unwrap_err().kind, ErrorKind::Limit);
        }
    }
}
