//! Detects the catalog type of a URI, for tables given without a type.

use std::path::Path;

use buzz_protocol::{CatalogType, Result};
use buzz_storage::{Location, QueryStores};
use futures::StreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};

use crate::{files, parquet_files, text_files};

/// Detects the catalog type of `uri`, in this order:
/// 1. `DeltaLake` if it contains a `_delta_log`.
/// 2. `Static` if it is a `.json` file with one object that lists `files`.
/// 3. The type of its file name extension (`.csv`, `.tsv`, `.jsonl`, `.json` and so on, also compressed). For a glob,
///    only this is checked. For a folder, the type to which most bytes of its files belong.
/// 4. `Parquet`.
///
/// # Errors
/// `Invalid` if the URI is invalid.
pub(crate) async fn kind_of(uri: &str, base: &Path, stores: &QueryStores) -> Result<CatalogType> {
    if uri.contains(['*', '?', '[']) {
        return Ok(kind_by_name(uri).unwrap_or(CatalogType::Parquet));
    }
    let place = Location::parse(uri, base)?;
    let store = stores.store(&place.store)?;
    let found = store.list(Some(&place.join("_delta_log")?.path)).next().await;
    if matches!(found, Some(Ok(_))) {
        return Ok(CatalogType::DeltaLake);
    }
    if let Some(kind) = kind_by_name(uri) {
        let manifest = kind == CatalogType::Json && uri.ends_with(".json") && is_manifest(&place, stores).await;
        return Ok(if manifest { CatalogType::Static } else { kind });
    }
    let files = files::visible(&place, store.as_ref()).await.unwrap_or_default();
    Ok(kind_of_most_bytes(&files))
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
