//! Version tags of files: a file that is written again has another.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use buzz_catalog::Table;
use buzz_protocol::FileFormat;
use buzz_storage::QueryStores;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

/// Requests for tags at the same time.
const AT_ONCE: usize = 64;

/// Maximum number of files of a table whose tags are requested.
const FILES_MAX: usize = 10_000;

/// Age from which a file on a disk counts as settled. Its tag is made of its time, and two writes within the resolution of
/// the clock have one time.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Knowledge of the versions of all files.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// A file has no tag, for this reason.
    Missing(String),
    /// A file was written just now.
    Fresh,
    /// Every file has a tag, which changes with it.
    Settled,
}

/// Adds the tags to the files of `tables` that have none. HBees then check that they read these versions. The times of files
/// on a disk are looked at too.
pub(super) async fn add_tags(tables: &mut [Table], stores: &QueryStores) -> Tags {
    let mut tags = Tags::Settled;
    for table in tables.iter_mut().filter(|table| table.is_open()) {
        match add_tags_of(table, stores).await {
            Ok(true) => {}
            Ok(false) => tags = Tags::Fresh,
            Err(why) => return Tags::Missing(format!("table `{}` {why}", table.name)),
        }
    }
    tags
}

/// Adds the tags of one table. Returns true if all its files are settled, or the reason why there are no tags.
async fn add_tags_of(table: &mut Table, stores: &QueryStores) -> Result<bool, String> {
    if matches!(table.format, FileFormat::Segments(_)) {
        return Err("is a stream, whose log may name more rows at any time".to_string());
    }
    // Objects of a bucket have tags that are made of their contents.
    let by_time = table.store.scheme() != "s3";
    let asked: Vec<usize> =
        (0..table.files.len()).filter(|file| by_time || table.files[*file].e_tag.is_none()).collect();
    if asked.len() > FILES_MAX {
        return Err(format!("has more than {FILES_MAX} files whose version tags are not listed"));
    }
    let store = stores.store(&table.store).map_err(|error| format!("cannot be read: {error}"))?;
    let heads: Vec<_> = asked.iter().map(|file| head(Arc::clone(&store), table.files[*file].path.clone())).collect();
    let found: Vec<ObjectMeta> = futures::stream::iter(heads).buffered(AT_ONCE).try_collect().await?;
    let before = buzz_protocol::now() - SETTLED_AFTER;
    let mut settled = true;
    for (file, meta) in asked.into_iter().zip(found) {
        let file = &mut table.files[file];
        if meta.e_tag.is_none() {
            return Err(format!("has a file without a version tag: `{}`", file.path));
        }
        if file.size != meta.size || file.e_tag.is_some() && file.e_tag != meta.e_tag {
            return Err(format!("has changed since it was opened: `{}`", file.path));
        }
        file.e_tag = meta.e_tag;
        settled &= !by_time || SystemTime::from(meta.last_modified) <= before;
    }
    Ok(settled)
}

async fn head(store: Arc<dyn ObjectStore>, path: String) -> Result<ObjectMeta, String> {
    let place = Path::parse(&path).map_err(|error| format!("has a path that is not valid: {error}"))?;
    store.head(&place).await.map_err(|error| format!("has a file that cannot be looked at: {error}"))
}
