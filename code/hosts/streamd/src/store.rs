//! The place of state: a folder whose files are synced, or a bucket.

use std::path::Path as FilePath;
use std::sync::Arc;

use buzz_connect::Place;
use buzz_protocol::{QueryError, Result};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

/// Opens a folder or an s3:// uri. With `sync`, files of a folder are on the disk before a write returns.
///
/// # Errors
/// `Invalid` if the uri or the settings of its bucket are wrong, `Data` if the folder cannot be used.
pub async fn open(uri: &str, sync: bool, place: &Place) -> Result<(Arc<dyn ObjectStore>, Path)> {
    if is_remote(uri) {
        let (location, store) = place.open(uri).await?;
        return Ok((store, location.path));
    }
    let folder = FilePath::new(uri.trim_start_matches("file://"));
    if sync {
        return Ok((buzz_storage::synced_folder(folder)?, Path::default()));
    }
    let failed = |error: &dyn std::fmt::Display| {
        QueryError::data(format!("folder `{}` cannot be used: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(&error))?;
    Ok((Arc::new(store), Path::default()))
}

/// Checks that the folder of a state exists. A bucket is not checked.
///
/// # Errors
/// `Invalid` if it does not exist.
pub fn check_exists(uri: &str) -> Result<()> {
    if is_remote(uri) || FilePath::new(uri.trim_start_matches("file://")).is_dir() {
        return Ok(());
    }
    Err(QueryError::invalid(format!("folder `{uri}` of the state does not exist")))
}

/// Returns true for a bucket, where an epoch costs requests.
pub fn is_remote(uri: &str) -> bool {
    uri.contains("://") && !uri.starts_with("file://")
}

/// Returns the name of the only pipeline below `root`.
pub(crate) async fn only_pipeline(store: &Arc<dyn ObjectStore>, root: &Path) -> Result<String> {
    let listed = store.list_with_delimiter(Some(&root.clone().join("pipelines"))).await?;
    let names: Vec<String> =
        listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_string)).collect();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(QueryError::invalid("the state has no pipeline; start one with `buzz stream run FILE --state URI`")),
        names => {
            Err(QueryError::invalid(format!("the state has pipelines {}; choose one with --name", names.join(", "))))
        }
    }
}
