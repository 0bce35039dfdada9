//! The few operations on a store that the protocol uses, with their bounds.

use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::rules::Rules;

/// Maximum size of an object that is read as a whole into memory.
pub const OBJECT_BYTES_MAX: u64 = 4 << 30;

/// Maximum number of objects that one listing may return.
pub const LISTED_MAX: usize = 1_000_000;

/// Number of objects that are read or probed at once.
pub(crate) const READS_AT_ONCE: usize = 16;

/// The result of creating an object.
#[derive(Debug)]
pub(crate) enum Created {
    /// The object has the bytes of this call.
    Mine,
    /// Another process created it first, with these bytes.
    Theirs(Bytes),
}

/// Creates `path` with `bytes`, unless it exists. Recognises its own object if the answer to an earlier try was lost,
/// because the bytes are equal. So they must contain something unique, unless equal bytes mean the same.
///
/// # Errors
/// The error of the store. The object may exist nevertheless.
pub(crate) async fn create(store: &Arc<dyn ObjectStore>, path: &Path, bytes: Bytes, rules: Rules) -> Result<Created> {
    let mode = if rules.creates_records() { PutMode::Create } else { PutMode::Overwrite };
    let options = PutOptions { mode, ..PutOptions::default() };
    let failure = match store.put_opts(path, bytes.clone().into(), options).await {
        Ok(_) => return Ok(Created::Mine),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => None,
        Err(error) => Some(error),
    };
    match (read(store, path).await, failure) {
        (Ok(Some(stored)), _) if stored == bytes && rules.recognises_own() => Ok(Created::Mine),
        (Ok(Some(stored)), _) => Ok(Created::Theirs(stored)),
        (_, Some(failure)) => Err(failure.into()),
        (Err(error), None) => Err(error),
        (Ok(None), None) => Err(QueryError::data(format!(
            "`{path}` was deleted while it was created; only Buzz may write in its folders"
        ))),
    }
}

/// Reads `path`; `None` if it does not exist.
///
/// # Errors
/// The error of the store; `Limit` beyond [`OBJECT_BYTES_MAX`].
pub async fn read(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<Option<Bytes>> {
    let found = match store.get(path).await {
        Ok(found) => found,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = found.meta.size;
    if size > OBJECT_BYTES_MAX {
        return Err(QueryError::limit(format!("`{path}` has {size} bytes, more than the {OBJECT_BYTES_MAX} allowed")));
    }
    Ok(Some(found.bytes().await?))
}

/// Returns whether `path` exists.
pub(crate) async fn exists(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<bool> {
    match store.head(path).await {
        Ok(_) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Lists the objects below `folder` that sort after `after`, sorted by path.
///
/// # Errors
/// `Limit` if there are more than [`LISTED_MAX`].
pub(crate) async fn list(store: &Arc<dyn ObjectStore>, folder: &Path, after: Option<&Path>) -> Result<Vec<Path>> {
    let mut listed = match after {
        Some(after) => store.list_with_offset(Some(folder), after),
        None => store.list(Some(folder)),
    };
    let mut paths = Vec::new();
    while let Some(meta) = listed.try_next().await? {
        if paths.len() == LISTED_MAX {
            return Err(QueryError::limit(format!("`{folder}` has more than {LISTED_MAX} objects; delete old ones")));
        }
        paths.push(meta.location);
    }
    paths.sort();
    Ok(paths)
}

/// Deletes `paths`, of which some may be missing, and returns how many existed.
pub(crate) async fn delete(store: &Arc<dyn ObjectStore>, paths: Vec<Path>) -> Result<u64> {
    let mut deleting = store.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed());
    let mut deleted = 0;
    while let Some(answer) = deleting.next().await {
        match answer {
            Ok(_) => deleted += 1,
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(deleted)
}
