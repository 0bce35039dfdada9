//! Catalogs: open the table of a catalog entry as a [`Table`], which has a schema and a list of files.
//!
//! Delta Lake tables, folders of Parquet, CSV or JSON, streams, materialized views of pipelines, and `Static` lists differ only in how they find that list. All
//! later steps (pruning, splitting, reading) share one code path.

use std::collections::HashMap;
use std::path::Path;

use arrow::datatypes::Schema;
use buzz_protocol::{BucketOptions, CatalogEntry, CatalogType, Place, QueryError, Result};
use buzz_storage::{Location, QueryStores, unpanicked};
use url::Url;

mod kind;

mod table;

mod statistics;

mod delta;

mod files;

mod hive;

mod parquet_files;

mod merge;

mod spelling;

mod text_files;

mod dialect;

mod infer;

mod infer_json;

mod static_list;

mod stream;

mod values;

mod view;

pub use self::delta::{AppendedFile, DeltaColumns, DeltaCommit, DeltaTarget, delta_commit, delta_version_after};
pub use self::hive::{partition_folders, partition_type};
use self::kind::kind_of;
pub use self::values::partition_value;
pub use statistics::{ColumnBounds, FileStatistics};
pub use table::{DataFile, Extent, Table};

/// Sets the bucket options of a query's `entries` in its view of the stores. Call it before opening the query's tables.
///
/// # Errors
/// `Invalid` if two entries have different options for the same bucket.
pub fn set_buckets<'a>(entries: impl IntoIterator<Item = &'a CatalogEntry>, stores: &QueryStores) -> Result<()> {
    let mut by_bucket: HashMap<Url, &CatalogEntry> = HashMap::new();
    for entry in entries {
        let Some(bucket) = bucket_of(&entry.uri) else { continue };
        stores.set_bucket(&bucket, &entry.storage);
        match by_bucket.insert(bucket, entry) {
            Some(other) if other.storage != entry.storage => {
                return Err(QueryError::invalid(format!(
                    "catalogs `{}` and `{}` are in one bucket but have different `storage`; use the same for both",
                    other.name, entry.name
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the table that `entry` names. A relative URI is resolved against `base`.
///
/// # Errors
/// `Invalid` if the entry is invalid, `Data` if the table does not exist or is invalid, `Unavailable` if the store does
/// not respond. The error names the catalog entry.
pub async fn open(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<Table> {
    entry.check_place()?;
    if let Some(bucket) = bucket_of(&entry.uri) {
        stores.set_bucket(&bucket, &entry.storage);
        stores.check(&bucket).map_err(|error| error.at(Place::Catalog(entry.name.clone())))?;
        stores.bucket_options(&bucket).await;
    }
    let opened = match kind(entry, base, stores).await {
        Ok(entry) => open_kind(&entry, base, stores).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok(mut table) => {
            table.name = entry.name.clone();
            if entry.kind == CatalogType::Auto {
                // Fields of an entry with a type are checked when the query is parsed.
                table.warnings.extend(CatalogEntry { kind: table.kind, ..entry.clone() }.unused_field_warnings());
            }
            table.bucket = stores.bucket_options(&table.store).await;
            for root in &mut table.stores {
                root.bucket = stores.bucket_options(&root.url).await;
            }
            stores.open_all(&table.stores)?;
            let own = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|key| std::env::var(key).ok());
            table.warnings.extend(other_region(&table, own.as_deref()));
            Ok(table)
        }
        Err(error) => {
            // Errors of stores name a path without its bucket, or none.
            let names_it = bucket_of(&entry.uri).is_none_or(|bucket| error.to_string().contains(bucket.as_str()));
            let error = if names_it { error } else { error.at(entry.uri.as_str()) };
            Err(error.at(Place::Catalog(entry.name.clone())))
        }
    }
}

/// Returns the table of `entry` without its files, with the columns that were recorded; `None` if none were. A view without
/// recorded columns has none. The kind of a table is then `Auto`, so that it is never mistaken for an empty one. Opens nothing.
///
/// # Errors
/// `Invalid` if a recorded type does not exist or a column is recorded twice.
pub fn recorded(entry: &CatalogEntry) -> Result<Option<Table>> {
    let columns = match (&entry.columns, entry.kind) {
        (Some(columns), _) => columns.as_slice(),
        (None, CatalogType::View) => &[],
        (None, _) => return Ok(None),
    };
    let at = |error: QueryError| error.at(Place::Catalog(entry.name.clone()));
    let fields = columns.iter().map(|column| column.field()).collect::<Result<Vec<_>>>().map_err(at)?;
    let store = Url::parse("file:///").map_err(|error| QueryError::internal(error.to_string()))?;
    let table = Table::new(entry.uri.clone(), store, &Schema::new(fields), Vec::new(), Vec::new()).map_err(at)?;
    let kind = if entry.is_view() { CatalogType::View } else { CatalogType::Auto };
    Ok(Some(Table { name: entry.name.clone(), kind, ..table }))
}

/// Returns `entry` with its kind, which is detected if the entry has none.
async fn kind(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<CatalogEntry> {
    let kind = match entry.kind {
        CatalogType::Auto => kind_of(&entry.uri, base, stores).await?,
        kind => kind,
    };
    Ok(CatalogEntry { kind, ..entry.clone() })
}

/// Opens the table that `entry`, whose kind is not `Auto`, names.
async fn open_kind(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<Table> {
    let mut table = match entry.kind {
        CatalogType::DeltaLake => {
            let place = Location::parse(&entry.uri, base)?;
            // delta-rs has been observed to panic on logs with unexpected content.
            unpanicked(delta::open(place, entry, stores)).await.and_then(|opened| opened)?
        }
        CatalogType::Parquet => parquet_files::open(entry, base, stores).await?,
        CatalogType::Csv | CatalogType::Json => text_files::open(entry, base, stores).await?,
        CatalogType::Static => static_list::open(&entry.uri, base, stores).await?,
        CatalogType::Stream => match view::open(entry, base, stores).await? {
            Some(view) => view,
            None => stream::open(entry, base, stores).await?,
        },
        CatalogType::View => return Err(QueryError::internal("a view has no files to open")),
        CatalogType::Auto => return Err(QueryError::internal("a catalog entry is opened before its type is known")),
    };
    table.kind = entry.kind;
    Ok(table)
}

/// Returns the root of the bucket in `uri`; `None` if it has no bucket.
fn bucket_of(uri: &str) -> Option<Url> {
    let rest = uri.strip_prefix("s3://").or_else(|| uri.strip_prefix("s3a://"))?;
    Url::parse(&format!("s3://{}/", rest.split('/').next()?)).ok()
}

/// Returns a warning for each bucket of the table that is not in the region `own`, where this process runs.
fn other_region(table: &Table, own: Option<&str>) -> Vec<String> {
    let own = own.filter(|own| !own.is_empty());
    let warning = |(url, bucket): (&Url, &BucketOptions)| {
        let region = bucket.region.as_deref()?;
        let (own, bucket) = (own.filter(|own| *own != region)?, url.host_str()?);
        let name = &table.name;
        Some(format!(
            "table `{name}`: bucket `{bucket}` is in {region} but Buzz runs in {own}; AWS charges for the transfer"
        ))
    };
    let roots = table.stores.iter().map(|root| (&root.url, &root.bucket));
    roots.chain([(&table.store, &table.bucket)]).filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use buzz_protocol::{BucketOptions, ColumnSpec};
    use buzz_storage::Stores;

    use super::*;

    #[test]
    fn recorded_table_has_its_columns_and_no_files() {
        let column =
            |name: &str, data_type: &str| ColumnSpec { name: name.to_string(), data_type: data_type.to_string() };
        let mut entry = CatalogEntry::new("t", CatalogType::Auto, "s3://lake/t");
        assert!(recorded(&entry).unwrap().is_none());
        entry.columns = Some(vec![column("id", "Int64"), column("at", "Timestamp(µs)")]);
        let table = recorded(&entry).unwrap().unwrap();
        assert_eq!((table.name.as_str(), table.schema.fields().len(), table.files.len()), ("t", 2, 0));
        assert_eq!(recorded(&CatalogEntry::view("v", "SELECT 1")).unwrap().unwrap().schema.fields().len(), 0);
        entry.columns = Some(vec![column("id", "Int65")]);
        let error = recorded(&entry).unwrap_err().to_string();
        assert!(error.starts_with("catalog `t`: column `id` has the unknown type `Int65`"), "{error}");
    }

    #[test]
    fn bucket_in_another_region_gives_a_warning() {
        let store = bucket_of("s3a://lake/t/*.parquet").unwrap();
        let mut table = Table::new("t".to_string(), store, &Schema::empty(), Vec::new(), Vec::new()).unwrap();
        assert_eq!(other_region(&table, Some("us-east-1")), [""; 0]);
        table.bucket = BucketOptions { region: Some("eu-west-1".to_string()), ..BucketOptions::default() };
        assert_eq!((other_region(&table, Some("eu-west-1")), other_region(&table, None)), (Vec::new(), Vec::new()));
        let warning = other_region(&table, Some("us-east-1"));
        assert!(warning[0].contains("`lake` is in eu-west-1 but Buzz runs in us-east-1"), "{warning:?}");
        assert_eq!(bucket_of("/s3://x"), None);
    }

    #[test]
    fn different_options_for_one_bucket_are_rejected() {
        let shared = Arc::new(Stores::default());
        let stores = shared.for_query();
        let entry = |name: &str, uri: &str| CatalogEntry::new(name, CatalogType::Parquet, uri);
        let mut entries = [entry("a", "s3://lake/a"), entry("b", "s3://lake/b"), entry("c", "s3://other/c")];
        assert!(set_buckets(&entries, &stores).is_ok());
        entries[1].storage.anonymous = Some(true);
        let error = set_buckets(&entries, &stores).unwrap_err().to_string();
        assert!(error.contains("catalogs `a` and `b` are in one bucket"), "{error}");
        entries[0].storage.anonymous = Some(true);
        assert!(set_buckets(&entries, &stores).is_ok());
        let lake = bucket_of("s3://lake/").unwrap();
        assert_eq!(stores.known_options(&lake).anonymous, Some(true));
        assert!(shared.for_query().known_options(&lake).is_empty(), "options are those of one query");
    }
}
