//! Checks dates and times before the first row is written: beyond the year 262,142 they have no text.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use buzz_engine::Batches;
use buzz_protocol::{QueryError, Result};

use crate::format::WriteError;

/// Days from 1970 within which every date has a text.
const DAYS_MAX: i64 = 95_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Checks that all dates and times of `batches` have a text.
///
/// # Errors
/// `Invalid`, naming the column, if one has none.
pub(crate) fn check_times(schema: &Schema, read: &dyn Fn() -> Result<Batches>) -> Result<(), WriteError> {
    let columns = columns_with_times(schema);
    if columns.is_empty() {
        return Ok(());
    }
    for batch in read()? {
        check_batch(schema, &columns, &batch?)?;
    }
    Ok(())
}

/// Returns `batches`, of which those are errors that have a date or time without a text.
pub(crate) fn checked_times(schema: &SchemaRef, batches: Batches) -> Batches {
    let (schema, columns) = (Arc::clone(schema), columns_with_times(schema));
    if columns.is_empty() {
        return batches;
    }
    Box::new(batches.map(move |batch| {
        let batch = batch?;
        check_batch(&schema, &columns, &batch)?;
        Ok(batch)
    }))
}

fn columns_with_times(schema: &Schema) -> Vec<usize> {
    (0..schema.fields().len()).filter(|column| has_times(schema.field(*column).data_type())).collect()
}

fn check_batch(schema: &Schema, columns: &[usize], batch: &RecordBatch) -> Result<()> {
    for &column in columns {
        let values = batch.column(column);
        if is_suspicious(&values.to_data()) {
            check_column(schema.field(column).name(), values)?;
        }
    }
    Ok(())
}

fn check_column(name: &str, values: &ArrayRef) -> Result<()> {
    // Otherwise a value within a list or struct becomes the text of the error.
    let options = FormatOptions::default().with_display_error(false);
    let formatter = ArrayFormatter::try_new(values, &options)?;
    for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
        formatter.value(row).try_to_string().map_err(|error| {
            QueryError::invalid(format!(
                "column `{name}` has a date or time without a text ({error}); write it as arrow or parquet"
            ))
        })?;
    }
    Ok(())
}

/// Returns true if a value of this type may have dates or times that have no text.
fn has_times(data_type: &DataType) -> bool {
    match data_type {
        DataType::Date32 | DataType::Date64 => true,
        DataType::Timestamp(unit, _) => *unit != TimeUnit::Nanosecond,
        DataType::Struct(fields) => fields.iter().any(|field| has_times(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => has_times(field.data_type()),
        DataType::Dictionary(_, values) => has_times(values),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| has_times(field.data_type())),
        _ => false,
    }
}

/// Returns true if the values, or those that nulls hide, are beyond [`DAYS_MAX`].
fn is_suspicious(data: &ArrayData) -> bool {
    let beyond = |days: i64, per_day: i64| days / per_day >= DAYS_MAX || days / per_day <= -DAYS_MAX;
    let per_day = match data.data_type() {
        DataType::Date32 => {
            return data.buffer::<i32>(0).iter().take(data.len()).any(|days| beyond(i64::from(*days), 1));
        }
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => DAY_SECONDS * 1000,
        DataType::Timestamp(TimeUnit::Second, _) => DAY_SECONDS,
        DataType::Timestamp(TimeUnit::Microsecond, _) => DAY_SECONDS * 1_000_000,
        _ => return data.child_data().iter().any(is_suspicious),
    };
    data.buffer::<i64>(0).iter().take(data.len()).any(|value| beyond(*value, per_day))
}
