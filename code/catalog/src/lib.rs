//! Catalogs: from a name and a place to a [`Table`], which is a schema and a list of files.
//!
//! Delta Lake tables, folders of Parquet and Static lists differ only in how they find that list. Everything after it
//! (pruning, splitting, reading) is one code path for all.

use std::path::Path;

use buzz_protocol::{CatalogEntry, CatalogType, Result};
use buzz_storage::{Location, Storage};
use futures::StreamExt;

mod table;

mod delta;

mod parquet_files;

mod static_list;

mod values;

pub use table::{DataFile, Table};

/// The kind of table that `uri` names, by what is there: a manifest (`.json`), a Delta Lake table (it has a
/// `_delta_log`), or else Parquet.
///
/// # Errors
/// `Invalid` when the uri cannot be one.
pub async fn kind_of(uri: &str, base: &Path, storage: &Storage) -> Result<CatalogType> {
    if uri.ends_with(".json") {
        return Ok(CatalogType::Static);
    }
    if uri.contains(['*', '?', '[']) {
        return Ok(CatalogType::Parquet);
    }
    let log = Location::parse(uri, base)?.join("_delta_log")?;
    let found = storage.store(&log.store)?.list(Some(&log.path)).next().await;
    Ok(if matches!(found, Some(Ok(_))) { CatalogType::DeltaLake } else { CatalogType::Parquet })
}

/// Opens the table that `entry` names. A relative uri is below `base`.
///
/// # Errors
/// `Invalid` when the uri cannot be one, `Data` when the table is not there or not as it should be, `Unavailable` when
/// the store does not answer. The error says which catalog it is of.
pub async fn open(entry: &CatalogEntry, base: &Path, storage: &Storage) -> Result<Table> {
    let opened = match entry.kind {
        CatalogType::DeltaLake => match Location::parse(&entry.uri, base) {
            Ok(place) => delta::open(place, storage).await,
            Err(error) => Err(error),
        },
        CatalogType::Parquet => parquet_files::open(&entry.uri, base, storage).await,
        CatalogType::Static => static_list::open(&entry.uri, base, storage).await,
    };
    match opened {
        Ok(mut table) => {
            table.name = entry.name.clone();
            Ok(table)
        }
        Err(error) => Err(error.at(format!("catalog `{}`", entry.name))),
    }
}
