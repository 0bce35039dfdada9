//! `Static` lists: a JSON manifest contains the schema and the files. The three lists of the original Buzz are built-in
//! manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema};
use buzz_protocol::{ColumnSpec, Place, QueryError, Result, StoreRoot};
use buzz_storage::{Location, QueryStores, path_among_stores, several_stores};
use serde::Deserialize;
use url::Url;

use crate::table::{DataFile, Table};
use crate::values::partition_value;

/// The built-in lists, by the name used as `uri` of a catalog entry.
const BUILT_IN: &[(&str, &str)] = &[
    ("nyc_taxi_cloudfuse_sample", include_str!("../lists/nyc_taxi_cloudfuse_sample.json")),
    ("nyc_taxi_cloudfuse", include_str!("../lists/nyc_taxi_cloudfuse.json")),
    ("nyc_taxi_ursa", include_str!("../lists/nyc_taxi_ursa.json")),
];

#[derive(Deserialize)]
struct Manifest {
    /// Region of the bucket; `None` to use the environment's.
    region: Option<String>,
    schema: Vec<ColumnSpec>,
    #[serde(default)]
    partition_columns: Vec<String>,
    files: Vec<ListedFile>,
}

#[derive(Deserialize)]
struct ListedFile {
    uri: String,
    size: u64,
    #[serde(default)]
    partitions: BTreeMap<String, Option<String>>,
}

/// Opens the built-in list or the manifest that `uri` names.
pub(crate) async fn open(uri: &str, base: &Path, stores: &QueryStores) -> Result<Table> {
    if let Some((_, json)) = BUILT_IN.iter().find(|(name, _)| *name == uri) {
        return listed(uri, json, &Location::parse(".", base)?, stores);
    }
    let names = BUILT_IN.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let place = Location::parse(uri, base)?;
    let bytes = stores.read(&place).await.map_err(|error| {
        QueryError::new(
            error.kind,
            format!(
                "manifest {place}: {} (a Static uri is the path of a JSON manifest, or one of {names})",
                error.message
            ),
        )
    })?;
    let json = String::from_utf8(bytes).map_err(|_| QueryError::data(format!("manifest {place} is not UTF-8")))?;
    listed(&place.to_string(), &json, &place.parent(), stores)
}

fn listed(name: &str, json: &str, folder: &Location, stores: &QueryStores) -> Result<Table> {
    let in_manifest = |error: QueryError| error.at(format!("manifest {name}"));
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let manifest: Manifest = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| in_manifest(QueryError::data(format!("`{}`: {}", error.path(), error.inner()))))?;

    let fields: Vec<Field> = manifest
        .schema
        .iter()
        .map(ColumnSpec::field)
        .collect::<Result<_>>()
        .map_err(|error| in_manifest(QueryError::data(error.message)))?;
    let schema = Schema::new(fields);

    let mut places = Vec::new();
    let mut files = Vec::new();
    for file in &manifest.files {
        let place = if file.uri.contains("://") || file.uri.starts_with('/') {
            Location::parse(&file.uri, Path::new("/"))?
        } else {
            folder.join(&file.uri)?
        };
        let in_file = |error: QueryError| in_manifest(error.at(Place::File { path: file.uri.clone(), table: None }));
        stores.check_read(&place).map_err(in_file)?;
        let mut values = Vec::new();
        for column in &manifest.partition_columns {
            let data_type = schema.field_with_name(column).map_or(&DataType::Utf8, |field| field.data_type());
            let text = file.partitions.get(column).ok_or_else(|| {
                in_manifest(QueryError::data(format!("file `{}` has no value for partition `{column}`", file.uri)))
            })?;
            let value = partition_value(column, data_type, text.as_deref());
            values.push(value.map_err(in_file)?);
        }
        files.push(DataFile { size: file.size, partition_values: values.into(), ..DataFile::named(String::new()) });
        if let Some(region) = &manifest.region {
            stores.suggest_region(&place.store, region).map_err(in_manifest)?;
        }
        places.push(place);
    }
    let roots: BTreeSet<&Url> = places.iter().map(|place| &place.store).collect();
    let several = roots.len() > 1;
    for (file, place) in files.iter_mut().zip(&places) {
        file.path = if several { path_among_stores(place) } else { place.path.to_string() };
    }
    let store = match roots.first() {
        Some(_) if several => several_stores(),
        Some(root) => Url::clone(root),
        None => folder.store.clone(),
    };
    let mut table = Table::new(name.to_string(), store, &schema, manifest.partition_columns, files)?;
    if several {
        table.stores = roots.iter().map(|&url| StoreRoot::new(url.clone())).collect();
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::TimeUnit;

    use buzz_storage::Stores;

    use super::*;

    #[tokio::test]
    async fn built_in_lists_match_the_original() {
        let stores = Arc::new(Stores::default()).for_query();
        let list = async |name| open(name, Path::new("/"), &stores).await.unwrap();
        let sample = list("nyc_taxi_cloudfuse_sample").await;
        assert_eq!((sample.files.len(), sample.bytes()), (1, 27_301_328));
        assert_eq!(sample.files[0].path, "raw_small/2009/01/data.parquet");
        let cloudfuse = list("nyc_taxi_cloudfuse").await;
        assert_eq!((cloudfuse.files.len(), cloudfuse.bytes()), (5, 1_961_435_957));
        let ursa = list("nyc_taxi_ursa").await;
        assert_eq!((ursa.files.len(), ursa.files[11].size), (12, 479_899_902));
        assert_eq!(ursa.files[11].partition_values[0].to_string(), "2009/12");
        assert_eq!(ursa.schema.fields().len(), 19);
        let pickup = |table: &Table| table.schema.field_with_name("pickup_at").unwrap().data_type().clone();
        assert_eq!(pickup(&ursa), DataType::Timestamp(TimeUnit::Nanosecond, None));
        assert_eq!(pickup(&sample), DataType::Timestamp(TimeUnit::Microsecond, None));
    }

    #[tokio::test]
    async fn invalid_manifest_is_reported_with_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let error = async |json: &str| {
            std::fs::write(dir.path().join("list.json"), json).unwrap();
            open("list.json", dir.path(), &Arc::new(Stores::default()).for_query()).await.unwrap_err().to_string()
        };
        assert!(
            error(r#"{"schema": [{"name": "a"}], "files": []}"#).await.contains("`schema[0]`: missing field `type`")
        );
        let odd = error(r#"{"schema": [{"name": "a", "type": "Text"}], "files": []}"#).await;
        assert!(odd.contains("column `a` has the unknown type `Text`"), "{odd}");
        let missing =
            open("nyc_taxi", dir.path(), &Arc::new(Stores::default()).for_query()).await.unwrap_err().to_string();
        assert!(missing.contains("or one of `nyc_taxi_cloudfuse_sample`"), "{missing}");
    }
}
