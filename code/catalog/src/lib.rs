//! Catalogs: from a name and a place to a [`Table`], which is a schema and a list of files.
//!
//! Delta Lake tables, folders of Parquet, CSV or JSON, and Static lists differ only in how they find that list.
//! Everything after it (pruning, splitting, reading) is one code path for all.

use std::collections::HashMap;
use std::path::Path;

use buzz_protocol::{BucketOptions, CatalogEntry, CatalogType, QueryError, Result};
use buzz_storage::{Location, Storage, unpanicked};
use url::Url;

mod kind;

mod table;

mod statistics;

mod delta;

mod files;

mod hive;

mod parquet_files;

mod merge;

mod text_files;

mod dialect;

mod infer;

mod infer_json;

mod static_list;

mod values;

pub use kind::kind_of;
pub use statistics::{ColumnBounds, FileStatistics};
pub use table::{DataFile, Extent, Table};

/// Tells `storage` how the buckets of a query are reached, and nothing that an earlier query said. Before its tables are
/// opened.
///
/// # Errors
/// `Invalid` when two of `entries` say different things of one bucket.
pub fn know_buckets(entries: &[CatalogEntry], storage: &Storage) -> Result<()> {
    storage.forget_buckets();
    let mut said: HashMap<Url, &CatalogEntry> = HashMap::new();
    for entry in entries {
        let Some(bucket) = bucket_of(&entry.uri) else { continue };
        storage.know_bucket(&bucket, &entry.storage);
        match said.insert(bucket, entry) {
            Some(other) if other.storage != entry.storage => {
                return Err(QueryError::invalid(format!(
                    "catalogs `{}` and `{}` are in one bucket and say different `storage`: say the same for both",
                    other.name, entry.name
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the table that `entry` names. A relative uri is below `base`.
///
/// # Errors
/// `Invalid` when the entry cannot be one, `Data` when the table is not there or not as it should be, `Unavailable` when
/// the store does not answer. The error says which catalog it is of.
pub async fn open(entry: &CatalogEntry, base: &Path, storage: &Storage) -> Result<Table> {
    if let Some(bucket) = bucket_of(&entry.uri) {
        storage.know_bucket(&bucket, &entry.storage);
        storage.bucket_options(&bucket).await;
    }
    let opened = match entry.kind {
        CatalogType::DeltaLake => match Location::parse(&entry.uri, base) {
            // The log's reader has been seen to panic where it says something unheard of.
            Ok(place) => unpanicked(delta::open(place, entry, storage)).await.and_then(|opened| opened),
            Err(error) => Err(error),
        },
        CatalogType::Parquet => parquet_files::open(entry, base, storage).await,
        CatalogType::Csv | CatalogType::Json => text_files::open(entry, base, storage).await,
        CatalogType::Static => static_list::open(&entry.uri, base, storage).await,
    };
    match opened {
        Ok(mut table) => {
            table.name = entry.name.clone();
            table.bucket = storage.bucket_options(&table.store).await;
            for root in &mut table.stores {
                root.bucket = storage.bucket_options(&root.url).await;
            }
            storage.know_stores(&table.stores)?;
            let own = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|key| std::env::var(key).ok());
            table.warnings.extend(other_region(&table, own.as_deref()));
            Ok(table)
        }
        Err(error) => {
            // Stores answer by paths within them, or by none.
            let names_it = bucket_of(&entry.uri).is_none_or(|bucket| error.to_string().contains(bucket.as_str()));
            let error = if names_it { error } else { error.at(&entry.uri) };
            Err(error.at(format!("catalog `{}`", entry.name)))
        }
    }
}

/// The root of the bucket that `uri` names, if it names one.
fn bucket_of(uri: &str) -> Option<Url> {
    let rest = uri.strip_prefix("s3://").or_else(|| uri.strip_prefix("s3a://"))?;
    Url::parse(&format!("s3://{}/", rest.split('/').next()?)).ok()
}

/// What to say of a table of which a bucket is not in the region `own`, where this runs.
fn other_region(table: &Table, own: Option<&str>) -> Vec<String> {
    let own = own.filter(|own| !own.is_empty());
    let warning = |(url, bucket): (&Url, &BucketOptions)| {
        let region = bucket.region.as_deref()?;
        let (own, bucket) = (own.filter(|own| *own != region)?, url.host_str()?);
        let name = &table.name;
        Some(format!(
            "table `{name}`: its bucket `{bucket}` is in {region}, this runs in {own}; AWS bills the transfer"
        ))
    };
    let roots = table.stores.iter().map(|root| (&root.url, &root.bucket));
    roots.chain([(&table.store, &table.bucket)]).filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use buzz_protocol::BucketOptions;

    use super::*;

    #[test]
    fn a_bucket_of_another_region_is_warned_of() {
        let store = bucket_of("s3a://lake/t/*.parquet").unwrap();
        let mut table = Table::new("t".to_string(), store, &Schema::empty(), Vec::new(), Vec::new()).unwrap();
        assert_eq!(other_region(&table, Some("us-east-1")), [""; 0]);
        table.bucket = BucketOptions { region: Some("eu-west-1".to_string()), ..BucketOptions::default() };
        assert_eq!((other_region(&table, Some("eu-west-1")), other_region(&table, None)), (Vec::new(), Vec::new()));
        let warning = other_region(&table, Some("us-east-1"));
        assert!(warning[0].contains("`lake` is in eu-west-1, this runs in us-east-1"), "{warning:?}");
        assert_eq!(bucket_of("/s3://x"), None);
    }

    #[test]
    fn catalogs_in_one_bucket_say_the_same_of_it() {
        let storage = Storage::default();
        let entry = |name: &str, uri: &str| CatalogEntry::new(name, CatalogType::Parquet, uri);
        let mut entries = [entry("a", "s3://lake/a"), entry("b", "s3://lake/b"), entry("c", "s3://other/c")];
        assert!(know_buckets(&entries, &storage).is_ok());
        entries[1].storage.anonymous = Some(true);
        let error = know_buckets(&entries, &storage).unwrap_err().to_string();
        assert!(error.contains("catalogs `a` and `b` are in one bucket"), "{error}");
        entries[0].storage.anonymous = Some(true);
        assert!(know_buckets(&entries, &storage).is_ok());
        let lake = bucket_of("s3://lake/").unwrap();
        assert_eq!(storage.known_options(&lake).anonymous, Some(true));
        assert!(know_buckets(&entries[2..], &storage).is_ok());
        assert!(storage.known_options(&lake).is_empty());
    }
}
