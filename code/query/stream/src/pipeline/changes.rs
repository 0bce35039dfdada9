//! Rows that change: each with its values before and after, as Debezium has them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, StructArray, UInt32Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimestampNanosecondType};
use buzz_protocol::{CHANGES, QueryError, Result};

use crate::stage::{Comparable, row_bytes};

/// Returns the columns of changes of rows with `columns`: `before` and `after`, of which one may be null, and `op`, which is
/// `c` for a row that is new, `u` for one that changes, and `d` for one that no longer exists.
pub(super) fn schema_of_changes(columns: &SchemaRef) -> SchemaRef {
    let fields: Fields = columns.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let row = DataType::Struct(fields);
    let fields = vec![
        Field::new("before", row.clone(), true),
        Field::new("after", row, true),
        Field::new("op", DataType::Utf8, false),
    ];
    Arc::new(Schema::new(fields).with_metadata([(CHANGES.to_string(), "true".to_string())].into()))
}

/// Brings the rows before and after each change together, in the order of the changes. The last column of `batches` is the place
/// of a row: twice the number of the change, and one more for the row after it. A change that has the same values before and
/// after is left out.
pub(super) fn in_pairs(batches: &[RecordBatch], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let all = concat_batches(&first.schema(), batches)?;
    let places = all.column(all.num_columns() - 1).as_primitive::<TimestampNanosecondType>().values();
    let columns: Vec<usize> = (0..all.num_columns() - 1).collect();
    let values = Comparable::new(&all, &columns)?.rows(&all)?;
    let mut order: Vec<usize> = (0..all.num_rows()).collect();
    order.sort_unstable_by_key(|&row| places[row]);
    let (mut before, mut after, mut ops) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = order.as_slice();
    while let [row, others @ ..] = rest {
        rest = others;
        let is_after = places[*row].rem_euclid(2) == 1;
        let next = others.first().filter(|next| !is_after && places[**next] == places[*row] + 1);
        let (old, new, op) = match (is_after, next) {
            (true, _) => (None, Some(*row as u32), "c"),
            (false, None) => (Some(*row as u32), None, "d"),
            (false, Some(next)) => {
                rest = &others[1..];
                if row_bytes(values.as_ref(), *row) == row_bytes(values.as_ref(), *next) {
                    continue;
                }
                (Some(*row as u32), Some(*next as u32), "u")
            }
        };
        before.push(old);
        after.push(new);
        ops.push(op);
    }
    if ops.is_empty() {
        return Ok(Vec::new());
    }
    let columns = vec![rows_at(&all, before, schema)?, rows_at(&all, after, schema)?, Arc::new(StringArray::from(ops))];
    Ok(vec![RecordBatch::try_new(Arc::clone(schema), columns)?])
}

/// Returns final rows as changes: each row is new.
pub(super) fn as_new(batches: &[RecordBatch], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let DataType::Struct(fields) = schema.field(0).data_type() else {
        return Err(QueryError::internal("changes have other columns"));
    };
    let new = batches.iter().map(|batch| {
        let after: ArrayRef = Arc::new(StructArray::try_new(fields.clone(), batch.columns().to_vec(), None)?);
        let ops: ArrayRef = Arc::new(StringArray::from(vec!["c"; batch.num_rows()]));
        let before = new_null_array(schema.field(0).data_type(), batch.num_rows());
        Ok(RecordBatch::try_new(Arc::clone(schema), vec![before, after, ops])?)
    });
    new.collect()
}

/// Returns the rows of `all` at `indices` as structs, null where there is none.
fn rows_at(all: &RecordBatch, indices: Vec<Option<u32>>, schema: &SchemaRef) -> Result<ArrayRef> {
    let DataType::Struct(fields) = schema.field(0).data_type() else {
        return Err(QueryError::internal("changes have other columns"));
    };
    let nulls = NullBuffer::from(indices.iter().map(Option::is_some).collect::<Vec<bool>>());
    let indices = UInt32Array::from(indices);
    let columns = all.columns()[..all.num_columns() - 1].iter().map(|column| take(column, &indices, None));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new(fields.clone(), columns, Some(nulls))?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Int64Array, TimestampNanosecondArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_of_one_change_come_together_and_equal_ones_are_left_out() {
        let batch = |values: &[i64], places: &[i64]| {
            let values: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
            let places: ArrayRef = Arc::new(TimestampNanosecondArray::from(places.to_vec()));
            RecordBatch::try_from_iter([("n", values), ("place", places)]).expect("columns of one length")
        };
        // Change 0 is new, 1 is updated, 2 has the same values, 3 no longer exists, and 4 is new; 5 and 6 are one row each.
        let batches = [batch(&[20, 5, 7, 8], &[3, 1, 5, 6]), batch(&[10, 7, 9, 1, 2], &[2, 4, 9, 10, 13])];
        let columns = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let changes = in_pairs(&batches, &schema_of_changes(&columns)).expect("integers can be compared");
        let changes = &changes[0];
        let values = |index: usize| {
            let rows = changes.column(index).as_struct();
            let values = rows.column(0).as_primitive::<Int64Type>();
            (0..rows.len()).map(|row| rows.is_valid(row).then(|| values.value(row))).collect::<Vec<_>>()
        };
        let ops: Vec<&str> = changes.column(2).as_string::<i32>().iter().flatten().collect();
        assert_eq!(ops, ["c", "u", "d", "c", "d", "c"]);
        assert_eq!(values(0), [None, Some(10), Some(8), None, Some(1), None]);
        assert_eq!(values(1), [Some(5), Some(20), None, Some(9), None, Some(2)]);
    }
}
