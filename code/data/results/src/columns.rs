//! Conversions of columns that formats require.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use arrow::error::ArrowError;

/// Converts views and dictionaries to plain types, which every reader of Arrow and Parquet files supports. Batches of
/// several files may also have different dictionaries, but an Arrow file has one per column.
pub(crate) fn plain_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    replace_columns(batch, plain_column)
}

fn plain_column(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match plain_type(array.data_type()) {
        same if same == *array.data_type() => Ok(Arc::clone(array)),
        plain => cast(array, &plain),
    }
}

pub(crate) fn plain_type(data_type: &DataType) -> DataType {
    with_inner(data_type, |inner| match inner {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    })
}

/// Converts the columns of a batch as [`parquet_column`] does.
///
/// # Errors
/// As [`parquet_column`].
pub(crate) fn parquet_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    replace_columns(batch, parquet_column)
}

/// Converts a column to a type that Parquet has, which is a plain one: Parquet has no seconds since 1970 or midnight, and no
/// milliseconds of days. Without a conversion, other readers find integers in such columns.
///
/// # Errors
/// Fails if a value cannot be converted exactly: seconds that 64 bits of milliseconds do not hold, or a `Date64` that is
/// not a whole day.
pub(crate) fn parquet_column(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let array = plain_column(array)?;
    let stored = parquet_type(array.data_type());
    if stored == *array.data_type() {
        return Ok(array);
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let converted = cast_with_options(&array, &stored, &options)?;
    let again = cast_with_options(&converted, array.data_type(), &options)?;
    if again.as_ref() != array.as_ref() {
        return Err(ArrowError::CastError(format!("a value of type {} is not one of {stored}", array.data_type())));
    }
    Ok(converted)
}

fn parquet_type(data_type: &DataType) -> DataType {
    with_inner(data_type, |inner| match inner {
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Time32(TimeUnit::Second) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Date64 => DataType::Date32,
        other => other.clone(),
    })
}

/// Replaces the innermost types of `data_type`. Dictionaries become their values.
fn with_inner(data_type: &DataType, replace: fn(&DataType) -> DataType) -> DataType {
    let inner =
        |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(with_inner(field.data_type(), replace)));
    match data_type {
        DataType::Dictionary(_, values) => with_inner(values, replace),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(inner(entries), *sorted),
        other => replace(other),
    }
}

/// Replaces each column of `batch` and the type of its field.
pub(crate) fn replace_columns(
    batch: &RecordBatch,
    replace: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(replace).collect::<Result<Vec<_>, _>>()?;
    let schema = batch.schema();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}
