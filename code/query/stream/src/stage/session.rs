//! Sessions: rows of a key that are at most a gap apart.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampNanosecondArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Field, FieldRef, Schema, TimestampNanosecondType};
use arrow::row::{RowConverter, SortField};
use buzz_protocol::{QueryError, Result};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{ExecutionPlan, collect};

use super::fold::Fold;
use super::keyed::hashes;
use super::state::{StatePart, times};
use super::{Advance, Stage};
use crate::window::time_type;

impl Stage {
    /// Adds `delta` to the open sessions, and returns the rows of those that `advance` closes. Only sessions of keys that
    /// have new rows, or that may close, are touched.
    pub(super) async fn close_sessions(
        &self,
        part: &mut StatePart,
        fold: &Fold,
        (gap, delta): (i64, Vec<RecordBatch>),
        advance: Advance,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let keys = self.keys();
        let last_index = self.state_schema.fields().len() - 1;
        let is_closed = |last: i64| self.spec.is_closed(last.saturating_add(gap), advance.watermark);
        let mut changed = Vec::new();
        for batch in &delta {
            changed.extend(hashes(batch, &keys)?);
        }
        let closes = |rows: &RecordBatch| {
            times(rows, last_index).values().iter().map(|&last| is_closed(last)).collect::<Vec<_>>()
        };
        part.sessions.find(closes, &mut changed);
        changed.sort_unstable();
        changed.dedup();
        let mut rows = part.sessions.take(&changed)?;
        rows.extend(delta);
        let all = concat_batches(&self.state_schema, &rows)?;
        if all.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let of_keys: Vec<ArrayRef> = keys.iter().map(|&index| Arc::clone(all.column(index))).collect();
        let starts = merge_sessions(&of_keys, times(&all, fold.window_index), times(&all, last_index), gap)?;
        let mut columns = all.columns().to_vec();
        columns[fold.window_index] = Arc::new(starts);
        let merged = RecordBatch::try_new(Arc::clone(&self.state_schema), columns)?;
        let reduced = self.aggregate(fold, AggregateMode::PartialReduce, &[merged])?;
        let reduced = concat_batches(&self.state_schema, &collect(reduced, Arc::clone(context)).await?)?;
        let done: BooleanArray = times(&reduced, last_index).iter().map(|last| last.map(is_closed)).collect();
        part.sessions.add(filter_record_batch(&reduced, &arrow::compute::not(&done)?)?, &keys)?;
        let closed = filter_record_batch(&reduced, &done)?;
        match closed.num_rows() {
            0 => Ok(Vec::new()),
            _ if !advance.emits => Ok(Vec::new()),
            _ => self.finish(fold, &[closed], context).await,
        }
    }
}

/// The partial aggregate over `rows`, whose slice is the start of their session within these rows.
pub(super) fn sessions(
    partial: &AggregateExec,
    rows: &RecordBatch,
    window_index: usize,
    gap: i64,
) -> Result<Arc<dyn ExecutionPlan>> {
    let (mut keys, mut time) = (Vec::new(), None);
    for (index, (expr, _)) in partial.group_expr().expr().iter().enumerate() {
        let array = expr.evaluate(rows)?.into_array(rows.num_rows())?;
        if index == window_index {
            time = Some(array);
        } else {
            keys.push(array);
        }
    }
    let time = time.ok_or_else(|| QueryError::internal("a session has no time"))?;
    let present = arrow::compute::is_not_null(&time)?;
    let (rows, time) = (filter_record_batch(rows, &present)?, arrow::compute::filter(&time, &present)?);
    let keys = keys.iter().map(|key| arrow::compute::filter(key, &present)).collect::<Result<Vec<_>, _>>()?;
    let times = time.as_primitive::<TimestampNanosecondType>();
    let starts = merge_sessions(&keys, times, times, gap)?;
    let name = "__buzz_start";
    let mut fields: Vec<FieldRef> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(name, time_type(), true)));
    let schema = Arc::new(Schema::new(fields));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(starts));
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let start = schema.fields().len() - 1;
    let groups = partial.group_expr().expr().iter().enumerate().map(|(index, (expr, alias))| {
        let expr = match index == window_index {
            true => Arc::new(PhysicalColumn::new(name, start)) as Arc<dyn PhysicalExpr>,
            false => Arc::clone(expr),
        };
        (expr, alias.clone())
    });
    let groups = PhysicalGroupBy::new_single(groups.collect());
    let input = MemorySourceConfig::try_new_exec(&[vec![rows]], Arc::clone(&schema), None)?;
    let (aggregates, filters) = (partial.aggr_expr().to_vec(), partial.filter_expr().to_vec());
    let plan = AggregateExec::try_new(AggregateMode::Partial, groups, aggregates, filters, input, schema)?;
    Ok(Arc::new(CoalescePartitionsExec::new(Arc::new(plan))))
}

/// Returns, for each interval from `start` to `last` of a key, the start of the session that contains it. Intervals of a
/// key that are at most `gap` apart belong to one session.
fn merge_sessions(
    keys: &[ArrayRef],
    start: &TimestampNanosecondArray,
    last: &TimestampNanosecondArray,
    gap: i64,
) -> Result<TimestampNanosecondArray> {
    let key_rows = if keys.is_empty() {
        None
    } else {
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        Some(RowConverter::new(fields)?.convert_columns(keys)?)
    };
    let mut order: Vec<usize> = (0..start.len()).collect();
    order.sort_unstable_by(|&a, &b| {
        let by_key = key_rows.as_ref().map_or(std::cmp::Ordering::Equal, |rows| rows.row(a).cmp(&rows.row(b)));
        by_key.then(start.value(a).cmp(&start.value(b)))
    });
    let mut merged = vec![0; start.len()];
    let mut current: Option<(usize, i64, i64)> = None;
    for row in order {
        let (begin, from) = (start.value(row), last.value(row));
        let (key, begin, end) = match current {
            Some((key, session, end))
                if key_rows.as_ref().is_none_or(|rows| rows.row(key) == rows.row(row))
                    && begin.saturating_sub(end) <= gap =>
            {
                (key, session, end.max(from))
            }
            _ => (row, begin, from),
        };
        current = Some((key, begin, end));
        merged[row] = begin;
    }
    Ok(TimestampNanosecondArray::from(merged))
}
