//! Names of files. The name of a state or output file starts with the epoch that it was written for, so garbage
//! collection can decide about a file without opening it.
//!
//! ```text
//! <root>/sources/<source>/{source.json, inbox/<part>/<uuid7>, log/<n>.json, starts/<n>.json, readers/<reader>.json}
//! <root>/pipelines/<pipeline>/latest.json
//! <root>/pipelines/<pipeline>/inbox/<source>/<n>.json
//! <root>/pipelines/<pipeline>/v<k>/{pipeline.json, epochs/<e>.json}
//! <root>/pipelines/<pipeline>/v<k>/state/<stage>/<e>-<uuid>.<ext>
//! <root>/pipelines/<pipeline>/v<k>/output/<sink>/<e>-<uuid>.<ext>
//! ```

use buzz_protocol::{QueryError, Result};
use object_store::path::Path;
use uuid::Uuid;

/// Digits of a number in a name. All numbers of 64 bits fit, so names sort by number.
const DIGITS: usize = 20;

/// Hexadecimal digits of a segment's name that name its folder, and the bits of its time that they leave out: the name
/// begins with 12 digits of 48 bits of milliseconds.
const INBOX_PART_DIGITS: usize = 7;
const INBOX_PART_BITS: u32 = 20;

/// Maximum length of the name of a pipeline or a source.
pub const NAME_BYTES_MAX: usize = 128;

pub(crate) fn pipeline_folder(root: &Path, pipeline: &str) -> Path {
    root.clone().join("pipelines").join(pipeline)
}

/// Returns the folder of the messages that a pipeline has received for its table `source`.
pub fn inbox_folder(root: &Path, pipeline: &str, source: &str) -> Path {
    pipeline_folder(root, pipeline).join("inbox").join(source)
}

pub(crate) fn source_folder(root: &Path, source: &str) -> Path {
    sources_folder(root).join(source)
}

pub(crate) fn sources_folder(root: &Path) -> Path {
    root.clone().join("sources")
}

/// Returns the folder, within the inbox, of a segment: one for each 2^20 ms, about 17 minutes, of the time in its name. So
/// a listing of new segments does not read the names of all old ones.
pub(crate) fn inbox_part(segment: &str) -> &str {
    segment.get(..INBOX_PART_DIGITS).unwrap_or(segment)
}

/// Returns the folders, within the inbox, of segments whose times are from `from_ms` to `to_ms`.
pub(crate) fn inbox_parts(from_ms: i64, to_ms: i64) -> impl ExactSizeIterator<Item = String> {
    let part = |ms: i64| u32::try_from((ms.max(0) >> INBOX_PART_BITS) & ((1 << 28) - 1)).unwrap_or_default();
    (part(from_ms)..part(to_ms).saturating_add(1)).map(|part| format!("{part:0INBOX_PART_DIGITS$x}"))
}

pub(crate) fn version_folder(pipeline: &Path, version: u64) -> Path {
    pipeline.clone().join(format!("v{version}"))
}

pub(crate) fn manifest(pipeline: &Path, version: u64) -> Path {
    version_folder(pipeline, version).join("pipeline.json")
}

pub(crate) fn hint(pipeline: &Path) -> Path {
    pipeline.clone().join("latest.json")
}

pub(crate) fn record(pipeline: &Path, version: u64, epoch: u64) -> Path {
    version_folder(pipeline, version).join("epochs").join(numbered(epoch))
}

/// Returns `<n:020>.json`.
pub(crate) fn numbered(n: u64) -> String {
    format!("{n:0DIGITS$}.json")
}

/// Returns `<epoch:020>-<id>.<ext>`.
pub(crate) fn file(epoch: u64, id: Uuid, ext: &str) -> String {
    format!("{epoch:0DIGITS$}-{id}.{ext}")
}

/// Returns a path that sorts before all files of `folder` for `epoch` or a later one, and after all earlier ones.
pub(crate) fn before_epoch(folder: &Path, epoch: u64) -> Path {
    folder.clone().join(format!("{epoch:0DIGITS$}"))
}

/// Returns the epoch that the file was written for; `None` if this crate did not make the name.
pub fn epoch_of(path: &Path) -> Option<u64> {
    let name = path.filename()?;
    let (digits, rest) = name.split_at_checked(DIGITS)?;
    let made = digits.bytes().all(|byte| byte.is_ascii_digit()) && rest.starts_with('-');
    if made { digits.parse().ok() } else { None }
}

/// Checks the name of a pipeline or a source, which becomes a folder.
pub(crate) fn check(kind: &str, name: &str) -> Result<()> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if plain && (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') {
        return Ok(());
    }
    Err(QueryError::invalid(format!(
        "`{name}` cannot name a {kind}; use 1 to {NAME_BYTES_MAX} letters, digits, `_`, `-` and `.`, and no `.` first"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_name_returns_its_epoch() {
        let folder = Path::from("p/v1/state/count");
        let at = |epoch| folder.clone().join(file(epoch, Uuid::nil(), "parquet"));
        for epoch in [0, 1, 12_345, u64::MAX] {
            assert_eq!(epoch_of(&at(epoch)), Some(epoch));
        }
        assert!(at(9) < before_epoch(&folder, 10) && before_epoch(&folder, 10) < at(10));
    }

    #[test]
    fn segments_are_in_the_folders_of_their_times() {
        let ids = crate::clock::Ids::seeded(1);
        for ms in [0, 1_000_000, 1_048_575, 1_048_576, 1_800_000_000_123] {
            let name = ids.next_at(ms).to_string();
            assert_eq!(inbox_parts(ms, ms).collect::<Vec<_>>(), [inbox_part(&name)]);
        }
        assert_eq!(inbox_parts(1_048_575, 3 << 20).collect::<Vec<_>>(), ["0000000", "0000001", "0000002", "0000003"]);
        assert_eq!(inbox_parts(5 << 20, 3 << 20).len(), 0);
    }

    #[test]
    fn foreign_names_have_no_epoch() {
        for name in ["readme", "00000000000000000001", "0000000000000000000x-a", "99999999999999999999-a", "ä", ""] {
            assert_eq!(epoch_of(&Path::from(format!("state/{name}"))), None, "{name}");
        }
    }

    #[test]
    fn names_that_are_no_folders_are_rejected() {
        for name in ["busy_auctions", "a.b-C9"] {
            check("pipeline", name).unwrap();
        }
        for name in ["", ".", "..", ".hidden", "a/b", "größe", "a b", &"x".repeat(129)] {
            assert!(check("pipeline", name).unwrap_err().message.contains("cannot name a pipeline"), "{name}");
        }
    }
}
