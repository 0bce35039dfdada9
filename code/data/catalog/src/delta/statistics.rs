//! Reads the statistics of files from Delta's log. delta-rs provides them as columns, whether they come from JSON or
//! from checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{DataType, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use buzz_protocol::{ColumnMapping, Result};

use crate::statistics::{ColumnBounds, FileStatistics, can_be_exact, is_plain};

/// Reads the statistics of the files in `batches`, which have the columns `num_records`, and `null_count`, `min` and
/// `max` with a field for each column of the table. The result has the columns of `schema`; its files are those at the
/// positions `order`. Returns `None` if no file has statistics.
///
/// # Errors
/// `Internal` if arrays do not match in type or length.
pub(crate) fn read(
    batches: &[RecordBatch],
    order: &UInt64Array,
    schema: &Schema,
    mapping: &ColumnMapping,
) -> Result<Option<FileStatistics>> {
    if batches.iter().map(RecordBatch::num_rows).sum::<usize>() != order.len() || order.is_empty() {
        return Ok(None);
    }
    let inside = |path: [&str; 2], data_type: &DataType| -> Result<ArrayRef> {
        let mut parts = Vec::new();
        for batch in batches {
            // Values that cannot be cast to the column's type are unknown.
            let found = member(batch, path).and_then(|array| cast(&array, data_type).ok());
            parts.push(found.unwrap_or_else(|| arrow::array::new_null_array(data_type, batch.num_rows())));
        }
        let parts: Vec<&dyn Array> = parts.iter().map(|part| part.as_ref()).collect();
        Ok(take(&concat(&parts)?, order, None)?)
    };
    let counts = |path: [&str; 2]| -> Result<UInt64Array> {
        let signed = inside(path, &DataType::Int64)?;
        let signed = signed.as_primitive::<Int64Type>();
        Ok(signed.iter().map(|count| count.and_then(|count| u64::try_from(count).ok())).collect())
    };

    let row_counts = counts(["num_records", ""])?;
    if row_counts.null_count() == row_counts.len() {
        return Ok(None);
    }
    let mut columns = BTreeMap::new();
    for field in schema.fields().iter().filter(|field| is_plain(field.data_type())) {
        let physical = mapping.physical_names.get(field.name()).unwrap_or(field.name());
        let min = inside(["min", physical], field.data_type())?;
        let max = inside(["max", physical], field.data_type())?;
        let null_counts = counts(["null_count", physical])?;
        if min.null_count() == min.len() && null_counts.null_count() == null_counts.len() {
            continue;
        }
        let is_time = matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _));
        let (min, max) = if is_time { (earlier(&min)?, later(&max)?) } else { (min, max) };
        let exact = can_be_exact(field.data_type()) && !is_time;
        columns.insert(field.name().clone(), ColumnBounds { min, max, null_counts, exact });
    }
    Ok(Some(FileStatistics { row_counts, columns }))
}

/// Returns the column at `path` of `batch`: a top-level column if the second part is empty, otherwise a field of a
/// struct.
fn member(batch: &RecordBatch, path: [&str; 2]) -> Option<ArrayRef> {
    let outer = batch.column_by_name(path[0])?;
    match path[1] {
        "" => Some(Arc::clone(outer)),
        inner => outer.as_struct_opt()?.column_by_name(inner).map(Arc::clone),
    }
}

/// Microseconds since 1970 of 1973-01-01. Until then, some zones had an offset with seconds, the last one Liberia.
const OFFSETS_IN_MINUTES: i64 = 94_694_400_000_000;

/// Microseconds by which Spark cuts the offset of a time: it writes +00:53 for +00:53:28.
const OFFSET_CUT: i64 = 59_000_000;

/// Returns lower bounds of the times whose minima are in the log.
fn earlier(times: &ArrayRef) -> Result<ArrayRef> {
    changed(times, |time| if time < OFFSETS_IN_MINUTES { time.saturating_sub(OFFSET_CUT) } else { time })
}

/// Returns upper bounds of the times whose maxima are in the log, which cuts them to milliseconds.
fn later(times: &ArrayRef) -> Result<ArrayRef> {
    changed(times, |time| {
        let cut = if time % 1000 == 0 { 999 } else { 0 };
        let offset = if time < OFFSETS_IN_MINUTES { OFFSET_CUT } else { 0 };
        time.saturating_add(cut + offset)
    })
}

fn changed(times: &ArrayRef, change: impl Fn(i64) -> i64) -> Result<ArrayRef> {
    let plain = times.as_primitive::<TimestampMicrosecondType>();
    let changed = plain.unary::<_, TimestampMicrosecondType>(change);
    Ok(cast(&changed, times.data_type())?)
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    #[test]
    fn bounds_of_old_times_allow_for_cut_offsets() {
        let times: ArrayRef =
            Arc::new(TimestampMicrosecondArray::from(vec![-1, OFFSETS_IN_MINUTES]).with_timezone("UTC"));
        let values = |times: ArrayRef| times.as_primitive::<TimestampMicrosecondType>().values().to_vec();
        assert_eq!(values(earlier(&times).unwrap()), [-59_000_001, OFFSETS_IN_MINUTES]);
        assert_eq!(values(later(&times).unwrap()), [58_999_999, OFFSETS_IN_MINUTES + 999]);
        assert_eq!(earlier(&times).unwrap().data_type(), times.data_type());
    }
}
