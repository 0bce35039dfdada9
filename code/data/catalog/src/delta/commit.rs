//! Reads one commit of a log: the files that it appended, and whether it removed rows.

use std::collections::HashMap;

use buzz_protocol::{QueryError, Result};
use buzz_storage::{Location, QueryStores, unpanicked};
use bytes::Bytes;
use deltalake::kernel::Action;
use deltalake::logstore::get_actions;
use futures::TryStreamExt;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use url::Url;

use super::{failure, paths::FilePaths, protocol};

/// The effect of one commit on the rows of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaCommit {
    /// Files with new rows, sorted by path. Files that a compaction wrote have none and are not among them.
    pub appended: Vec<AppendedFile>,
    /// The commit removed or changed rows that were in the table before.
    pub removes_rows: bool,
    /// The operation that wrote the commit, such as `DELETE`, if the log names it.
    pub operation: Option<String>,
    /// Names of the columns in the files differ from those of the table since this commit.
    pub maps_columns: bool,
}

/// A file that a commit appended.
#[derive(Debug, Clone, PartialEq)]
pub struct AppendedFile {
    /// The store that holds it.
    pub store: Url,
    /// Its path in the store.
    pub path: String,
    /// Values of the partition columns as text; null is `None`.
    pub partition_values: HashMap<String, Option<String>>,
    /// Some of its rows are deleted.
    pub has_deleted_rows: bool,
}

/// Reads the commit of `version`; `None` if it does not exist.
///
/// # Errors
/// `Data` if the commit is invalid, or requires a reader feature that Buzz does not support; `Unavailable` if the store
/// does not respond.
pub async fn delta_commit(place: &Location, version: u64, stores: &QueryStores) -> Result<Option<DeltaCommit>> {
    let path = place.join(&format!("_delta_log/{version:020}.json"))?.path;
    match stores.store(&place.store)?.get(&path).await {
        Ok(found) => {
            let bytes = found.bytes().await?;
            // As for a whole log: delta-rs has been observed to panic on unexpected content.
            unpanicked(async { commit(place, version, &bytes) }).await.and_then(|commit| commit.map(Some))
        }
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failure::in_table(place, error.into())),
    }
}

/// Returns the oldest version after `version` whose commit is in the log; `None` if there is none.
///
/// # Errors
/// `Unavailable` if the store does not respond.
pub async fn delta_version_after(place: &Location, version: u64, stores: &QueryStores) -> Result<Option<u64>> {
    let log = place.join("_delta_log")?.path;
    let listed: Vec<_> = stores.store(&place.store)?.list(Some(&log)).try_collect().await?;
    let commits = listed.iter().filter_map(|object| {
        let digits = object.location.filename()?.strip_suffix(".json")?;
        (digits.len() == 20).then(|| digits.parse::<u64>().ok()).flatten()
    });
    Ok(commits.filter(|found| *found > version).min())
}

fn commit(place: &Location, version: u64, bytes: &Bytes) -> Result<DeltaCommit> {
    let actions = get_actions(version, bytes).map_err(|error| failure::query_error(place, error))?;
    let mut commit = DeltaCommit { appended: Vec::new(), removes_rows: false, operation: None, maps_columns: false };
    let paths = FilePaths::of(place);
    for action in actions {
        match action {
            Action::Add(add) if add.data_change => {
                let (store, path) = paths.place(&add.path)?;
                commit.appended.push(AppendedFile {
                    store,
                    path,
                    partition_values: add.partition_values,
                    has_deleted_rows: add.deletion_vector.is_some(),
                });
            }
            Action::Remove(remove) => commit.removes_rows |= remove.data_change,
            Action::Protocol(required) => {
                let required = serde_json::to_value(&required).map_err(|error| {
                    QueryError::internal(format!("cannot encode the protocol of {place} as JSON: {error}"))
                })?;
                protocol::check(place, &required)?;
            }
            Action::Metadata(metadata) => {
                let mode = metadata.configuration().get("delta.columnMapping.mode").map(String::as_str);
                commit.maps_columns |= matches!(mode, Some("name" | "id"));
            }
            Action::CommitInfo(info) => commit.operation = info.operation,
            _ => {}
        }
    }
    commit.appended.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(commit)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn read(actions: &[Value]) -> Result<DeltaCommit> {
        let text: String = actions.iter().map(|action| format!("{action}\n")).collect();
        commit(&Location::parse("/lake/t", Path::new("/")).unwrap(), 3, &text.into())
    }

    fn add(path: &str, data_change: bool) -> Value {
        json!({"add": {"path": path, "size": 1, "partitionValues": {"day": null, "kind": "a/b"}, "modificationTime": 0,
            "dataChange": data_change}})
    }

    fn remove(path: &str, data_change: bool) -> Value {
        json!({"remove": {"path": path, "dataChange": data_change, "deletionTimestamp": 0}})
    }

    #[test]
    fn appended_files_are_sorted_and_compacted_ones_left_out() {
        let appended =
            read(&[add("b%20c", true), add("a", true), json!({"commitInfo": {"operation": "WRITE"}})]).unwrap();
        let paths: Vec<_> = appended.appended.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["lake/t/a", "lake/t/b c"]);
        assert_eq!((appended.removes_rows, appended.operation.as_deref()), (false, Some("WRITE")));
        assert_eq!(appended.appended[0].partition_values["kind"].as_deref(), Some("a/b"));
        let compacted = read(&[remove("a", false), remove("b", false), add("c", false)]).unwrap();
        assert_eq!((compacted.appended.len(), compacted.removes_rows), (0, false));
    }

    #[test]
    fn removed_rows_and_mapped_columns_are_reported() {
        assert!(read(&[remove("a", true), add("b", true)]).unwrap().removes_rows);
        let metadata = json!({"metaData": {"id": "a", "format": {"provider": "parquet", "options": {}}, "schemaString":
            "{\"type\":\"struct\",\"fields\":[]}", "partitionColumns": [], "configuration":
            {"delta.columnMapping.mode": "name"}, "createdTime": 0}});
        assert!(read(&[metadata]).unwrap().maps_columns);
        let unknown = json!(["telepathy"]);
        let protocol = json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": unknown,
            "writerFeatures": unknown}});
        assert!(read(&[protocol]).is_err(), "the reader feature is unknown");
    }
}
