//! Windowed aggregates: state rows are partial aggregates, which are reduced again when slices grow and finished when
//! windows close.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::TimestampNanosecondType;
use buzz_protocol::{QueryError, Result};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::{ExecutionPlan, collect};

use super::state::{StatePart, by_slice, take_closed, times};
use super::{Advance, END_OF_TIME, Stage};
use crate::lower::Output;
use crate::window::{Part, WindowSpec, ceil, later, window_array};

/// A slice is compacted when it has more rows than this and twice as many as after its last compaction.
const COMPACT_ROWS_MIN: usize = 16_384;

/// Rows of small windows that share a final aggregate. A plan for each would cost more than their rows.
const CLOSE_ROWS_MAX: usize = 131_072;

#[derive(Debug)]
pub(super) struct Fold {
    /// The whole aggregate; `last` is at its root or below projections.
    pub(super) top: Arc<dyn ExecutionPlan>,
    /// The final aggregate of the plan, from which others are made.
    pub(super) last: Arc<dyn ExecutionPlan>,
    /// Position of the slice in the output of `top`.
    pub(super) output_index: usize,
    /// Position of the slice in the state.
    pub(super) window_index: usize,
    pub(super) groups: usize,
    pub(super) outputs: Vec<Output>,
    pub(super) exact: bool,
}

impl Stage {
    /// Reduces slices that will be read more than once, or that hold many rows per key.
    pub(super) async fn compact(
        &self,
        state: &mut StatePart,
        fold: &Fold,
        context: &Arc<TaskContext>,
        watermark: i64,
    ) -> Result<()> {
        let width = match self.spec {
            WindowSpec::Hop { width, .. } => width,
            WindowSpec::Session { .. } | WindowSpec::Never => return Ok(()),
        };
        let slice_width = if fold.exact { width } else { self.spec.slice() };
        let shared = slice_width < width;
        let (mut rows, mut alone) = (Vec::new(), Vec::new());
        for (&slice, kept) in &mut state.slices {
            if kept.batches.len() < 2 || kept.rows <= kept.compacted {
                continue;
            }
            let complete = shared && slice.saturating_add(slice_width) <= watermark;
            let grown = kept.rows > COMPACT_ROWS_MIN && kept.rows >= 2 * kept.compacted;
            // Many small batches cost more than their rows. A compacted one has some thousands.
            let scattered = kept.batches.len() > 256 + kept.compacted / 1024;
            if complete || grown || scattered {
                let batches = std::mem::take(&mut kept.batches);
                match kept.rows >= state.alone_rows && fold.groups > 1 {
                    true => alone.push((slice, batches)),
                    false => rows.extend(batches),
                }
                kept.rows = 0;
            }
        }
        let mut reduced = Vec::new();
        for (slice, rows) in alone {
            let mode = AggregateMode::PartialReduce;
            let batches = self.aggregate_slice(fold, mode, &rows, slice, context).await?;
            reduced.extend(batches.into_iter().map(|batch| (slice, batch)));
        }
        if !rows.is_empty() {
            let plan = self.aggregate(fold, AggregateMode::PartialReduce, &rows)?;
            for batch in collect(plan, Arc::clone(context)).await? {
                reduced.extend(by_slice(&batch, fold.window_index)?);
            }
        }
        for (slice, rows) in reduced {
            let kept = state.slices.entry(slice).or_default();
            kept.rows += rows.num_rows();
            kept.compacted = kept.rows;
            kept.batches.push(rows);
        }
        Ok(())
    }

    pub(super) async fn close_exact(
        &self,
        state: &mut StatePart,
        fold: &Fold,
        width: i64,
        advance: Advance,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let taken = take_closed(state, |start| start.saturating_add(width) <= advance.watermark);
        let (mut closed, mut rows) = (Vec::new(), Vec::new());
        for (start, kept) in taken.into_iter().filter(|_| advance.emits) {
            match kept.rows >= state.alone_rows && fold.groups > 1 {
                true => closed.extend(self.finish_window(fold, &kept.batches, start, context).await?),
                false => rows.extend(kept.batches),
            }
        }
        if !rows.is_empty() {
            closed.extend(self.finish(fold, &rows, context).await?);
        }
        Ok(closed)
    }

    pub(super) async fn close_hops(
        &self,
        state: &mut StatePart,
        fold: &Fold,
        (slide, width): (i64, i64),
        advance: Advance,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let Advance { before, watermark, emits, .. } = advance;
        let slice_width = self.spec.slice();
        // The first window that contains a slice, and the first one that is open.
        let first_with = |slice: i64| ceil(slice.saturating_add(slice_width).saturating_sub(width), slide);
        let first_open = |watermark: i64| ceil(watermark.saturating_sub(width).saturating_add(1), slide);
        let mut closed = Vec::new();
        let (mut rows, mut row_count) = (Vec::new(), 0);
        if emits && let Some((&first, _)) = state.slices.first_key_value() {
            let mut start =
                if before == i64::MIN { first_with(first) } else { first_open(before).max(first_with(first)) };
            while start.saturating_add(width) <= watermark {
                if state.slices.range(start..start.saturating_add(width)).next().is_none() {
                    // No rows until the next slice.
                    let Some((&slice, _)) = state.slices.range(start..).next() else { break };
                    start = start.saturating_add(slide).max(first_with(slice));
                    continue;
                }
                let of_window = self.window_rows(state, fold, (start, width), context).await?;
                let count: usize = of_window.iter().map(RecordBatch::num_rows).sum();
                if count >= state.alone_rows && fold.groups > 1 {
                    closed.extend(self.finish_window(fold, &of_window, start, context).await?);
                } else {
                    row_count += count;
                    for batch in of_window {
                        rows.push(with_slice(&batch, fold.window_index, start)?);
                    }
                }
                if row_count >= CLOSE_ROWS_MAX {
                    closed.extend(self.finish(fold, &std::mem::take(&mut rows), context).await?);
                    row_count = 0;
                }
                start = start.saturating_add(slide);
            }
        }
        if !rows.is_empty() {
            closed.extend(self.finish(fold, &rows, context).await?);
        }
        match watermark {
            i64::MIN => {}
            END_OF_TIME => {
                state.slices.clear();
                state.blocks.clear();
            }
            _ => {
                state.slices = state.slices.split_off(&first_open(watermark));
                state.drop_blocks_before(first_open(watermark).div_euclid(slice_width));
            }
        }
        Ok(closed)
    }

    /// Computes the rows of closed windows from their state.
    pub(super) async fn finish(
        &self,
        fold: &Fold,
        rows: &[RecordBatch],
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let last = self.aggregate(fold, AggregateMode::Final, rows)?;
        let finals = above_last(fold, last, context).await?;
        self.closed_rows(fold, finals)
    }

    /// Computes the rows of the closed window that begins at `start` from its state. `rows` may have any slices of it.
    async fn finish_window(
        &self,
        fold: &Fold,
        rows: &[RecordBatch],
        start: i64,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let mut finals = self.aggregate_slice(fold, AggregateMode::Final, rows, start, context).await?;
        if !Arc::ptr_eq(&fold.top, &fold.last) {
            let input = MemorySourceConfig::try_new_exec(&[finals], fold.last.schema(), None)?;
            finals = above_last(fold, input, context).await?;
        }
        let closed = self.closed_rows(fold, finals)?;
        match &self.top {
            Some(top) => top.best(closed),
            None => Ok(closed),
        }
    }

    /// Brings the output of the final aggregate to the columns of the slot.
    fn closed_rows(&self, fold: &Fold, finals: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let mut closed = Vec::new();
        for batch in finals {
            if batch.num_rows() == 0 {
                continue;
            }
            let mut columns = batch.columns().to_vec();
            let starts = times(&batch, fold.output_index).clone();
            let (ends, time) = match self.spec {
                WindowSpec::Hop { width, .. } => {
                    let ends = later(&starts, width)?;
                    let time = later(&ends, -1)?;
                    (ends, time)
                }
                WindowSpec::Session { gap } => {
                    let last = columns.pop().ok_or_else(|| QueryError::internal("a session has no last time"))?;
                    let last = last.as_primitive::<TimestampNanosecondType>();
                    let ends = later(last, gap)?;
                    // A row at the end would still belong to the session, so the end is its time.
                    (ends.clone(), ends)
                }
                WindowSpec::Never => return Err(QueryError::internal("a group without a window has closed")),
            };
            let (starts, ends): (ArrayRef, ArrayRef) = (Arc::new(starts), Arc::new(ends));
            let mut outputs: Vec<ArrayRef> = fold
                .outputs
                .iter()
                .map(|output| match output {
                    Output::Column(index) => Arc::clone(&columns[*index]),
                    Output::Window(Part::Start) => Arc::clone(&starts),
                    Output::Window(Part::End) => Arc::clone(&ends),
                    Output::Window(Part::Window) => window_array(Arc::clone(&starts), Arc::clone(&ends)),
                })
                .collect();
            outputs.push(Arc::new(time));
            closed.push(self.slot_batch(outputs, batch.num_rows())?);
        }
        Ok(closed)
    }

    /// Aggregates state rows that all count for one slice. The slice is left out of the keys meanwhile: a single key is
    /// grouped faster.
    async fn aggregate_slice(
        &self,
        fold: &Fold,
        mode: AggregateMode,
        rows: &[RecordBatch],
        slice: i64,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let last = aggregate_of(&fold.last);
        let kept: Vec<usize> =
            (0..self.state_schema.fields().len()).filter(|index| *index != fold.window_index).collect();
        let input = MemorySourceConfig::try_new_exec(&[rows.to_vec()], Arc::clone(&self.state_schema), Some(kept))?;
        let keys = last.group_expr().expr().iter().enumerate().filter(|(index, _)| *index != fold.window_index);
        let keys = keys.enumerate().map(|(place, (_, (_, name)))| {
            let column = Column::new(input.schema().field(place).name(), place);
            (Arc::new(column) as Arc<dyn PhysicalExpr>, name.clone())
        });
        let keys = PhysicalGroupBy::new_single(keys.collect());
        let aggregates = last.aggr_expr().to_vec();
        let filters = vec![None; aggregates.len()];
        let plan = AggregateExec::try_new(mode, keys, aggregates, filters, input, last.input_schema())?;
        let schema = if mode == AggregateMode::Final { fold.last.schema() } else { Arc::clone(&self.state_schema) };
        let batches = collect(Arc::new(plan), Arc::clone(context)).await?;
        let with_slice = batches.into_iter().map(|batch| {
            let mut columns = batch.columns().to_vec();
            columns.insert(
                fold.window_index,
                Arc::new(TimestampNanosecondArray::from_value(slice, batch.num_rows())) as ArrayRef,
            );
            Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
        });
        with_slice.collect()
    }

    /// Makes an aggregate of `mode` over state rows.
    pub(super) fn aggregate(
        &self,
        fold: &Fold,
        mode: AggregateMode,
        rows: &[RecordBatch],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let last = aggregate_of(&fold.last);
        let aggregates = last.aggr_expr().to_vec();
        let filters = vec![None; aggregates.len()];
        let input = MemorySourceConfig::try_new_exec(&[rows.to_vec()], Arc::clone(&self.state_schema), None)?;
        let aggregate =
            AggregateExec::try_new(mode, last.group_expr().clone(), aggregates, filters, input, last.input_schema())?;
        Ok(Arc::new(aggregate))
    }
}

/// Runs the plan of a fold with `last` in place of its final aggregate.
pub(super) async fn above_last(
    fold: &Fold,
    last: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
) -> Result<Vec<RecordBatch>> {
    let plan = Arc::clone(&fold.top).transform_down(|node| match Arc::ptr_eq(&node, &fold.last) {
        true => Ok(Transformed::new(Arc::clone(&last), true, TreeNodeRecursion::Jump)),
        false => Ok(Transformed::no(node)),
    });
    Ok(collect(plan.data()?, Arc::clone(context)).await?)
}

pub(super) fn aggregate_of(plan: &Arc<dyn ExecutionPlan>) -> &AggregateExec {
    plan.downcast_ref::<AggregateExec>().expect("a fold's plan is an aggregate")
}

type Phases = (Arc<dyn ExecutionPlan>, Arc<dyn ExecutionPlan>);

/// Returns the outermost pair of a partial and a final aggregate.
pub(super) fn phases(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Phases>> {
    let (mut partial, mut last) = (None, None);
    plan.apply(|node| {
        if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
            match aggregate.mode() {
                AggregateMode::Final | AggregateMode::FinalPartitioned if last.is_none() => {
                    last = Some(Arc::clone(node));
                }
                AggregateMode::Partial if last.is_some() => {
                    partial = Some(Arc::clone(node));
                    return Ok(TreeNodeRecursion::Stop);
                }
                _ => return Ok(TreeNodeRecursion::Stop),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(partial.zip(last))
}

/// Replaces the slice of state rows.
pub(super) fn with_slice(batch: &RecordBatch, index: usize, start: i64) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns[index] = Arc::new(TimestampNanosecondArray::from_value(start, batch.num_rows()));
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}
