//! Delta Lake: converts the log, which delta-rs reads ([`log`]), to a [`Table`].
//!
//! Only the list of files comes from delta-rs; Buzz reads the files itself. delta-rs checks the required reader
//! features in its own scan, which is bypassed here, so [`protocol`] checks them and rejects unknown features.

mod append;

mod log;

mod hint;

mod version;

mod commit;

mod protocol;

mod mapping;

mod paths;

mod deletion;
mod failure;

mod statistics;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::UInt64Array;
use arrow::datatypes::DataType;
use buzz_protocol::{CatalogEntry, ColumnMapping, Place, QueryError, Result};
use buzz_storage::{Location, QueryStores};
use datafusion::scalar::ScalarValue;
use deltalake::DeltaTableError;
use futures::TryStreamExt;

pub use self::append::{DeltaColumns, DeltaTarget};
pub use self::commit::{AppendedFile, DeltaCommit, delta_commit, delta_version_after};
use self::paths::FilePaths;
use crate::table::{DataFile, Table};
use crate::values::partition_value;

/// Opens the table at `place`, in the version that `entry` requests.
///
/// # Errors
/// `Data` if the table does not exist, its log is invalid, or it requires a feature that Buzz does not support;
/// `Invalid` if the requested version does not exist; `Unavailable` if the store does not respond.
pub(crate) async fn open(place: Location, entry: &CatalogEntry, stores: &QueryStores) -> Result<Table> {
    let failed = |error: DeltaTableError| failure::query_error(&place, error);
    let store = stores.store(&place.store)?;
    let wanted = version::wanted(&place, entry, store.as_ref()).await?;
    let table = match wanted {
        None => log::newest(&place, &store, stores).await?,
        version => log::load(&place, &store, version).await?,
    };
    let snapshot = table.snapshot().map_err(failed)?.snapshot();
    let protocol = serde_json::to_value(snapshot.protocol())
        .map_err(|error| QueryError::internal(format!("cannot encode the protocol of {place} as JSON: {error}")))?;
    protocol::check(&place, &protocol)?;

    let logged = snapshot.arrow_schema();
    let partition_columns: Vec<String> = snapshot.metadata().partition_columns().to_vec();
    let mode = snapshot.metadata().configuration().get("delta.columnMapping.mode").map(String::as_str);
    let mapping = match mode {
        Some("name" | "id") => mapping::of_fields(logged.fields(), mode == Some("id")),
        _ => ColumnMapping::default(),
    };
    let mut partitions = Vec::new();
    for column in &partition_columns {
        let field = logged.field_with_name(column).map_err(|_| {
            QueryError::data(format!("Delta table {place}: partition column `{column}` is not in its schema"))
        })?;
        let physical = mapping.physical_names.get(column).unwrap_or(column);
        partitions.push((column.as_str(), physical.clone(), field.data_type().clone()));
    }

    let log_store = table.log_store();
    let mut paths = FilePaths::of(&place);
    let mut views = snapshot.file_views(log_store.as_ref(), None);
    let mut files = Vec::new();
    let mut has_statistics = false;
    let mut known_values = HashMap::new();
    loop {
        let Some(view) = views.try_next().await.map_err(failed)? else {
            if !paths.must_be_made_anew() {
                break;
            }
            views = snapshot.file_views(log_store.as_ref(), None);
            files.clear();
            continue;
        };
        let path = view.path();
        has_statistics |= view.num_records().is_some();
        files.push(DataFile {
            number: files.len(),
            path: paths.path(&path)?,
            size: u64::try_from(view.size()).unwrap_or_default(),
            e_tag: None,
            partition_values: typed_values(&partitions, view.partition_values_map(), &mut known_values).map_err(
                |error| {
                    let file = Place::File { path: path.to_string(), table: None };
                    error.at(file).at(format!("Delta table {place}"))
                },
            )?,
            deletion_vector: view
                .deletion_vector_descriptor()
                .map(|descriptor| deletion::vector(&mut paths, &descriptor))
                .transpose()?,
            runs: Arc::default(),
        });
    }
    drop(views);
    // In the order of the views. Statistics are optional, so an error is ignored; without any, reading them is skipped.
    let logged_statistics =
        if has_statistics { snapshot.add_actions_batches(false).unwrap_or_default() } else { Vec::new() };
    // The log has no defined order. Sorting makes tasks and messages deterministic.
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let order: UInt64Array = files.iter().map(|file| Some(file.number as u64)).collect();

    let (store, stores) = paths.stores();
    let mut opened = Table::new(place.to_string(), store, &logged, partition_columns, files)?;
    opened.stores = stores;
    opened.version = Some(snapshot.version());
    opened.statistics = statistics::read(&logged_statistics, &order, &opened.file_schema(), &mapping)?;
    opened.mapping = mapping;
    Ok(opened)
}

/// Parses the partition values of a file, which the log stores as text. Files with equal values share them through
/// `known`.
fn typed_values(
    partitions: &[(&str, String, DataType)],
    mut values: HashMap<String, Option<String>>,
    known: &mut HashMap<Vec<Option<String>>, Arc<[ScalarValue]>>,
) -> Result<Arc<[ScalarValue]>> {
    let mut text = |(column, physical, _): &(&str, String, DataType)| {
        values.remove(physical).or_else(|| values.remove(*column)).flatten()
    };
    let texts: Vec<Option<String>> = partitions.iter().map(&mut text).collect();
    if let Some(values) = known.get(&texts) {
        return Ok(Arc::clone(values));
    }
    let typed = |((column, _, data_type), text): (&(&str, String, DataType), &Option<String>)| {
        partition_value(column, data_type, text.as_deref())
    };
    let values = partitions.iter().zip(&texts).map(typed).collect::<Result<Vec<_>>>()?;
    Ok(Arc::clone(known.entry(texts).or_insert(values.into())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use buzz_protocol::CatalogType;
    use buzz_testkit::{Asked, DistantStore};
    use serde_json::{Value, json};

    use buzz_storage::Stores;

    use super::*;

    fn commit(folder: &Path, version: u64, actions: &[Value]) {
        let text: String = actions.iter().map(|action| format!("{action}\n")).collect();
        std::fs::create_dir_all(folder.join("_delta_log")).unwrap();
        std::fs::write(folder.join(format!("_delta_log/{version:020}.json")), text).unwrap();
    }

    fn added(path: &str) -> Value {
        json!({"add": {
            "path": path, "size": 1, "partitionValues": {}, "modificationTime": 0, "dataChange": true
        }})
    }

    /// The first actions of a table's log.
    fn head() -> [Value; 2] {
        let schema = r#"{"type":"struct","fields":[{"name":"id","type":"long","nullable":true,"metadata":{}}]}"#;
        [
            json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            json!({"metaData": {"id": "a", "format": {"provider": "parquet", "options": {}},
                "schemaString": schema, "partitionColumns": [], "configuration": {}, "createdTime": 0}}),
        ]
    }

    #[tokio::test]
    async fn cached_snapshot_is_updated_and_replaced_with_its_table() {
        let dir = tempfile::tempdir().unwrap();
        let head = head();
        let stores = Arc::new(Stores::default()).for_query();
        let entry = CatalogEntry::new("t", CatalogType::DeltaLake, dir.path().to_string_lossy());
        let files = async || {
            let place = Location::parse(&entry.uri, Path::new("/")).unwrap();
            let table = open(place, &entry, &stores).await.unwrap();
            let names = table.files.iter().map(|file| file.path.rsplit('/').next().unwrap().to_string());
            (table.version.unwrap(), names.collect::<Vec<_>>())
        };
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        commit(dir.path(), 0, &[&head[..], &[added("a")]].concat());
        assert_eq!(files().await, (0, names(&["a"])));
        commit(dir.path(), 1, &[added("b")]);
        assert_eq!(files().await, (1, names(&["a", "b"])));
        assert_eq!(files().await, (1, names(&["a", "b"])));
        // Another table at the same location.
        std::fs::remove_dir_all(dir.path().join("_delta_log")).unwrap();
        commit(dir.path(), 0, &[&head[..], &[added("c")]].concat());
        commit(dir.path(), 1, &[added("dd")]);
        commit(dir.path(), 2, &[added("e")]);
        assert_eq!(files().await, (2, names(&["c", "dd", "e"])));
    }

    #[tokio::test]
    async fn hint_that_names_no_checkpoint_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        commit(dir.path(), 0, &[&head()[..], &[added("a")]].concat());
        commit(dir.path(), 1, &[added("b")]);
        std::fs::write(dir.path().join("_delta_log/_last_checkpoint"), r#"{"version": 99, "size": 3}"#).unwrap();
        let stores = Arc::new(Stores::default()).for_query();
        let entry = CatalogEntry::new("t", CatalogType::DeltaLake, dir.path().to_string_lossy());
        let place = Location::parse(&entry.uri, Path::new("/")).unwrap();
        let table = open(place.clone(), &entry, &stores).await.unwrap();
        assert_eq!((table.version, table.files.len()), (Some(1), 2));
        let old = CatalogEntry { version: Some(0), ..entry };
        assert_eq!(open(place, &old, &stores).await.unwrap().files.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn commits_are_read_concurrently() {
        const COMMITS: u64 = 1000;
        let dir = tempfile::tempdir().unwrap();
        commit(dir.path(), 0, &head());
        for version in 1..COMMITS {
            commit(dir.path(), version, &[added(&format!("part-{version}"))]);
        }
        let asked = Arc::new(Asked::default());
        let counted = Arc::clone(&asked);
        let latency = Duration::from_millis(30);
        let stores =
            Stores::with_wrapper(move |store| Arc::new(DistantStore::new(store, latency, Arc::clone(&counted))));
        let stores = Arc::new(stores).for_query();
        let place = Location::parse(&dir.path().to_string_lossy(), Path::new("/")).unwrap();
        let entry = CatalogEntry::new("t", CatalogType::DeltaLake, dir.path().to_string_lossy());
        let table = open(place, &entry, &stores).await.unwrap();
        assert_eq!(table.files.len(), 999);
        assert!(asked.at_once_max() > 500, "{} requests at once", asked.at_once_max());
    }
}
