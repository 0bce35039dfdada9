//! Late rows: those of which all windows were closed before they came.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampNanosecondType;
use buzz_protocol::Result;

use crate::window::WindowSpec;

/// Returns the rows of `batches` of which all windows were closed in at least one stage. The last column is the time. `specs` has
/// the windows of each stage that reads the rows, and its watermark before they came.
pub(super) fn late_rows<'a>(
    batches: impl IntoIterator<Item = &'a RecordBatch>,
    specs: &[(WindowSpec, i64)],
) -> Result<Vec<RecordBatch>> {
    let Some(newest) = specs.iter().map(|(_, before)| *before).max() else { return Ok(Vec::new()) };
    let mut late = Vec::new();
    for batch in batches {
        let times = batch.column(batch.num_columns() - 1).as_primitive::<TimestampNanosecondType>();
        if times.null_count() == 0 && times.values().iter().all(|&time| time >= newest) {
            continue;
        }
        let is_late = |time: i64| {
            specs.iter().any(|&(spec, before)| spec.last_end(time).is_some_and(|end| spec.is_closed(end, before)))
        };
        let mask: BooleanArray = times.iter().map(|time| Some(time.is_some_and(is_late))).collect();
        if mask.true_count() > 0 {
            late.push(filter_record_batch(batch, &mask)?);
        }
    }
    Ok(late)
}
