//! The best rows of a window, of which a statement reads no others.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, make_comparator};
use arrow::compute::{SortOptions, concat, filter_record_batch, sort_to_indices};
use arrow::datatypes::DataType;
use buzz_protocol::Result;

/// A column of closed windows, and how many of its first values in an order are read in each window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Top {
    /// The column of the slot.
    pub(crate) column: usize,
    pub(crate) order: SortOptions,
    pub(crate) fetch: usize,
}

impl Top {
    /// Returns true if values of `data_type` have one order. Of floats, -0 and 0 are equal in SQL only.
    pub(crate) fn has_order(data_type: &DataType) -> bool {
        data_type.is_integer()
            || matches!(
                data_type,
                DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Timestamp(..) | DataType::Date32
            )
    }

    /// Returns those of `rows`, which are of one window, that can be among its first ones. A row is left out only if
    /// `fetch` others have a better value, so its rank is higher whatever the columns are that decide between equal values.
    pub(crate) fn best(&self, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        if rows.iter().map(RecordBatch::num_rows).sum::<usize>() <= self.fetch {
            return Ok(rows);
        }
        let columns: Vec<&dyn arrow::array::Array> =
            rows.iter().map(|batch| batch.column(self.column).as_ref()).collect();
        let values = concat(&columns)?;
        let first = sort_to_indices(&values, Some(self.order), Some(self.fetch))?;
        let Some(last) = first.values().last() else { return Ok(Vec::new()) };
        let last: ArrayRef = values.slice(*last as usize, 1);
        let mut best = Vec::new();
        for batch in rows {
            let values = Arc::clone(batch.column(self.column));
            let compare = make_comparator(values.as_ref(), last.as_ref(), self.order)?;
            let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(compare(row, 0).is_le())).collect();
            let kept = filter_record_batch(&batch, &mask)?;
            if kept.num_rows() > 0 {
                best.push(kept);
            }
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn best(top: &Top, batches: &[&[Option<i64>]]) -> Vec<Option<i64>> {
        let batch = |values: &[Option<i64>]| {
            let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
            RecordBatch::try_from_iter([("n", column)]).expect("one column is a batch")
        };
        let rows = top.best(batches.iter().map(|values| batch(values)).collect()).expect("integers have an order");
        rows.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>()).collect()
    }

    #[test]
    fn rows_that_others_exceed_are_left_out_and_ties_stay() {
        let order = |descending, nulls_first| SortOptions { descending, nulls_first };
        let rows: [&[Option<i64>]; 3] = [&[Some(1), Some(5)], &[Some(3), None, Some(5)], &[Some(4), Some(3)]];
        let top = |fetch, order| Top { column: 0, order, fetch };
        assert_eq!(best(&top(1, order(true, false)), &rows), [Some(5), Some(5)]);
        assert_eq!(best(&top(4, order(true, false)), &rows), [Some(5), Some(3), Some(5), Some(4), Some(3)]);
        assert_eq!(best(&top(1, order(true, true)), &rows), [None]);
        assert_eq!(best(&top(2, order(false, false)), &rows), [Some(1), Some(3), Some(3)]);
        assert_eq!(best(&top(7, order(true, false)), &rows).len(), 7);
        assert_eq!(best(&top(6, order(true, false)), &rows).len(), 6, "only NULL is left out");
    }
}
