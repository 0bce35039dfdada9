//! Footers of Parquet files.

use std::any::Any;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, TimeUnit};
use datafusion::datasource::physical_plan::parquet::Int96Coercer;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::basic::{ConvertedType, LogicalType};
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::parquet::schema::types::ColumnDescriptor;
use futures::FutureExt;
use object_store::{ObjectMeta, ObjectStore};

/// The unit in which timestamps that take 96 bits are read, as DataFusion writes it in its option. In nanoseconds, which
/// arrow's reader would take, years before 1678 and after 2261 become others.
pub const INT96_UNIT: &str = "us";

/// The footer of `file`; kept in `cache` if there is one.
///
/// # Errors
/// `Data` when it is not a Parquet file, contradicts itself, or is not there; `Unavailable` when the store does not
/// answer.
pub async fn footer(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    cache: Option<Arc<FileMetadataCache>>,
) -> Result<Arc<ParquetMetaData>> {
    let reader = DFParquetMetadata::new(store, file).with_file_metadata_cache(cache);
    let footer = unpanicked(reader.fetch_metadata()).await??;
    let (whole, parts) = (footer.file_metadata().num_rows(), footer.row_groups().iter().map(|group| group.num_rows()));
    let parts = parts.fold(0_i64, i64::saturating_add);
    if whole != parts {
        return Err(QueryError::data(format!(
            "not readable Parquet: its footer says it has {whole} rows, and that its row groups have {parts}"
        )));
    }
    Ok(footer)
}

/// The columns that `footer` gives, as they are read: texts that a logical type says are texts, timestamps of 96 bits in
/// microseconds.
///
/// # Errors
/// `Data` when a type has no counterpart, or a group has no fields: columns behind it cannot be found.
pub fn footer_schema(footer: &ParquetMetaData) -> Result<Schema> {
    let parquet = footer.file_metadata().schema_descr();
    let used: HashSet<usize> = (0..parquet.num_columns()).map(|column| parquet.get_column_root_idx(column)).collect();
    let mut fields = parquet.root_schema().get_fields().iter().enumerate();
    if let Some((_, hollow)) = fields.find(|(index, _)| !used.contains(index)) {
        let name = hollow.name();
        return Err(QueryError::data(format!("not readable Parquet: column `{name}` is a group without fields")));
    }
    let plain = parquet_to_arrow_schema(parquet, footer.file_metadata().key_value_metadata());
    let plain = plain.map_err(|error| QueryError::data(format!("not readable Parquet: {error}")))?;
    let schema = Int96Coercer::new(parquet, &plain, &TimeUnit::Microsecond).coerce().unwrap_or(plain);
    let enums: HashSet<&str> = parquet.columns().iter().filter_map(|column| enum_column(column)).collect();
    let read = |field: &FieldRef| {
        let text = enums.contains(field.name().as_str()) && *field.data_type() == DataType::Binary;
        if text { Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)) } else { Arc::clone(field) }
    };
    Ok(Schema::new(schema.fields().iter().map(read).collect::<Vec<_>>()))
}

/// The name of a column that is not inside another and holds names of an enumeration.
fn enum_column(column: &ColumnDescriptor) -> Option<&str> {
    let is_enum =
        matches!(column.logical_type_ref(), Some(LogicalType::Enum)) || column.converted_type() == ConvertedType::ENUM;
    match column.path().parts() {
        [name] if is_enum => Some(name),
        _ => None,
    }
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
