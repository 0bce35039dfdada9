//! Detects the catalog type of a URI, for tables given without a type.

use std::path::Path;
use std::sync::Arc;

use buzz_protocol::{CatalogType, FileFormat, JsonFormat, Place, QueryError, Result};
use buzz_storage::text::sample;
use buzz_storage::{Location, QueryStores, full_path};
use futures::StreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::files::Target;
use crate::{files, parquet_files, stream, text_files, view};

/// Detects the catalog type of `uri`, in this order:
/// 1. `Stream` if it is the folder of a stream, `sources/NAME`, or the place of a materialized view,
///    `pipelines/PIPELINE/views/NAME`; `DeltaLake` if it contains a `_delta_log`.
/// 2. `Static` if it is a `.json` file with one object that lists `files`.
/// 3. The type of its file name extension (`.csv`, `.tsv`, `.jsonl`, `.json` and so on, also compressed). For a folder,
///    the type to which most bytes of its files belong.
/// 4. The type that the first bytes show, of the file or of the first file of the folder or glob: Parquet, JSON or CSV.
///
/// # Errors
/// `Invalid` if the URI is invalid, `Data` if the first bytes are those of a type that Buzz does not read.
pub(crate) async fn kind_of(uri: &str, base: &Path, stores: &QueryStores) -> Result<CatalogType> {
    let Target { root: place, pattern } = files::target(uri, base, stores).await?;
    let store = stores.store(&place.store)?;
    if pattern.is_some() {
        if let Some(kind) = kind_by_name(uri) {
            return Ok(kind);
        }
        let found = files::find(uri, &[], base, stores).await?.files;
        return kind_of_files(&found, &place, &store).await;
    }
    if stream::is_stream(&place, stores).await? || view::is_view(&place, stores).await? {
        return Ok(CatalogType::Stream);
    }
    let found = store.list(Some(&place.join("_delta_log")?.path)).next().await;
    if matches!(found, Some(Ok(_))) {
        return Ok(CatalogType::DeltaLake);
    }
    if let Some(kind) = kind_by_name(uri) {
        let manifest = kind == CatalogType::Json && uri.ends_with(".json") && is_manifest(&place, stores).await;
        return Ok(if manifest { CatalogType::Static } else { kind });
    }
    let found = match store.head(&place.path).await {
        Ok(file) => vec![file],
        Err(_) => files::visible(&place, store.as_ref()).await.unwrap_or_default(),
    };
    kind_of_files(&found, &place, &store).await
}

/// Detects the type of `found`, the files of a folder or a glob, from their names. If no name tells it, detects it from
/// the first bytes of the first file that is not empty.
async fn kind_of_files(found: &[ObjectMeta], place: &Location, store: &Arc<dyn ObjectStore>) -> Result<CatalogType> {
    if found.iter().any(|file| files::has_known_ending(file.location.as_ref())) {
        return Ok(kind_of_most_bytes(found));
    }
    let is_plain = |file: &&ObjectMeta| files::ending(file.location.as_ref()).is_none() || found.len() == 1;
    let first = found.iter().filter(is_plain).filter(|file| file.size > 0).min_by_key(|file| &file.location);
    let Some(first) = first else { return Ok(CatalogType::Parquet) };
    let path = full_path(&place.store, first.location.as_ref());
    kind_of_content(first, store).await.map_err(|error| error.at(Place::File { path, table: None }))
}

/// First bytes of files of other programs, and the names of their formats.
const OTHER_FORMATS: [(&[u8], &str); 5] =
    [(b"Obj\x01", "Avro"), (b"ORC", "ORC"), (b"ARROW1", "Arrow"), (b"PK\x03\x04", "zip or Excel"), (b"%PDF", "PDF")];

/// Bytes of text that are read to tell JSON from CSV.
const CONTENT_BYTES: usize = 4 << 10;

async fn kind_of_content(file: &ObjectMeta, store: &Arc<dyn ObjectStore>) -> Result<CatalogType> {
    let head = store.get_range(&file.location, 0..file.size.min(8)).await?;
    if head.starts_with(b"PAR1") || head.starts_with(b"PARE") {
        return Ok(CatalogType::Parquet);
    }
    if let Some((_, format)) = OTHER_FORMATS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(QueryError::data(format!("it is a file of format {format}; Buzz reads Parquet, CSV and JSON")));
    }
    let start = sample(store, file, &FileFormat::Json(JsonFormat::default()), CONTENT_BYTES).await?;
    let is_json = start.text.trim_ascii_start().starts_with(b"{");
    Ok(if is_json { CatalogType::Json } else { CatalogType::Csv })
}

/// Returns the kind to which most bytes of `files` belong, whatever their order; `Parquet` without any. Files that end
/// in `.txt` count only if there are no others.
fn kind_of_most_bytes(files: &[ObjectMeta]) -> CatalogType {
    let is_text = |file: &ObjectMeta| files::ending(file.location.as_ref()).as_deref() == Some(files::TEXT_END);
    let bytes = |kind: CatalogType| -> Option<u64> {
        let own = files.iter().filter(|file| !is_text(file) && kind_by_name(file.location.as_ref()) == Some(kind));
        // Empty files count as well, if there is nothing else.
        own.map(|file| file.size + 1).reduce(|sum, size| sum.saturating_add(size))
    };
    // Of equals, the last one wins.
    let kinds = [CatalogType::Json, CatalogType::Csv, CatalogType::Parquet];
    let most = kinds.into_iter().filter_map(|kind| Some((bytes(kind)?, kind))).max_by_key(|(bytes, _)| *bytes);
    let text = || files.iter().any(is_text).then_some(CatalogType::Csv);
    most.map(|(_, kind)| kind).or_else(text).unwrap_or(CatalogType::Parquet)
}

fn kind_by_name(path: &str) -> Option<CatalogType> {
    let ending = files::ending(path)?;
    let kinds = [
        (parquet_files::ENDS, CatalogType::Parquet),
        (text_files::CSV_ENDS, CatalogType::Csv),
        (text_files::JSON_ENDS, CatalogType::Json),
    ];
    kinds.into_iter().find_map(|(ends, kind)| ends.contains(&&*ending).then_some(kind))
}

/// Bytes of a JSON file that are read first, to avoid reading a large file of JSON lines whole.
const MANIFEST_HEAD_BYTES: u64 = 256 << 10;

/// Returns whether the file is one JSON object with a list `files`. A file of JSON lines has several values, so it is
/// not.
async fn is_manifest(place: &Location, stores: &QueryStores) -> bool {
    let Ok(store) = stores.store(&place.store) else {
        return false;
    };
    // A large file is JSON lines if its first line is a complete value.
    let Ok(head) = store.get_range(&place.path, 0..MANIFEST_HEAD_BYTES).await else {
        return false;
    };
    let first_line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let lines = head.len() as u64 == MANIFEST_HEAD_BYTES && first_line.len() < head.len();
    if lines && serde_json::from_slice::<serde_json::Value>(first_line).is_ok() {
        return false;
    }
    let Ok(bytes) = stores.read(place).await else {
        return false;
    };
    let value: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
    value.is_ok_and(|value| value.get("files").is_some_and(serde_json::Value::is_array))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn kind(files: &[(&str, u64)]) -> CatalogType {
        let file = |(name, size): &(&str, u64)| ObjectMeta {
            location: format!("t/{name}").into(),
            last_modified: DateTime::UNIX_EPOCH,
            size: *size,
            e_tag: None,
            version: None,
        };
        let files: Vec<ObjectMeta> = files.iter().map(file).collect();
        let mut reversed = files.clone();
        reversed.reverse();
        assert_eq!(kind_of_most_bytes(&files), kind_of_most_bytes(&reversed), "the order of files does not matter");
        kind_of_most_bytes(&files)
    }

    #[test]
    fn kind_of_most_bytes_is_the_kind_of_a_folder() {
        assert_eq!(kind(&[("expected.json", 9_000), ("a.parquet", 10_000)]), CatalogType::Parquet);
        assert_eq!(kind(&[("a.csv", 20), ("b.csv.gz", 30), ("c.parquet", 40)]), CatalogType::Csv);
        assert_eq!(kind(&[("README.txt", 50_000), ("part-0.parquet", 40)]), CatalogType::Parquet);
        assert_eq!(kind(&[("a.txt", 5), ("b.txt", 0)]), CatalogType::Csv);
        assert_eq!(kind(&[("a.jsonl", 0)]), CatalogType::Json);
        assert_eq!(kind(&[]), CatalogType::Parquet);
    }
}
