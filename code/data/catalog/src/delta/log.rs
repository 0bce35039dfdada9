//! Loads a table's log with delta-rs, and caches the snapshot for the next query.

use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use buzz_storage::{Location, QueryStores};
use deltalake::logstore::logstore_factories;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::failure::{in_table, query_error};
use super::hint::TrueHints;

/// A snapshot cached for the next query or write, and the commit file of its version. If that file has changed, the table was
/// replaced and the snapshot is invalid.
pub(super) struct CachedTable {
    pub(super) table: DeltaTable,
    pub(super) commit: ObjectMeta,
}

/// Loads the newest version. If this process has a valid snapshot, only newer commits are read.
///
/// # Errors
/// The errors of [`load`].
pub(super) async fn newest(place: &Location, store: &Arc<dyn ObjectStore>, stores: &QueryStores) -> Result<DeltaTable> {
    // A snapshot keeps the store that it was loaded from, so the key includes the store's options.
    let key = format!("delta {place} {:?}", stores.known_options(&place.store));
    let mut table = None;
    if let Some(kept) = stores.kept::<CachedTable>(&key)
        && store.head(&kept.commit.location).await.is_ok_and(|commit| commit == kept.commit)
    {
        let mut newer = kept.table.clone();
        // On failure, reading the whole log reports the error.
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
        stores.keep(&key, CachedTable { table: table.clone(), commit });
    }
    Ok(table)
}

/// Loads the given version, or the newest if `version` is `None`.
///
/// # Errors
/// `Data` if the table does not exist or its log is invalid, `Invalid` if the version is newer than the newest,
/// `Unavailable` if the store does not respond.
pub(super) async fn load(place: &Location, store: &Arc<dyn ObjectStore>, version: Option<u64>) -> Result<DeltaTable> {
    let failed = |failure: DeltaTableError| query_error(place, failure);
    let url = place.directory_url();
    know_scheme(&url);
    let hinted: Arc<dyn ObjectStore> = Arc::new(TrueHints(Arc::clone(store)));
    let log = DeltaTableBuilder::from_url(url.clone()).map_err(failed)?.with_storage_backend(hinted, url);
    let Some(version) = version else {
        return match log.load().await {
            Ok(table) => Ok(table),
            Err(error) => Err(explained(place, store.as_ref(), error).await),
        };
    };
    // For a version far ahead, delta-rs would look for every version before it. An old version may exist only in a
    // checkpoint, so a missing commit file alone proves nothing.
    let commit = place.join(&format!("_delta_log/{version:020}.json"))?;
    if matches!(store.head(&commit.path).await, Err(object_store::Error::NotFound { .. })) {
        let newest = Box::pin(load(place, store, None)).await?.version().unwrap_or_default();
        if version > newest {
            let error = format!("Delta table {place} has no version {version}; the newest is {newest}");
            return Err(QueryError::invalid(error));
        }
    }
    match log.with_version(version).load().await {
        Ok(table) if table.version() == Some(version) => Ok(table),
        Ok(_) => Err(QueryError::data(format!("Delta table {place} has no version {version}"))),
        Err(error) => Err(explained(place, store.as_ref(), error).await.at(format!("version {version}"))),
    }
}

/// Converts `error` to a query error. delta-rs keeps only the text of errors of the store, so this lists the log once
/// more to get the store's own error.
async fn explained(place: &Location, store: &dyn ObjectStore, error: DeltaTableError) -> QueryError {
    let listed = match place.join("_delta_log") {
        Ok(log) => store.list(Some(&log.path)).try_next().await,
        Err(error) => return error,
    };
    match listed {
        Err(error) => in_table(place, error.into()),
        Ok(_) => query_error(place, error),
    }
}

/// Registers the log store of `file` URLs with delta-rs for the scheme of `url`. Without it, delta-rs rejects `s3`,
/// although the store is passed in: its S3 log store comes only with its S3 client, which Buzz does not use.
pub(super) fn know_scheme(url: &Url) {
    let log_stores = logstore_factories();
    let parse = |scheme: &str| Url::parse(&format!("{scheme}://")).expect("the scheme of a URL makes one");
    let plain = log_stores.get(&parse("file")).map(|of_files| Arc::clone(of_files.value()));
    if let Some(plain) = plain {
        log_stores.entry(parse(url.scheme())).or_insert(plain);
    }
}
