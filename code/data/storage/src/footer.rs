//! Footers of Parquet files.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use buzz_protocol::{QueryError, Result, panic_message};
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields, Schema, TimeUnit};
use datafusion::datasource::physical_plan::parquet::Int96Coercer;
use datafusion::datasource::physical_plan::parquet::metadata::{CachedParquetMetaData, DFParquetMetadata};
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use datafusion::parquet::basic::{ConvertedType, LogicalType, SortOrder, Type as PhysicalType};
use datafusion::parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder, RowGroupMetaData,
};
use datafusion::parquet::file::statistics::Statistics;
use datafusion::parquet::schema::types::ColumnDescriptor;
use futures::FutureExt;
use object_store::{ObjectMeta, ObjectStore};

/// The unit in which 96-bit timestamps are read, as a value of DataFusion's option. In nanoseconds, the default of
/// arrow's reader, years before 1678 and after 2261 would overflow.
pub const INT96_UNIT: &str = "us";

/// Reads the footer of `file`, through `cache` if given.
///
/// # Errors
/// `Data` if the file does not exist, is not a Parquet file or has inconsistent row counts; `Unavailable` if the store
/// does not respond.
pub async fn footer(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    cache: Option<Arc<FileMetadataCache>>,
) -> Result<Arc<ParquetMetaData>> {
    let reader = DFParquetMetadata::new(store, file).with_file_metadata_cache(cache.clone());
    let read = unpanicked(reader.fetch_metadata()).await??;
    let mut footer = Arc::clone(&read);
    for trusted in [without_old_bounds, with_rows_of_groups, with_readable_types] {
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
            "not readable Parquet: the footer lists {whole} rows for the file, but {parts} for its row groups"
        )));
    }
    Ok(footer)
}

fn rows_of_groups(footer: &ParquetMetaData) -> i64 {
    footer.row_groups().iter().map(RowGroupMetaData::num_rows).fold(0, i64::saturating_add)
}

/// Returns `footer` with the sum of its row groups' rows, if it lists zero rows for the file: some old writers omitted
/// that number. Returns `None` for any other footer.
fn with_rows_of_groups(footer: &ParquetMetaData) -> Option<ParquetMetaData> {
    let (file, rows) = (footer.file_metadata(), rows_of_groups(footer));
    let lacks_rows = file.num_rows() == 0 && rows > 0;
    lacks_rows.then(|| with_file(footer, rows, file.key_value_metadata().cloned()))
}

/// Replaces the number of rows and the key-value pairs of `footer`.
fn with_file(footer: &ParquetMetaData, rows: i64, pairs: Option<Vec<KeyValue>>) -> ParquetMetaData {
    let file = footer.file_metadata();
    let (writer, orders) = (file.created_by().map(str::to_string), file.column_orders().cloned());
    let mended = FileMetaData::new(file.version(), rows, writer, pairs, file.schema_descr_ptr(), orders);
    let builder = ParquetMetaDataBuilder::new(mended).set_row_groups(footer.row_groups().to_vec());
    let builder = builder.set_column_index(footer.column_index().cloned());
    builder.set_offset_index(footer.offset_index().cloned()).build()
}

/// Returns `footer` with Arrow types that the reader supports, if those that the writer stored beside Parquet's are not:
/// - a dictionary whose values are not text or bytes becomes its values;
/// - `Date64` for a column of Parquet's dates becomes `Date32`;
/// - if the types cannot be decoded, for example integers of 128 bits, those of Parquet itself are read.
///
/// Returns `None` for any other footer.
fn with_readable_types(footer: &ParquetMetaData) -> Option<ParquetMetaData> {
    let (file, parquet) = (footer.file_metadata(), footer.file_metadata().schema_descr());
    let pairs = file.key_value_metadata()?;
    let stored = pairs.iter().position(|pair| pair.key == ARROW_SCHEMA_META_KEY)?;
    let read = catch_unwind(AssertUnwindSafe(|| parquet_to_arrow_schema(parquet, Some(pairs))));
    let types = match read {
        Ok(schema) => {
            let schema = schema.ok()?;
            let is_day = |field: &FieldRef| *field.data_type() == DataType::Date64;
            // Of most files, the types of Parquet alone are not needed.
            let has_days = schema.fields().iter().any(is_day);
            let plain = if has_days { parquet_to_arrow_schema(parquet, None).ok()? } else { Schema::empty() };
            let is_date = |field: &FieldRef| {
                let plain = plain.field_with_name(field.name());
                is_day(field) && plain.is_ok_and(|plain| *plain.data_type() == DataType::Date32)
            };
            let readable = |field: &FieldRef| match is_date(field) {
                true => Arc::new(field.as_ref().clone().with_data_type(DataType::Date32)),
                false => without_odd_dictionaries(field),
            };
            let readable: Fields = schema.fields().iter().map(readable).collect();
            if readable == *schema.fields() {
                return None;
            }
            Some(encode_arrow_schema(&Schema::new(readable)))
        }
        Err(_) => None,
    };
    let mut pairs = pairs.clone();
    match types {
        Some(types) => pairs[stored].value = Some(types),
        None => {
            pairs.remove(stored);
        }
    }
    Some(with_file(footer, file.num_rows(), Some(pairs)))
}

/// Returns `field` with the values of dictionaries that are not of text or bytes.
fn without_odd_dictionaries(field: &FieldRef) -> FieldRef {
    use DataType::{
        Binary, BinaryView, Dictionary, FixedSizeBinary, FixedSizeList, LargeBinary, LargeList, LargeUtf8, List, Map,
        Struct, Utf8, Utf8View,
    };
    let data_type = match field.data_type() {
        Dictionary(_, values) => match values.as_ref() {
            Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => {
                return Arc::clone(field);
            }
            values => values.clone(),
        },
        List(item) => List(without_odd_dictionaries(item)),
        LargeList(item) => LargeList(without_odd_dictionaries(item)),
        FixedSizeList(item, length) => FixedSizeList(without_odd_dictionaries(item), *length),
        Map(entries, is_sorted) => Map(without_odd_dictionaries(entries), *is_sorted),
        Struct(fields) => Struct(fields.iter().map(without_odd_dictionaries).collect()),
        _ => return Arc::clone(field),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// Returns `footer` without the minima and maxima that old writers computed for bytes and unsigned numbers. These
/// writers used another order than readers, so pruning by these bounds would lose rows. Returns `None` if there are no
/// such bounds.
/// [Documented here](https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift), at
/// `Statistics`.
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

/// Returns the columns of `footer` with the types in which they are read: enumerations as text, 96-bit timestamps in
/// microseconds.
///
/// # Errors
/// `Data` if a type has no Arrow type, or a group has no fields: columns after it cannot be found.
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

/// Returns the name of `column` if it is a top-level column of an enumeration type.
fn enum_column(column: &ColumnDescriptor) -> Option<&str> {
    let is_enum =
        matches!(column.logical_type_ref(), Some(LogicalType::Enum)) || column.converted_type() == ConvertedType::ENUM;
    match column.path().parts() {
        [name] if is_enum => Some(name),
        _ => None,
    }
}

/// Runs `read`, which reads a file, and converts a panic into an error. Readers sometimes panic on corrupt files; that
/// is an error of the file, not of the process.
///
/// # Errors
/// `Data` if `read` panics.
pub async fn unpanicked<T>(read: impl Future<Output = T>) -> Result<T> {
    AssertUnwindSafe(read).catch_unwind().await.map_err(|panic| reader_panicked(panic.as_ref()))
}

/// Converts the panic of a file's reader into an error of kind `Data`.
pub fn reader_panicked(panic: &(dyn Any + Send)) -> QueryError {
    QueryError::data(format!("the file is corrupt, its reader panicked: {}", panic_message(panic)))
}
