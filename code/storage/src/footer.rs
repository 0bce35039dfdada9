//! Footers of Parquet files.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use datafusion::arrow::datatypes::Schema;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::parquet::file::metadata::ParquetMetaData;
use futures::FutureExt;
use object_store::{ObjectMeta, ObjectStore};

/// The footer of `file`; kept in `cache` if there is one.
///
/// # Errors
/// `Data` when it is not a Parquet file, or not there; `Unavailable` when the store does not answer.
pub async fn footer(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    cache: Option<Arc<FileMetadataCache>>,
) -> Result<Arc<ParquetMetaData>> {
    let reader = DFParquetMetadata::new(store, file).with_file_metadata_cache(cache);
    unpanicked(reader.fetch_metadata()).await?.map_err(QueryError::from)
}

/// The schema that the footer of `file` gives.
///
/// # Errors
/// As [`footer`].
pub async fn footer_schema(store: &dyn ObjectStore, file: &ObjectMeta) -> Result<Schema> {
    unpanicked(DFParquetMetadata::new(store, file).fetch_schema()).await?.map_err(QueryError::from)
}

/// What `read`, which reads a file, comes to. Readers of corrupt files have been seen to panic; that is an error of the
/// file, not of the process.
///
/// # Errors
/// `Data` when it panics.
pub async fn unpanicked<T>(read: impl Future<Output = T>) -> Result<T> {
    AssertUnwindSafe(read).catch_unwind().await.map_err(|panic| {
        QueryError::data(format!("the file is corrupt, its reader panicked: {}", panic_message(panic.as_ref())))
    })
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
