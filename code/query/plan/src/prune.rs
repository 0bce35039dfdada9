//! Prunes files by their partition values, then by statistics.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_catalog::{DataFile, FileStatistics, Table};
use buzz_protocol::{QueryError, Result};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::scalar::ScalarValue;

use crate::trees::Tree;

/// Prunes files by the conditions of `plan`: first by partition values, then by statistics. Returns the number of files
/// after the first step and the files after both. Keeps all files if the plan can return rows without input rows: each
/// evaluation then contributes to the result.
///
/// # Errors
/// `Invalid` when a condition cannot be evaluated.
pub(crate) fn by_where(
    state: &SessionState,
    table: &Table,
    files: Vec<DataFile>,
    plan: &LogicalPlan,
) -> Result<(usize, Vec<DataFile>)> {
    let Some(filters) = scan_filters(plan) else {
        return Ok((files.len(), files));
    };
    let files = by_where_on_partitions(state, table, files, filters)?;
    let by_partition = files.len();
    let Some(filter) = conjunction(filters.iter().filter(|filter| check_plain(filter).is_ok()).cloned()) else {
        return Ok((by_partition, files));
    };
    let predicate =
        state.create_physical_expr(unqualified(filter)?, &DFSchema::try_from(Arc::clone(&table.schema))?)?;
    Ok((by_partition, by_statistics(table, files, &predicate, Arc::clone(&table.schema))?))
}

fn by_where_on_partitions(
    state: &SessionState,
    table: &Table,
    files: Vec<DataFile>,
    filters: &[Expr],
) -> Result<Vec<DataFile>> {
    by_conditions(
        state,
        table,
        files,
        filters.iter().filter(|filter| is_of_partitions(table, filter)).cloned().collect(),
    )
}

/// Checks if `condition` refers to partition columns only, so that it has the same value for all rows of a file.
pub(crate) fn is_of_partitions(table: &Table, condition: &Expr) -> bool {
    let columns = condition.column_refs();
    !columns.is_empty()
        && columns.iter().all(|column| table.partition_columns.contains(&column.name))
        && check_plain(condition).is_ok()
        && !condition.is_volatile()
}

/// Returns the files whose partition values pass all `conditions`. Each must satisfy [`is_of_partitions`].
///
/// # Errors
/// `Invalid` when a condition cannot be evaluated.
pub(crate) fn by_conditions(
    state: &SessionState,
    table: &Table,
    files: Vec<DataFile>,
    conditions: Vec<Expr>,
) -> Result<Vec<DataFile>> {
    if conditions.is_empty() {
        return Ok(files);
    }
    let batch = describe(table, &files)?;
    let schema = DFSchema::try_from(batch.schema())?;
    let mut keep = vec![true; files.len()];
    for condition in conditions {
        for (keep, passes) in keep.iter_mut().zip(evaluate(state, unqualified(condition)?, &schema, &batch)?) {
            *keep &= passes;
        }
    }
    Ok(kept(files, &keep))
}

/// Removes the table name from all columns of `filter`.
fn unqualified(filter: Expr) -> Result<Expr> {
    let plain = filter.rewrite_up(&mut |expr| match expr {
        Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::from_name(column.name)))),
        other => Ok(Transformed::no(other)),
    });
    Ok(plain.data()?)
}

/// Returns the files whose partition values pass the conjuncts of `predicate`, the predicate of a scan, that refer to
/// partition columns only.
///
/// # Errors
/// `Invalid` when the predicate cannot be evaluated.
pub(crate) fn by_predicate(
    table: &Table,
    files: Vec<DataFile>,
    predicate: &Arc<dyn PhysicalExpr>,
) -> Result<Vec<DataFile>> {
    let of_partitions = |part: &&Arc<dyn PhysicalExpr>| {
        let columns = collect_columns(part);
        !columns.is_empty() && columns.iter().all(|column| table.partition_columns.iter().any(|p| p == column.name()))
    };
    let parts: Vec<_> = split_conjunction(predicate).into_iter().filter(of_partitions).collect();
    if parts.is_empty() {
        return Ok(files);
    }
    let batch = describe(table, &files)?;
    let schema = batch.schema();
    let mut keep = vec![true; files.len()];
    for part in parts {
        let moved = Arc::clone(part).rewrite_up(&mut |node| match node.downcast_ref::<PhysicalColumn>() {
            Some(column) => {
                Ok(Transformed::yes(Arc::new(PhysicalColumn::new_with_schema(column.name(), &schema)?) as _))
            }
            None => Ok(Transformed::no(node)),
        });
        for (keep, passes) in keep.iter_mut().zip(passes(&moved.data()?, &batch)?) {
            *keep &= passes;
        }
    }
    Ok(kept(files, &keep))
}

/// Returns the files that may contain rows for `predicate`, a predicate over `schema`, according to the table's file
/// statistics. Without statistics, returns all files.
///
/// # Errors
/// `Internal` when the statistics contradict themselves.
pub(crate) fn by_statistics(
    table: &Table,
    files: Vec<DataFile>,
    predicate: &Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
) -> Result<Vec<DataFile>> {
    let Some(statistics) = &table.statistics else {
        return Ok(files);
    };
    // A predicate that statistics cannot answer keeps every file.
    let builder = PruningPredicateBuilder::new().with_file_schema(schema);
    let Ok(pruning) = builder.try_build(Arc::clone(predicate)) else {
        return Ok(files);
    };
    if pruning.always_true() || files.is_empty() {
        return Ok(files);
    }
    let positions: UInt64Array = files.iter().map(|file| Some(file.number as u64)).collect();
    let known = KnownValues(statistics.of(&positions)?);
    let keep = pruning.prune(&known)?;
    Ok(kept(files, &keep))
}

/// The statistics of some files, in the form that DataFusion's pruning requires.
struct KnownValues(FileStatistics);

impl PruningStatistics for KnownValues {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.0.columns.get(&column.name).map(|bounds| Arc::clone(&bounds.min))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.0.columns.get(&column.name).map(|bounds| Arc::clone(&bounds.max))
    }

    fn num_containers(&self) -> usize {
        self.0.row_counts.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.0.columns.get(&column.name).map(|bounds| Arc::new(bounds.null_counts.clone()) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.0.row_counts.clone()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

pub(crate) fn kept(files: Vec<DataFile>, keep: &[bool]) -> Vec<DataFile> {
    files.into_iter().zip(keep).filter(|(_, keep)| **keep).map(|(file, _)| file).collect()
}

/// Returns a batch with one row per file: its partition values.
pub(crate) fn describe(table: &Table, files: &[DataFile]) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (index, field) in table.partition_fields().iter().enumerate() {
        let values = files.iter().map(|file| file.partition_values[index].clone());
        columns.push(match files {
            [] => arrow::array::new_empty_array(field.data_type()),
            _ => arrow::compute::cast(&ScalarValue::iter_to_array(values)?, field.data_type())?,
        });
        fields.push(Field::new(field.name(), field.data_type().clone(), true));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(files.len()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
}

/// Rejects subqueries, aggregates and window functions: they have no meaning for a single file.
pub(crate) fn check_plain(expr: &Expr) -> Result<()> {
    let mut odd = None;
    expr.each(&mut |expr| {
        odd = match expr {
            Expr::AggregateFunction(_) => Some("an aggregate"),
            Expr::WindowFunction(_) => Some("a window function"),
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some("a subquery")
            }
            Expr::OuterReferenceColumn(_, _) => Some("a column of an outer query"),
            _ => None,
        };
        Ok(if odd.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match odd {
        Some(what) => Err(QueryError::invalid(format!("it cannot contain {what}"))),
        None => Ok(()),
    }
}

fn evaluate(state: &SessionState, expr: Expr, schema: &DFSchema, batch: &RecordBatch) -> Result<Vec<bool>> {
    passes(&state.create_physical_expr(expr, schema)?, batch)
}

/// Evaluates `condition` for each row of `batch`. Null counts as false.
pub(crate) fn passes(condition: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<Vec<bool>> {
    let array = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    let array = arrow::compute::cast(&array, &DataType::Boolean)?;
    let passes = array.as_any().downcast_ref::<BooleanArray>();
    let passes = passes.ok_or_else(|| QueryError::internal("a cast to Boolean is not Boolean"))?;
    Ok(passes.iter().map(|passes| passes == Some(true)).collect())
}

/// Returns the filters of a plan's scan if the plan returns no rows without input rows, otherwise `None`.
fn scan_filters(plan: &LogicalPlan) -> Option<&[Expr]> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(&scan.filters),
        LogicalPlan::Projection(node) => scan_filters(&node.input),
        LogicalPlan::Filter(node) => scan_filters(&node.input),
        LogicalPlan::Window(node) => scan_filters(&node.input),
        LogicalPlan::Sort(node) => scan_filters(&node.input),
        LogicalPlan::Limit(node) => scan_filters(&node.input),
        LogicalPlan::SubqueryAlias(node) => scan_filters(&node.input),
        LogicalPlan::Aggregate(node) => {
            let grouped = !node.group_expr.is_empty() && !matches!(node.group_expr[0], Expr::GroupingSet(_));
            if grouped { scan_filters(&node.input) } else { None }
        }
        _ => None,
    }
}
