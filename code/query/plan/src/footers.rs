//! Splits of files whose footers must be read to find where they can be divided.

use std::sync::Arc;

use buzz_catalog::{DataFile, Table};
use buzz_protocol::{FileFormat, Place, QueryError, Result};
use buzz_storage::{QueryStores, full_path};
use chrono::DateTime;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::split::{FileSplit, line_splits, row_group_splits};

/// Maximum number of footers read at the same time.
pub(crate) const FOOTERS_AT_ONCE: usize = 32;

/// Divides files into splits of about `target` bytes: larger Parquet files between row groups, text files at any byte.
pub(crate) async fn row_groups(
    stores: &QueryStores,
    table: &Table,
    files: &[DataFile],
    target: u64,
) -> Result<Vec<FileSplit>> {
    let store = stores.store(&table.store)?;
    let (mut splits, mut large) = (Vec::with_capacity(files.len()), Vec::new());
    for (index, file) in files.iter().enumerate() {
        if table.format.is_divisible(&file.path) {
            splits.extend(line_splits(index, file.size, target));
        } else if file.size <= target || table.format != FileFormat::Parquet {
            splits.push(FileSplit { file: index, range: None, bytes: file.size });
        } else {
            large.push((index, file));
        }
    }
    // The future that reads a footer takes kilobytes, and the number of files is unbounded.
    for some in large.chunks(FOOTERS_AT_ONCE * 8) {
        let reading: Vec<_> =
            some.iter().map(|(index, file)| by_footer(Arc::clone(&store), table, *index, file, target)).collect();
        let read: Vec<_> = futures::stream::iter(reading).buffered(FOOTERS_AT_ONCE).try_collect().await?;
        splits.extend(read.into_iter().flatten());
    }
    splits.sort_by_key(|split| (split.file, split.range));
    Ok(splits)
}

/// Divides one large Parquet file by its footer.
async fn by_footer(
    store: Arc<dyn ObjectStore>,
    table: &Table,
    index: usize,
    file: &DataFile,
    target: u64,
) -> Result<Vec<FileSplit>> {
    let place = |error: QueryError| error.at(Place::file_of(&table.name, full_path(&table.store, &file.path)));
    let object = object_meta(file).map_err(place)?;
    let footer = buzz_storage::footer(store.as_ref(), &object, None).await.map_err(place)?;
    Ok(row_group_splits(index, file.size, &footer, target))
}

/// Returns what the store is expected to report of `file`.
///
/// # Errors
/// `Data` if its path is not valid.
pub(crate) fn object_meta(file: &DataFile) -> Result<ObjectMeta> {
    let location =
        Path::parse(&file.path).map_err(|error| QueryError::data(format!("`{}` is not a path: {error}", file.path)))?;
    Ok(ObjectMeta { location, last_modified: DateTime::UNIX_EPOCH, size: file.size, e_tag: None, version: None })
}
