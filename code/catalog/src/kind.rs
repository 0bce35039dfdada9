//! Detects the catalog type of a URI, for tables given without a type.

use std::path::Path;

use buzz_protocol::{CatalogType, Result};
use buzz_storage::{Location, Storage};
use futures::StreamExt;
use object_store::ObjectStoreExt;

use crate::{files, parquet_files, text_files};

/// Detects the catalog type of `uri`, in this order:
/// 1. `DeltaLake` if it contains a `_delta_log`.
/// 2. `Static` if it is a `.json` file with one object that lists `files`.
/// 3. The type of its file name extension, or of a file in the folder (`.csv`, `.tsv`, `.jsonl`, `.json` and so on,
///    also compressed). For a glob, only this is checked.
/// 4. `Parquet`.
///
/// # Errors
/// `Invalid` if the URI is invalid.
pub async fn kind_of(uri: &str, base: &Path, storage: &Storage) -> Result<CatalogType> {
    if uri.contains(['*', '?', '[']) {
        return Ok(kind_by_name(uri).unwrap_or(CatalogType::Parquet));
    }
    let place = Location::parse(uri, base)?;
    let store = storage.store(&place.store)?;
    let found = store.list(Some(&place.join("_delta_log")?.path)).next().await;
    if matches!(found, Some(Ok(_))) {
        return Ok(CatalogType::DeltaLake);
    }
    if let Some(kind) = kind_by_name(uri) {
        let manifest = kind == CatalogType::Json && uri.ends_with(".json") && is_manifest(&place, storage).await;
        return Ok(if manifest { CatalogType::Static } else { kind });
    }
    let files = files::visible(&place, store.as_ref()).await.unwrap_or_default();
    Ok(files.iter().find_map(|file| kind_by_name(file.location.as_ref())).unwrap_or(CatalogType::Parquet))
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
async fn is_manifest(place: &Location, storage: &Storage) -> bool {
    let Ok(store) = storage.store(&place.store) else {
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
    let Ok(bytes) = storage.read(place).await else {
        return false;
    };
    let value: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
    value.is_ok_and(|value| value.get("files").is_some_and(serde_json::Value::is_array))
}
