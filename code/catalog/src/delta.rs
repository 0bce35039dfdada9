//! Delta Lake: the log, read by delta-rs, becomes a [`Table`].
//!
//! Only the list of files is taken from delta-rs; reading them is Buzz's own path. Its checks of what a reader must
//! understand sit in the scan that is bypassed here, so [`check_protocol`] makes them: an unknown feature is refused.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::UInt64Array;
use arrow::datatypes::{DataType, Fields};
use buzz_protocol::{CatalogEntry, ColumnMapping, DeletionVector, ErrorKind, QueryError, Result};
use buzz_storage::{Location, Storage};
use bytes::{BufMut, Bytes, BytesMut};
use datafusion::scalar::ScalarValue;
use deltalake::kernel::{DeletionVectorDescriptor, StorageType};
use deltalake::logstore::logstore_factories;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;
use uuid::Uuid;

use crate::table::{DataFile, Table};
use crate::values::partition_value;
use crate::{delta_statistics, delta_version};

/// Reader features that Buzz honours, by their name in the protocol.
const READER_FEATURES: &[&str] = &[
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
const COLUMN_ID: &str = "delta.columnMapping.id";

pub(crate) async fn open(place: Location, entry: &CatalogEntry, storage: &Storage) -> Result<Table> {
    let failed = |error: DeltaTableError| delta_error(&place, error);
    let store = storage.store(&place.store)?;
    let wanted = delta_version::wanted(&place, entry, store.as_ref()).await?;
    let table = match wanted {
        None => newest(&place, &store, storage).await?,
        version => load(&place, &store, version).await?,
    };
    let snapshot = table.snapshot().map_err(failed)?.snapshot();
    let protocol = serde_json::to_value(snapshot.protocol())
        .map_err(|error| QueryError::internal(format!("the protocol of {place} has no JSON form: {error}")))?;
    check_protocol(&place, &protocol)?;

    let logged = snapshot.arrow_schema();
    let partition_columns: Vec<String> = snapshot.metadata().partition_columns().to_vec();
    let mode = snapshot.metadata().configuration().get("delta.columnMapping.mode").map(String::as_str);
    let mapping = match mode {
        Some("name" | "id") => column_mapping(logged.fields(), mode == Some("id")),
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
    let mut views = snapshot.file_views(log_store.as_ref(), None);
    let mut files = Vec::new();
    let mut has_statistics = false;
    while let Some(view) = views.try_next().await.map_err(failed)? {
        let path = view.path();
        let values = view.partition_values_map();
        has_statistics |= view.num_records().is_some();
        files.push(DataFile {
            number: files.len(),
            path: data_path(&place, &path)?,
            size: u64::try_from(view.size()).unwrap_or_default(),
            e_tag: None,
            partition_values: typed_values(&partitions, &values)
                .map_err(|error| error.at(format!("Delta table {place}, file `{path}`")))?,
            deletion_vector: view
                .deletion_vector_descriptor()
                .map(|descriptor| deletion_vector(&place, &descriptor))
                .transpose()?,
        });
    }
    drop(views);
    // In the order of the views. Statistics that are not readable are none; where there are none, their columns are spared.
    let logged_statistics =
        if has_statistics { snapshot.add_actions_batches(false).unwrap_or_default() } else { Vec::new() };
    // The log has no order of its own; a stable one makes tasks and messages repeatable.
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let order: UInt64Array = files.iter().map(|file| Some(file.number as u64)).collect();

    let mut opened = Table::new(place.to_string(), place.store.clone(), &logged, partition_columns, files)?;
    opened.version = Some(snapshot.version());
    opened.statistics = delta_statistics::read(&logged_statistics, &order, &opened.file_schema(), &mapping)?;
    opened.mapping = mapping;
    Ok(opened)
}

/// A snapshot that is kept for the next query, and the commit that it ends with: if that is another one by then, the
/// table was made anew.
struct Kept {
    table: DeltaTable,
    commit: ObjectMeta,
}

/// The newest version. A process that has read the table before asks only for what came since.
async fn newest(place: &Location, store: &Arc<dyn ObjectStore>, storage: &Storage) -> Result<DeltaTable> {
    let key = format!("delta {place}");
    let mut table = None;
    if let Some(kept) = storage.kept::<Kept>(&key)
        && store.head(&kept.commit.location).await.is_ok_and(|commit| commit == kept.commit)
    {
        let mut newer = kept.table.clone();
        // Whatever is wrong with it is found again, and said, by reading the whole log.
        if newer.update_incremental(None).await.is_ok() {
            table = Some(newer);
        }
    }
    let table = match table {
        Some(table) => table,
        None => load(place, store, None).await?,
    };
    let commit = place.join(&format!("_delta_log/{:020}.json", table.version().unwrap_or_default()))?;
    if let Ok(commit) = store.head(&commit.path).await {
        storage.keep(&key, Kept { table: table.clone(), commit });
    }
    Ok(table)
}

async fn load(place: &Location, store: &Arc<dyn ObjectStore>, version: Option<u64>) -> Result<DeltaTable> {
    let failed = |error: DeltaTableError| delta_error(place, error);
    let url = place.directory_url();
    know_scheme(&url);
    let log = DeltaTableBuilder::from_url(url.clone()).map_err(failed)?.with_storage_backend(Arc::clone(store), url);
    let Some(version) = version else {
        return log.load().await.map_err(failed);
    };
    let error = match log.with_version(version).load().await {
        Ok(table) if table.version() == Some(version) => return Ok(table),
        Ok(_) => QueryError::data(format!("Delta table {place} has no version {version}")),
        Err(error) => delta_error(place, error).at(format!("version {version}")),
    };
    if error.kind != ErrorKind::Data {
        return Err(error);
    }
    // Whether it is missing or not readable, the newest one tells.
    let newest = Box::pin(load(place, store, None)).await?.version().unwrap_or_default();
    if version <= newest {
        return Err(error);
    }
    Err(QueryError::invalid(format!("Delta table {place} has no version {version}; the newest is {newest}")))
}

/// Tells delta-rs that logs of this scheme are read as those of files are. It refuses `s3` otherwise, though the store is
/// handed in: its own S3 client would bring its log store along.
fn know_scheme(url: &Url) {
    let log_stores = logstore_factories();
    let parse = |scheme: &str| Url::parse(&format!("{scheme}://")).expect("the scheme of a URL makes one");
    let plain = log_stores.get(&parse("file")).map(|of_files| Arc::clone(of_files.value()));
    if let Some(plain) = plain {
        log_stores.entry(parse(url.scheme())).or_insert(plain);
    }
}

fn delta_error(place: &Location, error: DeltaTableError) -> QueryError {
    match error {
        DeltaTableError::NotATable(_) | DeltaTableError::InvalidTableLocation(_) => {
            QueryError::data(format!("there is no Delta table at {place}"))
        }
        DeltaTableError::ObjectStore { source } => {
            let error = QueryError::from(source);
            QueryError::new(error.kind, format!("Delta table {place}: {}", error.message))
        }
        error => {
            // Further lines are a backtrace.
            let text = error.to_string().lines().next().unwrap_or_default().to_string();
            let absent = ["No files in log segment", "not a Delta table", "Invalid table location"];
            if absent.iter().any(|words| text.contains(words)) {
                QueryError::data(format!("there is no Delta table at {place}"))
            } else if let Some((before, after)) = gap(&text) {
                QueryError::data(format!(
                    "the log of Delta table {place} has a gap: version {before} is followed by version {after}"
                ))
            } else {
                QueryError::data(format!("the log of Delta table {place} is not readable: {text}"))
            }
        }
    }
}

/// The versions around a gap in the log, of which the error `text` tells.
fn gap(text: &str) -> Option<(u64, u64)> {
    let (_, told) = text.split_once("found gap")?;
    let mut versions = told.split(", version: ").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    Some((versions.next()?, versions.next()?))
}

/// Refuses what a reader must understand and Buzz does not.
fn check_protocol(place: &Location, protocol: &serde_json::Value) -> Result<()> {
    let version = protocol.get("minReaderVersion").and_then(serde_json::Value::as_i64).unwrap_or(1);
    if version > 3 {
        return Err(QueryError::data(format!(
            "Delta table {place} wants a reader of version {version}; Buzz reads up to version 3"
        )));
    }
    let features = protocol.get("readerFeatures").and_then(serde_json::Value::as_array);
    let unknown = features
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str)
        .find(|feature| !READER_FEATURES.contains(feature));
    match unknown {
        Some(feature) => Err(QueryError::data(format!(
            "Delta table {place} uses the reader feature `{feature}`, which Buzz does not support"
        ))),
        None => Ok(()),
    }
}

/// How the fields of one level, and those inside of them, are called in files. `by_id` is what the table's mode says.
fn column_mapping(fields: &Fields, by_id: bool) -> ColumnMapping {
    let mut mapping = ColumnMapping::default();
    for field in fields {
        let name = field.name();
        if let Some(physical) = field.metadata().get(PHYSICAL_NAME).filter(|physical| *physical != name) {
            mapping.physical_names.insert(name.clone(), physical.clone());
        }
        if by_id && let Some(id) = field.metadata().get(COLUMN_ID).and_then(|id| id.parse().ok()) {
            mapping.ids.insert(name.clone(), id);
        }
        let inside = mapping_inside(field.data_type(), by_id);
        if !inside.is_identity() {
            mapping.inside.insert(name.clone(), inside);
        }
    }
    mapping
}

fn mapping_inside(data_type: &DataType, by_id: bool) -> ColumnMapping {
    let held = |fields: &[(&str, &DataType)]| {
        let inside = fields.iter().map(|(called, data_type)| (called.to_string(), mapping_inside(data_type, by_id)));
        let inside = inside.filter(|(_, inside)| !inside.is_identity()).collect();
        ColumnMapping { inside, ..ColumnMapping::default() }
    };
    match data_type {
        DataType::Struct(fields) => column_mapping(fields, by_id),
        DataType::List(item) | DataType::LargeList(item) => held(&[("element", item.data_type())]),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                held(&[("key", pair[0].data_type()), ("value", pair[1].data_type())])
            }
            _ => ColumnMapping::default(),
        },
        _ => ColumnMapping::default(),
    }
}

fn typed_values(
    partitions: &[(&str, String, DataType)],
    values: &HashMap<String, Option<String>>,
) -> Result<Vec<ScalarValue>> {
    let typed = |(column, physical, data_type): &(&str, String, DataType)| {
        let text = values.get(physical).or_else(|| values.get(*column)).and_then(Option::as_deref);
        partition_value(column, data_type, text)
    };
    partitions.iter().map(typed).collect()
}

/// The path within the store of a file that the log names: relative to the table, or absolute in the same store.
fn data_path(place: &Location, path: &str) -> Result<String> {
    if !path.contains("://") && !path.starts_with('/') {
        return Ok(place.join(path)?.path.to_string());
    }
    let absolute = Location::parse(path, std::path::Path::new("/"))?;
    if absolute.store != place.store {
        return Err(QueryError::data(format!(
            "Delta table {place}: its file {absolute} is in another store, which Buzz does not support"
        )));
    }
    Ok(absolute.path.to_string())
}

/// Length of the encoded UUID at the end of a relative deletion vector's name.
const UUID_LENGTH: usize = 20;

/// Magic number of a `RoaringBitmapArray`.
const DELETION_VECTOR_MAGIC: u32 = 1_681_511_377;

fn deletion_vector(place: &Location, descriptor: &DeletionVectorDescriptor) -> Result<DeletionVector> {
    let bad = |why: &str| QueryError::data(format!("Delta table {place}: a deletion vector {why}"));
    let text = descriptor.path_or_inline_dv.as_str();
    let cardinality = u64::try_from(descriptor.cardinality).map_err(|_| bad("has a negative cardinality"))?;
    let path = match descriptor.storage_type {
        StorageType::Inline => {
            let bytes = inline_bytes(text, descriptor.size_in_bytes).ok_or_else(|| bad("is not Base85"))?;
            return Ok(DeletionVector::Inline { bytes, cardinality });
        }
        StorageType::UuidRelativePath => {
            let split = text.len().checked_sub(UUID_LENGTH).filter(|at| text.is_char_boundary(*at));
            let (prefix, encoded) = text.split_at(split.ok_or_else(|| bad("has a name that is too short"))?);
            let uuid = z85::decode(encoded).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
            let uuid = uuid.ok_or_else(|| bad("has a name that is not Base85"))?;
            let slash = if prefix.is_empty() { "" } else { "/" };
            place.join(&format!("{prefix}{slash}deletion_vector_{uuid}.bin"))?.path.to_string()
        }
        StorageType::AbsolutePath => data_path(place, text)?,
    };
    Ok(DeletionVector::File {
        path,
        offset: u64::try_from(descriptor.offset.unwrap_or_default()).map_err(|_| bad("has a negative offset"))?,
        size: u64::try_from(descriptor.size_in_bytes).map_err(|_| bad("has a negative size"))?,
        cardinality,
    })
}

/// Inline bytes, cut to their length (Base85 pads to four) and with the magic number in front, as files have them.
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

    use super::*;

    #[test]
    fn an_unknown_reader_feature_is_refused_by_name() {
        let place = Location::parse("/t", Path::new("/")).unwrap();
        let protocol = serde_json::json!({"minReaderVersion": 3, "readerFeatures": ["deletionVectors", "telepathy"]});
        let error = check_protocol(&place, &protocol).unwrap_err();
        assert_eq!(error.message, "Delta table /t uses the reader feature `telepathy`, which Buzz does not support");
        let newer = check_protocol(&place, &serde_json::json!({"minReaderVersion": 4})).unwrap_err();
        assert_eq!(newer.message, "Delta table /t wants a reader of version 4; Buzz reads up to version 3");
    }

    #[test]
    fn a_relative_deletion_vector_is_found_as_the_protocol_says() {
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
        assert_eq!(deletion_vector(&place, &descriptor).unwrap(), expected);
    }

    fn commit(folder: &Path, version: u64, actions: &[serde_json::Value]) {
        let text: String = actions.iter().map(|action| format!("{action}\n")).collect();
        std::fs::create_dir_all(folder.join("_delta_log")).unwrap();
        std::fs::write(folder.join(format!("_delta_log/{version:020}.json")), text).unwrap();
    }

    fn added(path: &str) -> serde_json::Value {
        serde_json::json!({"add": {
            "path": path, "size": 1, "partitionValues": {}, "modificationTime": 0, "dataChange": true
        }})
    }

    #[tokio::test]
    async fn a_kept_snapshot_sees_new_versions_and_new_tables() {
        let dir = tempfile::tempdir().unwrap();
        let schema = r#"{"type":"struct","fields":[{"name":"id","type":"long","nullable":true,"metadata":{}}]}"#;
        let head = [
            serde_json::json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            serde_json::json!({"metaData": {"id": "a", "format": {"provider": "parquet", "options": {}},
                "schemaString": schema, "partitionColumns": [], "configuration": {}, "createdTime": 0}}),
        ];
        let storage = Storage::default();
        let entry = CatalogEntry::new("t", buzz_protocol::CatalogType::DeltaLake, dir.path().to_string_lossy());
        let files = async || {
            let place = Location::parse(&entry.uri, Path::new("/")).unwrap();
            let table = open(place, &entry, &storage).await.unwrap();
            let names = table.files.iter().map(|file| file.path.rsplit('/').next().unwrap().to_string());
            (table.version.unwrap(), names.collect::<Vec<_>>())
        };
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        commit(dir.path(), 0, &[&head[..], &[added("a")]].concat());
        assert_eq!(files().await, (0, names(&["a"])));
        commit(dir.path(), 1, &[added("b")]);
        assert_eq!(files().await, (1, names(&["a", "b"])));
        assert_eq!(files().await, (1, names(&["a", "b"])));
        // Another table in the same place.
        std::fs::remove_dir_all(dir.path().join("_delta_log")).unwrap();
        commit(dir.path(), 0, &[&head[..], &[added("c")]].concat());
        commit(dir.path(), 1, &[added("dd")]);
        commit(dir.path(), 2, &[added("e")]);
        assert_eq!(files().await, (2, names(&["c", "dd", "e"])));
    }
}
