//! Gives the doubles that a scan reads one NaN.
//!
//! Files may have a NaN with a sign bit, which other engines make of `0.0 / 0.0`. Arrow compares bits: such a NaN would be less than all
//! numbers, and not equal to another NaN. If it were replaced in a plan, conditions would not be found in the statistics of files.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Schema};
use buzz_kernel::{one_nan, with_one_nan};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::physical_plan::{FileSource, ParquetSource};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::{ProjectionExpr, ProjectionExprs};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use crate::nested::with_items;

/// Returns `batch` with one NaN for each NaN, at any depth.
///
/// # Errors
/// Fails if an array of `batch` is inconsistent.
pub(crate) fn of_batch(batch: RecordBatch) -> Result<RecordBatch> {
    if !batch.schema_ref().fields().iter().any(|field| has_doubles(field.data_type())) {
        return Ok(batch);
    }
    let columns = batch.columns().iter().map(of_array).collect::<Result<Vec<_>>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

fn of_array(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Float32 | DataType::Float64 => with_one_nan(array.as_ref()),
        DataType::Struct(fields) if has_doubles(array.data_type()) => {
            let columns = array.as_struct().columns().iter().map(of_array).collect::<Result<_>>()?;
            let nulls = array.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len())?))
        }
        nested if has_doubles(nested) => with_items(array, nested, |items, _| of_array(items)),
        _ => Ok(Arc::clone(array)),
    }
}

fn has_doubles(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_doubles(field.data_type())),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_doubles(item.data_type()),
        _ => false,
    }
}

/// Returns `source` so that it computes with one NaN. `None` if it computes nothing of doubles.
///
/// # Errors
/// Fails if a column is not in the table.
pub(crate) fn of_source(source: &ParquetSource) -> Result<Option<Arc<dyn FileSource>>> {
    let Some(projection) = source.projection() else { return Ok(None) };
    let Some(projection) = of_projection(projection, source.table_schema().table_schema())? else { return Ok(None) };
    // The projection of a source can be added to, but not replaced.
    let mut plain = ParquetSource::new(source.table_schema().clone())
        .with_table_parquet_options(source.table_parquet_options().clone());
    if let Some(readers) = source.parquet_file_reader_factory() {
        plain = plain.with_parquet_file_reader_factory(Arc::clone(readers));
    }
    if let Some(predicate) = source.filter() {
        plain = plain.with_predicate(predicate);
    }
    plain.try_pushdown_projection(&projection)
}

/// Returns `projection`, over columns of `schema`, so that what it computes has one NaN. `None` if it computes nothing of doubles.
///
/// # Errors
/// Fails if a column is not in `schema`.
pub(crate) fn of_projection(projection: &ProjectionExprs, schema: &Schema) -> Result<Option<ProjectionExprs>> {
    let mut changed = false;
    let mut computed = Vec::new();
    for output in projection.iter() {
        let expr = Arc::clone(&output.expr);
        if expr.downcast_ref::<Column>().is_some() {
            computed.push(ProjectionExpr::new(expr, output.alias.as_str()));
            continue;
        }
        let formed = expr.transform_up(|node| formed(node, schema))?;
        changed |= formed.transformed;
        computed.push(ProjectionExpr::new(formed.data, output.alias.as_str()));
    }
    Ok(changed.then(|| ProjectionExprs::new(computed)))
}

fn formed(node: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Transformed<Arc<dyn PhysicalExpr>>> {
    let of_nested = |call: &ScalarFunctionExpr| matches!(call.name(), "get_field" | "array_element");
    let is_read =
        node.downcast_ref::<Column>().is_some() || node.downcast_ref::<ScalarFunctionExpr>().is_some_and(of_nested);
    let is_double = |data_type: DataType| matches!(data_type, DataType::Float32 | DataType::Float64);
    if !is_read || !node.data_type(schema).is_ok_and(is_double) {
        return Ok(Transformed::no(node));
    }
    let call = ScalarFunctionExpr::try_new(one_nan(), vec![node], schema, Arc::new(ConfigOptions::default()))?;
    Ok(Transformed::yes(Arc::new(call)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, ListArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Float64Type};

    use super::*;

    #[test]
    fn nans_are_one_at_any_depth() {
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![-f64::NAN, 1.0, f64::NAN]));
        let item = Arc::new(Field::new("item", DataType::Float64, true));
        let offsets = OffsetBuffer::new(vec![0, 1, 1, 3].into());
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::clone(&doubles), None));
        let batch = RecordBatch::try_from_iter([("d", doubles), ("l", list)]).unwrap();
        let one = of_batch(batch).unwrap();
        let bits = |array: &ArrayRef| -> Vec<u64> {
            array.as_primitive::<Float64Type>().values().iter().map(|double| double.to_bits()).collect()
        };
        let expected = [f64::NAN, 1.0, f64::NAN].map(f64::to_bits);
        assert_eq!(bits(one.column(0)), expected);
        assert_eq!(bits(one.column(1).as_list::<i32>().values()), expected);
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let batch = RecordBatch::try_from_iter([("i", whole)]).unwrap();
        assert_eq!(of_batch(batch.clone()).unwrap(), batch);
    }
}
