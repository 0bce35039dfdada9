//! Footers of Parquet files.

use std::any::Any;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, TimeUnit};
use datafusion::datasource::physical_plan::parquet::Int96Coercer;
use datafusion::datasource::physical_plan::parquet::metadata::{CachedParquetMetaData, DFParquetMetadata};
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::basic::{ConvertedType, LogicalType, SortOrder, Type as PhysicalType};
use datafusion::parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataBuilder, RowGroupMetaData,
};
use datafusion::parquet::file::statistics::Statistics;
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
    let reader = DFParquetMetadata::new(store, file).with_file_metadata_cache(cache.clone());
    let read = unpanicked(reader.fetch_metadata()).await??;
    let mut footer = Arc::clone(&read);
    for trusted in [without_old_bounds, with_rows_of_groups] {
        footer = trusted(&footer).map_or(footer, Arc::new);
    }
    if let Some(cache) = cache
        && !Arc::ptr_eq(&read, &footer)
    {
        let entry = Arc::new(CachedParquetMetaData::new(Arc::clone(&footer)));
        cache.put(&file.location, CachedFileMetadataEntry::new(file.clone(), entry));
    }
    let (whole, parts) = (footer.file_metadata().num_rows(), rows_of_groups(&footer));
    if whole != parts {
        return Err(QueryError::data(format!(
            "not readable Parquet: its footer says it has {whole} rows, and that its row groups have {parts}"
        )));
    }
    Ok(footer)
}

fn rows_of_groups(footer: &ParquetMetaData) -> i64 {
    footer.row_groups().iter().map(RowGroupMetaData::num_rows).fold(0, i64::saturating_add)
}

/// `footer` with the rows of its row groups together, where it says that the file has none: some old writers left that
/// number out. None when it says otherwise.
fn with_rows_of_groups(footer: &ParquetMetaData) -> Option<ParquetMetaData> {
    let (file, rows) = (footer.file_metadata(), rows_of_groups(footer));
    if file.num_rows() != 0 || rows <= 0 {
        return None;
    }
    let (writer, pairs) = (file.created_by().map(str::to_string), file.key_value_metadata().cloned());
    let (schema, orders) = (file.schema_descr_ptr(), file.column_orders().cloned());
    let mended = FileMetaData::new(file.version(), rows, writer, pairs, schema, orders);
    let builder = ParquetMetaDataBuilder::new(mended).set_row_groups(footer.row_groups().to_vec());
    let builder = builder.set_column_index(footer.column_index().cloned());
    Some(builder.set_offset_index(footer.offset_index().cloned()).build())
}

/// `footer` without the bounds that old writers left of bytes and of numbers without sign: they compared them in another
/// way than readers do, so that a reader who trusts them skips rows. None when there are none.
/// [Documented here](https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift), at `Statistics`.
fn without_old_bounds(footer: &ParquetMetaData) -> Option<ParquetMetaData> {
    let is_old = |column: &ColumnChunkMetaData| {
        let of_bytes = matches!(
            column.column_type(),
            PhysicalType::BYTE_ARRAY | PhysicalType::FIXED_LEN_BYTE_ARRAY | PhysicalType::INT96
        );
        let ordered_otherwise = of_bytes || column.column_descr().sort_order() != SortOrder::SIGNED;
        ordered_otherwise && column.statistics().is_some_and(Statistics::is_min_max_deprecated)
    };
    if !footer.row_groups().iter().any(|group| group.columns().iter().any(is_old)) {
        return None;
    }
    let column = |column: &ColumnChunkMetaData| match is_old(column) {
        true => column.clone().into_builder().clear_statistics().build().ok(),
        false => Some(column.clone()),
    };
    let group = |group: &RowGroupMetaData| {
        let columns = group.columns().iter().map(column).collect::<Option<Vec<_>>>()?;
        group.clone().into_builder().set_column_metadata(columns).build().ok()
    };
    let groups = footer.row_groups().iter().map(group).collect::<Option<Vec<_>>>()?;
    Some(footer.clone().into_builder().set_row_groups(groups).build())
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
    AssertUnwindSafe(read).catch_unwind().await.map_err(|panic| reader_panicked(panic.as_ref()))
}

/// What the panic of a file's reader means.
pub fn reader_panicked(panic: &(dyn Any + Send)) -> QueryError {
    QueryError::data(format!("the file is corrupt, its reader panicked: {}", panic_message(panic)))
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
