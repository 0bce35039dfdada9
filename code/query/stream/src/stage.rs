//! Stages: stateful operators that were cut out of a statement, and their state.
//!
//! The state of a stage is divided among workers by the hash of the grouping key. A worker folds the rows of an epoch
//! into its state and returns the rows of the windows that close.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, TimestampNanosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, filter_record_batch, sort_to_indices, take_record_batch};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef, TimestampNanosecondType};
use arrow::row::{RowConverter, SortField};
use buzz_protocol::{QueryError, Result};
use datafusion::common::hash_utils::create_hashes;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::physical_plan::{ExecutionPlan, collect};

use crate::feed::{Rows, run, with_rows};
use crate::lower::{Output, SLICE, StageDraft, StageKind};
use crate::window::{Part, WindowSpec, ceil, time_type, window_array};

/// Key groups of a pipeline. A worker owns a range of them, so the number of workers can change between epochs.
pub const KEY_GROUPS: usize = 64;

/// A slice is compacted when it has more rows than this and twice as many as after its last compaction.
const COMPACT_ROWS_MIN: usize = 16_384;

/// Rows of closed windows that one final aggregate takes.
const CLOSE_ROWS_MAX: usize = 2_000_000;

/// The end of event time: the watermark of a source that has ended.
pub const END_OF_TIME: i64 = i64::MAX;

/// A stage that is ready to run.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) slot: String,
    pub(crate) spec: WindowSpec,
    pub(crate) clause: String,
    /// Columns of the slot.
    schema: SchemaRef,
    /// Columns of the state.
    pub(crate) state_schema: SchemaRef,
    below: Arc<dyn ExecutionPlan>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Fold(Fold),
    Buffer,
}

#[derive(Debug)]
struct Fold {
    /// The whole aggregate; `last` is at its root or below projections.
    top: Arc<dyn ExecutionPlan>,
    /// The final aggregate of the plan, from which others are made.
    last: Arc<dyn ExecutionPlan>,
    /// Position of the slice in the output of `top`.
    output_index: usize,
    /// Position of the slice in the state.
    window_index: usize,
    groups: usize,
    outputs: Vec<Output>,
    exact: bool,
}

/// The state of a stage, by worker.
#[derive(Debug, Default)]
pub(crate) struct StageState {
    workers: Vec<WorkerState>,
}

/// State rows by slice. Sessions are all in slice 0.
#[derive(Debug, Default, Clone)]
struct WorkerState {
    slices: BTreeMap<i64, SliceState>,
}

#[derive(Debug, Default, Clone)]
struct SliceState {
    batches: Vec<RecordBatch>,
    rows: usize,
    /// Rows after the last compaction.
    compacted: usize,
}

impl StageState {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: vec![WorkerState::default(); workers.max(1)] }
    }

    /// Returns all state rows.
    pub(crate) fn batches(&self) -> Vec<RecordBatch> {
        let slices = self.workers.iter().flat_map(|worker| worker.slices.values());
        slices.flat_map(|slice| slice.batches.iter().cloned()).collect()
    }

    pub(crate) fn rows(&self) -> usize {
        self.workers.iter().flat_map(|worker| worker.slices.values()).map(|slice| slice.rows).sum()
    }

    pub(crate) fn slices(&self) -> usize {
        self.workers.iter().map(|worker| worker.slices.len()).max().unwrap_or_default()
    }
}

impl Stage {
    /// Plans `draft`.
    ///
    /// # Errors
    /// `Invalid` if an aggregate function has no partial state.
    pub(crate) async fn plan(draft: &StageDraft, state: &SessionState) -> Result<Self> {
        let physical = state.create_physical_plan(&draft.below).await?;
        let StageKind::Fold { window_index, outputs, exact } = &draft.kind else {
            let state_schema = physical.schema();
            return Ok(Self {
                slot: draft.slot.clone(),
                spec: draft.spec,
                clause: draft.clause.clone(),
                schema: Arc::clone(&draft.schema),
                state_schema,
                below: physical,
                work: Work::Buffer,
            });
        };
        let (partial, last) = phases(&physical)?.ok_or_else(|| {
            QueryError::invalid(format!(
                "{} cannot run over a stream: an aggregate function has no partial state; \
                 use another function, or aggregate in a subquery first",
                draft.clause
            ))
        })?;
        let aggregate = aggregate_of(&last);
        let names = aggregate.group_expr().expr();
        let state_index = names.iter().position(|(_, name)| name == SLICE);
        let state_index = state_index.ok_or_else(|| QueryError::internal("an aggregate lost its slice"))?;
        Ok(Self {
            slot: draft.slot.clone(),
            spec: draft.spec,
            clause: draft.clause.clone(),
            schema: Arc::clone(&draft.schema),
            state_schema: partial.schema(),
            work: Work::Fold(Fold {
                top: physical,
                output_index: *window_index,
                window_index: state_index,
                groups: aggregate.group_expr().expr().len(),
                outputs: outputs.clone(),
                exact: *exact,
                last: Arc::clone(&last),
            }),
            below: partial,
        })
    }

    /// Returns the plan of its input.
    pub(crate) fn input(&self) -> Arc<dyn ExecutionPlan> {
        Arc::clone(&self.below)
    }

    /// Describes the state for `buzz stream check`.
    pub(crate) fn kept(&self) -> String {
        match (&self.work, self.spec) {
            (Work::Buffer, spec) => format!("rows, until their window of {spec} closes"),
            (Work::Fold(_), WindowSpec::Session { .. }) => "one row per key and open session".to_string(),
            (Work::Fold(fold), WindowSpec::Hop { width, .. }) => {
                let slice = if fold.exact { width } else { self.spec.slice() };
                let slice = crate::window::duration(slice);
                format!("one row per key and slice of {slice}, for {}", crate::window::duration(width))
            }
        }
    }

    /// Computes the state rows that the rows of an epoch add.
    pub(crate) async fn delta(&self, feeds: &BTreeMap<String, Rows>, context: &Arc<TaskContext>) -> Result<Rows> {
        let plan = with_rows(&self.below, feeds)?;
        let WindowSpec::Session { gap } = self.spec else { return run(plan, context).await };
        let Work::Fold(fold) = &self.work else { return Err(QueryError::internal("a session keeps raw rows")) };
        // A row's session is known only when the rows of its key are sorted, so the partial aggregate is taken apart.
        let partial = aggregate_of(&plan);
        let input = run(Arc::clone(partial.input()), context).await?;
        let mut deltas = Rows::new();
        for batches in input {
            if batches.is_empty() {
                continue;
            }
            let rows = concat_batches(&partial.input().schema(), &batches)?;
            deltas.push(collect(sessions(partial, &rows, fold.window_index, gap)?, Arc::clone(context)).await?);
        }
        Ok(deltas)
    }

    /// Divides rows of the state among `workers` by key.
    fn divide(&self, rows: Rows, workers: usize) -> Result<Rows> {
        if workers <= 1 {
            return Ok(vec![rows.into_iter().flatten().collect()]);
        }
        let mut divided: Rows = vec![Vec::new(); workers];
        let keys = match &self.work {
            Work::Fold(fold) => (0..fold.groups).filter(|index| *index != fold.window_index).collect(),
            Work::Buffer => Vec::new(),
        };
        let mut next = 0;
        for batch in rows.into_iter().flatten() {
            if keys.is_empty() {
                // Without a key, a fold has one group per slice. Raw rows may be anywhere.
                let worker = if matches!(self.work, Work::Buffer) { next % workers } else { 0 };
                next += 1;
                divided[worker].push(batch);
                continue;
            }
            let arrays: Vec<&dyn Array> = keys.iter().map(|&index| batch.column(index).as_ref()).collect();
            let mut hashes = vec![0; batch.num_rows()];
            create_hashes(arrays, REPARTITION_RANDOM_STATE.random_state(), &mut hashes)?;
            let mut indices: Vec<Vec<u32>> = vec![Vec::new(); workers];
            for (row, hash) in hashes.into_iter().enumerate() {
                let group = (hash % KEY_GROUPS as u64) as usize;
                indices[group * workers / KEY_GROUPS].push(row as u32);
            }
            for (worker, indices) in indices.into_iter().enumerate() {
                if !indices.is_empty() {
                    divided[worker].push(take_record_batch(&batch, &UInt32Array::from(indices))?);
                }
            }
        }
        Ok(divided)
    }

    /// Adds `delta` to the state, closes windows up to `watermark`, and returns their rows by worker. `before` is the
    /// watermark of the epoch before.
    pub(crate) async fn fold(
        self: &Arc<Self>,
        state: &mut StageState,
        delta: Rows,
        before: i64,
        watermark: i64,
        context: &Arc<TaskContext>,
    ) -> Result<Rows> {
        let workers = state.workers.len();
        let divided = self.divide(delta, workers)?;
        let mut tasks = tokio::task::JoinSet::new();
        for (index, (worker, delta)) in std::mem::take(&mut state.workers).into_iter().zip(divided).enumerate() {
            let (stage, context) = (Arc::clone(self), Arc::clone(context));
            tasks.spawn(async move {
                let mut worker = worker;
                let rows = stage.fold_worker(&mut worker, delta, before, watermark, &context).await?;
                Ok::<_, QueryError>((index, worker, rows))
            });
        }
        let mut folded: Vec<(WorkerState, Vec<RecordBatch>)> = vec![Default::default(); workers];
        while let Some(done) = tasks.join_next().await {
            let done = done.map_err(|error| QueryError::internal(format!("a task of an epoch stopped: {error}")))?;
            let (index, worker, rows) = done?;
            folded[index] = (worker, rows);
        }
        let mut rows = Rows::new();
        for (worker, batches) in folded {
            state.workers.push(worker);
            rows.push(batches);
        }
        Ok(rows)
    }

    async fn fold_worker(
        &self,
        state: &mut WorkerState,
        delta: Vec<RecordBatch>,
        before: i64,
        watermark: i64,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        match (&self.work, self.spec) {
            (Work::Buffer, WindowSpec::Hop { width, .. }) => {
                let slice = self.state_schema.fields().len() - 1;
                self.add(state, delta, slice, true, before)?;
                let mut rows = Vec::new();
                for (start, kept) in take_closed(state, |start| start.saturating_add(width) <= watermark) {
                    let end = start.saturating_add(width);
                    for batch in kept.batches {
                        rows.push(self.buffered(&batch, end)?);
                    }
                }
                Ok(rows)
            }
            (Work::Fold(fold), WindowSpec::Hop { slide, width }) => {
                self.add(state, delta, fold.window_index, fold.exact, before)?;
                self.compact(state, fold, context, watermark).await?;
                match fold.exact {
                    true => self.close_exact(state, fold, width, watermark, context).await,
                    false => self.close_hops(state, fold, slide, width, before, watermark, context).await,
                }
            }
            (Work::Fold(fold), WindowSpec::Session { gap }) => {
                let added = !delta.is_empty();
                let last = self.state_schema.fields().len() - 1;
                for batch in delta {
                    // Sessions that ended before are closed; their late rows are dropped.
                    let open = times(&batch, last)
                        .iter()
                        .map(|last| last.map(|last| !self.spec.is_closed(last.saturating_add(gap), before)));
                    let batch = filter_record_batch(&batch, &open.collect())?;
                    let kept = state.slices.entry(0).or_default();
                    kept.rows += batch.num_rows();
                    kept.batches.push(batch);
                }
                self.close_sessions(state, fold, gap, added, watermark, context).await
            }
            (Work::Buffer, WindowSpec::Session { .. }) => Err(QueryError::internal("a session keeps raw rows")),
        }
    }

    /// Adds state rows to their slices. Rows of windows that are all closed are late and dropped.
    fn add(
        &self,
        state: &mut WorkerState,
        delta: Vec<RecordBatch>,
        index: usize,
        exact: bool,
        before: i64,
    ) -> Result<()> {
        for batch in delta {
            for (slice, rows) in by_slice(&batch, index)? {
                if self.slice_is_closed(slice, exact, before) {
                    continue;
                }
                let kept = state.slices.entry(slice).or_default();
                kept.rows += rows.num_rows();
                kept.batches.push(rows);
            }
        }
        Ok(())
    }

    fn slice_is_closed(&self, slice: i64, exact: bool, watermark: i64) -> bool {
        match self.spec {
            WindowSpec::Hop { width, .. } if exact => slice.saturating_add(width) <= watermark,
            spec => spec.last_end(slice).is_none_or(|end| spec.is_closed(end, watermark)),
        }
    }

    /// Returns the ends of the last windows that rows with these slices belong to: the smallest and the largest.
    pub(crate) fn ends(&self, batches: &[RecordBatch]) -> Option<(i64, i64)> {
        let (index, exact) = match &self.work {
            Work::Buffer => (self.state_schema.fields().len() - 1, true),
            // The last column of a session's state is the time of its last row.
            Work::Fold(_) if matches!(self.spec, WindowSpec::Session { .. }) => {
                (self.state_schema.fields().len() - 1, false)
            }
            Work::Fold(fold) => (fold.window_index, fold.exact),
        };
        let mut ends: Option<(i64, i64)> = None;
        for batch in batches {
            for &slice in batch.column(index).as_primitive_opt::<TimestampNanosecondType>()?.values() {
                let end = match self.spec {
                    WindowSpec::Hop { width, .. } if exact => slice.saturating_add(width),
                    spec => spec.last_end(slice)?,
                };
                ends = Some(ends.map_or((end, end), |(low, high)| (low.min(end), high.max(end))));
            }
        }
        ends
    }

    fn buffered(&self, batch: &RecordBatch, end: i64) -> Result<RecordBatch> {
        let mut columns = batch.columns()[..batch.num_columns() - 1].to_vec();
        // The time column becomes the last moment of the window.
        let last = columns.len() - 1;
        columns[last] = Arc::new(TimestampNanosecondArray::from_value(end.saturating_sub(1), batch.num_rows()));
        self.slot_batch(columns, batch.num_rows())
    }

    fn slot_batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// Reduces slices that will be read more than once, or that hold many rows per key.
    async fn compact(
        &self,
        state: &mut WorkerState,
        fold: &Fold,
        context: &Arc<TaskContext>,
        watermark: i64,
    ) -> Result<()> {
        let width = match self.spec {
            WindowSpec::Hop { width, .. } => width,
            WindowSpec::Session { .. } => return Ok(()),
        };
        let slice_width = if fold.exact { width } else { self.spec.slice() };
        let shared = slice_width < width;
        let mut rows = Vec::new();
        for (&slice, kept) in &mut state.slices {
            let complete = shared && slice.saturating_add(slice_width) <= watermark && kept.batches.len() > 1;
            let grown = kept.rows > COMPACT_ROWS_MIN && kept.rows >= 2 * kept.compacted;
            // Many small batches cost more than their rows.
            let scattered = kept.batches.len() > 256;
            if complete || (grown && kept.batches.len() > 1) || scattered {
                rows.append(&mut kept.batches);
                kept.rows = 0;
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let reduced = collect(self.aggregate(fold, AggregateMode::PartialReduce, &rows)?, Arc::clone(context)).await?;
        for batch in reduced {
            for (slice, rows) in by_slice(&batch, fold.window_index)? {
                let kept = state.slices.entry(slice).or_default();
                kept.rows += rows.num_rows();
                kept.compacted = kept.rows;
                kept.batches.push(rows);
            }
        }
        Ok(())
    }

    async fn close_exact(
        &self,
        state: &mut WorkerState,
        fold: &Fold,
        width: i64,
        watermark: i64,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let closed = take_closed(state, |start| start.saturating_add(width) <= watermark);
        let rows: Vec<RecordBatch> = closed.into_iter().flat_map(|(_, kept)| kept.batches).collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.finish(fold, &rows, context).await
    }

    #[expect(clippy::too_many_arguments)]
    async fn close_hops(
        &self,
        state: &mut WorkerState,
        fold: &Fold,
        slide: i64,
        width: i64,
        before: i64,
        watermark: i64,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let slice_width = self.spec.slice();
        // The first window that contains a slice, and the first one that is open.
        let first_with = |slice: i64| ceil(slice.saturating_add(slice_width).saturating_sub(width), slide);
        let first_open = |watermark: i64| ceil(watermark.saturating_sub(width).saturating_add(1), slide);
        let mut closed = Vec::new();
        let (mut rows, mut row_count) = (Vec::new(), 0);
        if let Some((&first, _)) = state.slices.first_key_value() {
            let mut start =
                if before == i64::MIN { first_with(first) } else { first_open(before).max(first_with(first)) };
            while start.saturating_add(width) <= watermark {
                let mut parts = state.slices.range(start..start.saturating_add(width)).peekable();
                if parts.peek().is_none() {
                    // No rows until the next slice.
                    let Some((&slice, _)) = state.slices.range(start..).next() else { break };
                    start = start.saturating_add(slide).max(first_with(slice));
                    continue;
                }
                for batch in parts.flat_map(|(_, kept)| &kept.batches) {
                    row_count += batch.num_rows();
                    rows.push(with_slice(batch, fold.window_index, start)?);
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
        state.slices = match watermark {
            i64::MIN => return Ok(closed),
            END_OF_TIME => BTreeMap::new(),
            _ => state.slices.split_off(&first_open(watermark)),
        };
        Ok(closed)
    }

    async fn close_sessions(
        &self,
        state: &mut WorkerState,
        fold: &Fold,
        gap: i64,
        added: bool,
        watermark: i64,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let Some(kept) = state.slices.get(&0) else { return Ok(Vec::new()) };
        let last_index = self.state_schema.fields().len() - 1;
        let is_closed = |last: i64| self.spec.is_closed(last.saturating_add(gap), watermark);
        let closes = |batch: &RecordBatch| times(batch, last_index).values().iter().any(|&last| is_closed(last));
        if !added && !kept.batches.iter().any(closes) {
            return Ok(Vec::new());
        }
        let all = concat_batches(&self.state_schema, &kept.batches)?;
        if all.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let keys: Vec<ArrayRef> =
            (0..fold.groups).filter(|i| *i != fold.window_index).map(|i| Arc::clone(all.column(i))).collect();
        let starts = merge_sessions(&keys, times(&all, fold.window_index), times(&all, last_index), gap)?;
        let mut columns = all.columns().to_vec();
        columns[fold.window_index] = Arc::new(starts);
        let merged = RecordBatch::try_new(Arc::clone(&self.state_schema), columns)?;
        let reduced = self.aggregate(fold, AggregateMode::PartialReduce, &[merged])?;
        let reduced = concat_batches(&self.state_schema, &collect(reduced, Arc::clone(context)).await?)?;
        let done: BooleanArray = times(&reduced, last_index).iter().map(|last| last.map(is_closed)).collect();
        let open = filter_record_batch(&reduced, &arrow::compute::not(&done)?)?;
        let closed = filter_record_batch(&reduced, &done)?;
        state.slices.clear();
        if open.num_rows() > 0 {
            let rows = open.num_rows();
            state.slices.insert(0, SliceState { batches: vec![open], rows, compacted: rows });
        }
        match closed.num_rows() {
            0 => Ok(Vec::new()),
            _ => self.finish(fold, &[closed], context).await,
        }
    }

    /// Computes the rows of closed windows from their state.
    async fn finish(&self, fold: &Fold, rows: &[RecordBatch], context: &Arc<TaskContext>) -> Result<Vec<RecordBatch>> {
        let last = self.aggregate(fold, AggregateMode::Final, rows)?;
        let plan = Arc::clone(&fold.top).transform_down(|node| match Arc::ptr_eq(&node, &fold.last) {
            true => Ok(Transformed::new(Arc::clone(&last), true, TreeNodeRecursion::Jump)),
            false => Ok(Transformed::no(node)),
        });
        let finals = collect(plan.data()?, Arc::clone(context)).await?;
        let mut closed = Vec::new();
        for batch in finals {
            if batch.num_rows() == 0 {
                continue;
            }
            let mut columns = batch.columns().to_vec();
            let starts = times(&batch, fold.output_index).clone();
            let (ends, time) = match self.spec {
                WindowSpec::Hop { width, .. } => {
                    let ends = starts.unary::<_, TimestampNanosecondType>(|start| start + width);
                    let time = ends.unary::<_, TimestampNanosecondType>(|end| end - 1);
                    (ends, time)
                }
                WindowSpec::Session { gap } => {
                    let last = columns.pop().ok_or_else(|| QueryError::internal("a session has no last time"))?;
                    let last = last.as_primitive::<TimestampNanosecondType>();
                    let ends = last.unary::<_, TimestampNanosecondType>(|last| last + gap);
                    // A row at the end would still belong to the session, so the end is its time.
                    (ends.clone(), ends)
                }
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

    /// Makes an aggregate of `mode` over state rows.
    fn aggregate(&self, fold: &Fold, mode: AggregateMode, rows: &[RecordBatch]) -> Result<Arc<dyn ExecutionPlan>> {
        let last = aggregate_of(&fold.last);
        let aggregates = last.aggr_expr().to_vec();
        let filters = vec![None; aggregates.len()];
        let input = MemorySourceConfig::try_new_exec(&[rows.to_vec()], Arc::clone(&self.state_schema), None)?;
        let aggregate =
            AggregateExec::try_new(mode, last.group_expr().clone(), aggregates, filters, input, last.input_schema())?;
        Ok(Arc::new(aggregate))
    }

    /// Adds state rows that were stored. `before` is the watermark before the epoch that wrote them: windows closed by
    /// then had been emitted already.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        state: &mut StageState,
        rows: Vec<RecordBatch>,
        before: i64,
        context: &Arc<TaskContext>,
    ) -> Result<()> {
        let rows = rows.into_iter().map(|batch| {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(Arc::clone(&self.state_schema), batch.columns().to_vec(), &options)
        });
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        // Closes what was closed before these rows came, drops the result, then adds the rows.
        self.fold(state, Vec::new(), i64::MIN, before, context).await?;
        self.fold(state, vec![rows], before, before, context).await?;
        Ok(())
    }

    /// Drops state of windows that `watermark` closes.
    pub(crate) async fn forget(
        self: &Arc<Self>,
        state: &mut StageState,
        watermark: i64,
        context: &Arc<TaskContext>,
    ) -> Result<()> {
        self.fold(state, Vec::new(), i64::MIN, watermark, context).await?;
        Ok(())
    }
}

fn times(batch: &RecordBatch, index: usize) -> &TimestampNanosecondArray {
    batch.column(index).as_primitive::<TimestampNanosecondType>()
}

fn aggregate_of(plan: &Arc<dyn ExecutionPlan>) -> &AggregateExec {
    plan.downcast_ref::<AggregateExec>().expect("a fold's plan is an aggregate")
}

type Phases = (Arc<dyn ExecutionPlan>, Arc<dyn ExecutionPlan>);

/// Returns the outermost pair of a partial and a final aggregate.
fn phases(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Phases>> {
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

fn take_closed(state: &mut WorkerState, is_closed: impl Fn(i64) -> bool) -> Vec<(i64, SliceState)> {
    let closed: Vec<i64> = state.slices.keys().copied().take_while(|&start| is_closed(start)).collect();
    closed.into_iter().filter_map(|start| state.slices.remove_entry(&start)).collect()
}

fn with_slice(batch: &RecordBatch, index: usize, start: i64) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns[index] = Arc::new(TimestampNanosecondArray::from_value(start, batch.num_rows()));
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// Divides a batch by its slice. Rows without a slice have no event time and are dropped.
fn by_slice(batch: &RecordBatch, index: usize) -> Result<Vec<(i64, RecordBatch)>> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let slices = times(batch, index);
    let first = slices.value(0);
    if slices.null_count() == 0 && slices.values().iter().all(|&slice| slice == first) {
        return Ok(vec![(first, batch.clone())]);
    }
    let indices = sort_to_indices(slices, None, None)?;
    let sorted = take_record_batch(batch, &indices)?;
    let slices = times(&sorted, index).clone();
    let (mut parts, mut from) = (Vec::new(), slices.null_count());
    while from < sorted.num_rows() {
        let slice = slices.value(from);
        let until = from + slices.values()[from..].partition_point(|&other| other <= slice);
        parts.push((slice, sorted.slice(from, until - from)));
        from = until;
    }
    Ok(parts)
}

/// The partial aggregate over `rows`, whose slice is the start of their session within these rows.
fn sessions(
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
