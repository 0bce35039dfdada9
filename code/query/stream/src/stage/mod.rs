//! Stages: stateful operators that were cut out of a statement, and their state.
//!
//! The state of a stage is divided into parts by the hash of the grouping key. Each part folds the rows of an epoch into its
//! state and returns the rows of the windows that close; as many parts as there are workers do so at once.
//!
//! `keyed` puts rows in the order of their key groups, and `state` are the rows that are kept; `fold` aggregates windows, of
//! which `blocks` brings together those with many slices and `top` keeps the best rows; `session` aggregates sessions, which
//! are found by key in `sessions`; `changes` aggregates without windows. `counted` keeps rows by key, of which `recompute`
//! computes other operators without windows, and `expiry` drops those of keys that nothing touches.

mod blocks;
mod changes;
mod counted;
mod expiry;
mod fold;
mod keyed;
mod recompute;
mod session;
mod sessions;
mod state;
mod top;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampNanosecondArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimestampNanosecondType};
use buzz_plan::dialect;
use buzz_protocol::{QueryError, Result};
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::{ExecutionPlan, collect};
use futures::{StreamExt, TryStreamExt};

pub(crate) use self::changes::{Comparable, row_bytes};
use self::fold::{Fold, aggregate_of, phases};
pub use self::keyed::{KEY_GROUPS, KeyedRows};
pub(crate) use self::keyed::{keyed, with_schema};
use self::recompute::keyed_stage;
pub(crate) use self::recompute::recompute;
use self::session::sessions;
pub(crate) use self::state::StageState;
use self::state::{StatePart, by_slice, take_closed, times};
pub(crate) use self::top::Top;
use crate::feed::{Rows, run, with_rows};
use crate::lower::{Keyed, Output, SLICE, StageDraft, StageKind};
use crate::window::WindowSpec;

/// State rows above which a part is divided: the hash table of their keys fits into the second cache of a core.
pub(crate) const PART_ROWS: usize = 65_536;

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
    /// The rows of each window that are read.
    pub(crate) top: Option<Top>,
    /// Its place in the statement.
    number: usize,
    /// The time after which the rows of a key that nothing touches are dropped, in nanoseconds.
    pub(crate) ttl: Option<i64>,
}

/// A step of event time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Advance {
    /// The watermark of the epoch before.
    pub(crate) before: i64,
    /// The watermark now. Windows that it closes leave the state.
    pub(crate) watermark: i64,
    /// The rows of windows that close are returned. Otherwise they are not computed.
    pub(crate) emits: bool,
    /// The time of the epoch, in nanoseconds since 1970.
    pub(crate) now: i64,
}

#[derive(Debug)]
enum Work {
    Fold(Fold),
    Buffer,
    Keyed(Keyed),
}

impl Stage {
    /// Plans `draft`, stage `number` of its statement.
    ///
    /// # Errors
    /// `Invalid` if an aggregate function has no partial state, or rows to be kept cannot be compared.
    pub(crate) async fn plan(draft: &StageDraft, number: usize, state: &SessionState) -> Result<Self> {
        let physical = dialect::physical(state, &draft.below).await?;
        if let Some(stage) = keyed_stage(draft, &physical, number)? {
            return Ok(stage);
        }
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
                top: None,
                number,
                ttl: None,
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
            top: None,
            number,
            ttl: None,
        })
    }

    /// Returns the plan of its input.
    pub(crate) fn input(&self) -> Arc<dyn ExecutionPlan> {
        Arc::clone(&self.below)
    }

    /// Describes the state for `buzz stream check`.
    pub(crate) fn kept(&self) -> String {
        let end = match self.ttl {
            Some(ttl) => format!("until nothing touches the key for {}", crate::window::duration(ttl)),
            None => "without end".to_string(),
        };
        match (&self.work, self.spec) {
            (Work::Keyed(Keyed::Rows { reach: Some(reach), .. }), _) => {
                let reach = crate::window::duration(reach.saturating_sub(1).max(0));
                format!("rows by key, until the watermark is {reach} ahead of them")
            }
            (Work::Keyed(Keyed::Rows { .. }), _) => format!("rows by key, {end}"),
            (Work::Keyed(Keyed::Pairs { .. }), _) => "nothing".to_string(),
            (Work::Keyed(Keyed::Recompute { .. }), _) => format!("the rows that it emitted by key, {end}"),
            (Work::Buffer, spec) => format!("rows, until their window of {spec} closes"),
            (Work::Fold(_), WindowSpec::Session { .. }) => "one row per key and open session".to_string(),
            (Work::Fold(_), WindowSpec::Never) => format!("one row per key, {end}"),
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

    /// Returns the columns of the state that are the key.
    fn keys(&self) -> Vec<usize> {
        match &self.work {
            Work::Fold(fold) => (0..fold.groups).filter(|index| *index != fold.window_index).collect(),
            Work::Buffer => Vec::new(),
            Work::Keyed(keyed) => keyed.keys().to_vec(),
        }
    }

    /// Returns true if column `index` of the slot is a part of the window.
    pub(crate) fn is_window(&self, index: usize) -> bool {
        match &self.work {
            Work::Fold(fold) => matches!(fold.outputs.get(index), Some(Output::Window(_))),
            Work::Buffer | Work::Keyed(_) => false,
        }
    }

    /// Returns the type of column `index` of the slot.
    pub(crate) fn column_type(&self, index: usize) -> &DataType {
        self.schema.field(index).data_type()
    }

    /// Puts state rows in the order of their key groups.
    ///
    /// # Errors
    /// `Internal` if a key has a type without a hash.
    pub(crate) fn keyed(&self, batches: &[RecordBatch]) -> Result<Vec<KeyedRows>> {
        // Without a key, a fold has one group per slice. Raw rows may be anywhere.
        keyed(&self.state_schema, &self.keys(), matches!(self.work, Work::Buffer), batches)
    }

    /// Adds `delta` to the state, closes windows, and returns their rows by part.
    pub(crate) async fn fold(
        self: &Arc<Self>,
        state: &mut StageState,
        delta: &[KeyedRows],
        advance: Advance,
        context: &Arc<TaskContext>,
    ) -> Result<Rows> {
        state.divide(&self.state_schema, &self.keys(), |groups| {
            delta.iter().filter_map(|rows| rows.of(groups)).map(|rows| rows.num_rows()).sum()
        })?;
        let parts = std::mem::take(&mut state.parts).into_iter().map(|mut part| {
            let (stage, context) = (Arc::clone(self), Arc::clone(context));
            let delta: Vec<RecordBatch> = delta.iter().filter_map(|rows| rows.of(&part.groups)).collect();
            async move {
                let folded = SpawnedTask::spawn(async move {
                    let rows = stage.fold_part(&mut part, delta, advance, &context).await?;
                    Ok::<_, QueryError>((part, rows))
                });
                let folded = folded.join().await;
                folded.map_err(|error| QueryError::internal(format!("a task of an epoch stopped: {error}")))?
            }
        });
        let parts = futures::stream::iter(parts.collect::<Vec<_>>()).buffered(state.workers);
        let folded: Vec<(StatePart, Vec<RecordBatch>)> = parts.try_collect().await?;
        let mut rows = Rows::new();
        for (part, batches) in folded {
            state.parts.push(part);
            rows.push(batches);
        }
        Ok(rows)
    }

    async fn fold_part(
        &self,
        state: &mut StatePart,
        delta: Vec<RecordBatch>,
        advance: Advance,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let Advance { before, watermark, emits, .. } = advance;
        match (&self.work, self.spec) {
            (Work::Buffer, WindowSpec::Hop { width, .. }) => {
                let slice = self.state_schema.fields().len() - 1;
                self.add(state, delta, slice, true, before)?;
                let mut rows = Vec::new();
                for (start, kept) in take_closed(state, |start| start.saturating_add(width) <= watermark) {
                    let end = start.saturating_add(width);
                    for batch in kept.batches.into_iter().filter(|_| emits) {
                        rows.push(self.buffered(&batch, end)?);
                    }
                }
                Ok(rows)
            }
            (Work::Fold(fold), WindowSpec::Hop { slide, width }) => {
                self.add(state, delta, fold.window_index, fold.exact, before)?;
                self.compact(state, fold, context, watermark).await?;
                match fold.exact {
                    true => self.close_exact(state, fold, width, advance, context).await,
                    false => self.close_hops(state, fold, (slide, width), advance, context).await,
                }
            }
            (Work::Fold(fold), WindowSpec::Session { gap }) => {
                let last = self.state_schema.fields().len() - 1;
                // Sessions that ended before are closed; their late rows are dropped.
                let open = |batch: RecordBatch| {
                    let ends = times(&batch, last).iter().map(|last| last.map(|last| last.saturating_add(gap)));
                    let open = ends.map(|end| end.map(|end| !self.spec.is_closed(end, before)));
                    filter_record_batch(&batch, &open.collect())
                };
                let delta = delta.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
                self.close_sessions(state, fold, (gap, delta), advance, context).await
            }
            (Work::Fold(fold), WindowSpec::Never) => self.change(state, fold, (delta, emits), context).await,
            (Work::Buffer, WindowSpec::Session { .. } | WindowSpec::Never) | (Work::Keyed(_), _) => {
                Err(QueryError::internal("a stage without windows of rows keeps raw rows"))
            }
        }
    }

    /// Adds state rows to their slices. Rows of windows that are all closed are late and dropped.
    fn add(
        &self,
        state: &mut StatePart,
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
                state.drop_blocks_with(slice.div_euclid(self.spec.slice()));
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
    pub(crate) fn ends(&self, rows: &[KeyedRows]) -> Option<(i64, i64)> {
        if self.spec == WindowSpec::Never {
            return None;
        }
        let (index, exact) = match &self.work {
            Work::Buffer | Work::Keyed(_) => (self.state_schema.fields().len() - 1, true),
            // The last column of a session's state is the time of its last row.
            Work::Fold(_) if matches!(self.spec, WindowSpec::Session { .. }) => {
                (self.state_schema.fields().len() - 1, false)
            }
            Work::Fold(fold) => (fold.window_index, fold.exact),
        };
        let mut ends: Option<(i64, i64)> = None;
        for rows in rows {
            for &slice in rows.batch().column(index).as_primitive_opt::<TimestampNanosecondType>()?.values() {
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

    /// Adds state rows that were stored. `before` is the watermark before the epoch that wrote them: windows closed by
    /// then had been emitted already.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        state: &mut StageState,
        rows: Vec<RecordBatch>,
        before: i64,
        context: &Arc<TaskContext>,
    ) -> Result<()> {
        let rows = rows.iter().map(|batch| with_schema(&self.state_schema, batch)).collect::<Result<Vec<_>>>()?;
        if matches!(self.work, Work::Keyed(_)) {
            return self.merge_stored(state, &rows);
        }
        let rows = self.keyed(&rows)?;
        // Drops what was closed before these rows came, then adds the rows.
        self.forget(state, before, context).await?;
        self.fold(state, &rows, Advance { before, watermark: before, emits: false, now: 0 }, context).await?;
        Ok(())
    }

    /// Drops state of windows that `watermark` closes.
    pub(crate) async fn forget(
        self: &Arc<Self>,
        state: &mut StageState,
        watermark: i64,
        context: &Arc<TaskContext>,
    ) -> Result<()> {
        if matches!(self.work, Work::Keyed(_)) {
            return Ok(());
        }
        self.fold(state, &[], Advance { before: i64::MIN, watermark, emits: false, now: 0 }, context).await?;
        Ok(())
    }
}
