//! Conversions of columns that formats require.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::error::ArrowError;

/// Converts views and dictionaries to plain types, which every reader of Arrow and Parquet files supports. Batches of
/// several files may also have different dictionaries, but an Arrow file has one per column.
pub(crate) fn plain_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    replace_columns(batch, |array| match plain_type(array.data_type()) {
        same if same == *array.data_type() => Ok(Arc::clone(array)),
        plain => cast(array, &plain),
    })
}

pub(crate) fn plain_type(data_type: &DataType) -> DataType {
    let plain = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        DataType::List(item) => DataType::List(plain(item)),
        DataType::LargeList(item) => DataType::LargeList(plain(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(plain(entries), *sorted),
        other => other.clone(),
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
