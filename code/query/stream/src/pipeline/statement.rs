//! A planned statement: its stages, and the plan over closed windows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{SchemaRef, TimestampNanosecondType};
use buzz_plan::dialect;
use buzz_protocol::{CHANGES_FORMAT, QueryError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use super::changes::{as_new, in_pairs, schema_of_changes};
use super::columns::{Target, into_columns};
use super::source::{SourceInput, source_of};
use super::views::logical;
use super::{EpochOutput, StageDelta, StageId};
use crate::feed::{Rows, names, run, with_rows};
use crate::lower::{SourceScan, StageDraft, lower};
use crate::ranks::{limit_ranks, ranked};
use crate::script::{Emission, Output, Script};
use crate::stage::{Advance, KeyedRows, Stage, StageState, Top, recompute};
use crate::window::{REACH_MAX, WindowSpec, duration};

/// Rows of a batch that are put in order.
const ORDERED_ROWS_MAX: usize = 8192;

/// A statement that is ready to run.
pub(super) struct Statement {
    /// The table it inserts into; `None` prints the rows.
    pub(super) into: Option<String>,
    pub(super) sources: BTreeSet<String>,
    /// Distance between the time of a row and the farthest start or end of its windows, in nanoseconds.
    pub(super) reach: i64,
    pub(super) stages: Vec<Arc<Stage>>,
    pub(super) above: Arc<dyn ExecutionPlan>,
    /// The last column of `above` is the time, by which rows are put in order.
    timed: bool,
    /// The rows of `above` are those before and after changes.
    pub(super) changes: bool,
    /// The rows are final, and the sink takes changes: each row is a new one.
    creates: bool,
    /// The columns without the time; of changes, what [`schema_of_changes`] returns.
    pub(super) schema: SchemaRef,
    /// The columns that later statements with the same table must have, unless it declares some.
    pub(super) target: Target,
}

/// The sources of a script as a statement sees them.
pub(super) struct Sources<'a> {
    pub(super) script: &'a Script,
    pub(super) inputs: &'a BTreeMap<String, SourceInput>,
    /// With the tables of late and bad rows.
    pub(super) scans: &'a BTreeMap<String, SourceScan>,
}

impl Statement {
    /// Plans statement `index` of a script. `target` has the columns of the table that it inserts into, if it declares
    /// some or an earlier statement inserts into it.
    pub(super) async fn plan(
        context: &SessionContext,
        output: &Output,
        index: usize,
        sources: &Sources<'_>,
        target: Option<&Target>,
    ) -> Result<Self> {
        let plan = logical(context, sources.script, &output.query).await?;
        let plan = into_columns(plan, &output.columns, target)?;
        let target = Target::of(&plan);
        let lowered = lower(&plan, sources.scans, &index.to_string(), output.emission == Emission::OnClose)?;
        let changes_are_asked = output.emission == Emission::Changes;
        if changes_are_asked && !lowered.changes && stages_have_windows(&lowered.stages) {
            return Err(QueryError::invalid(
                "EMIT CHANGES of windows is not supported: their rows are emitted once, when they close; remove it, or remove \
                 the window from GROUP BY",
            ));
        }
        let mut stages = Vec::new();
        for (number, draft) in lowered.stages.iter().enumerate() {
            stages.push(Stage::plan(draft, number, &context.state()).await?);
        }
        let reach = reach(&stages)?;
        let mut read = BTreeSet::new();
        collect_sources(&plan, &mut read);
        if let Some(side) = read.iter().find(|name| !sources.inputs.contains_key(*name)) {
            if !stages.is_empty() {
                return Err(QueryError::invalid(format!(
                    "a window over `{side}` cannot run: its rows are late for all windows; select them as they are"
                )));
            }
            // Rows of a side table come with those of its source.
            read = read.iter().map(|name| source_of(name, sources.inputs).to_string()).collect();
        }
        let above = limit_ranks(dialect::physical(&context.state(), &lowered.above).await?)?;
        set_tops(&mut stages, &above);
        let mut schema = above.schema();
        if lowered.timed {
            let columns: Vec<usize> = (0..schema.fields().len() - 1).collect();
            schema = Arc::new(schema.project(&columns)?);
        }
        let table = output.into.as_deref().and_then(|into| sources.script.table(into));
        let takes_changes = table.and_then(|table| table.option("format")) == Some(CHANGES_FORMAT);
        let creates = !lowered.changes && (takes_changes || changes_are_asked);
        if lowered.changes || creates {
            schema = schema_of_changes(&schema);
        }
        Ok(Self {
            into: output.into.clone(),
            sources: read,
            reach,
            stages: stages.into_iter().map(Arc::new).collect(),
            above,
            timed: lowered.timed,
            changes: lowered.changes,
            creates,
            schema,
            target,
        })
    }

    /// Folds the rows of an epoch into the stages, and returns the rows of the windows that close.
    pub(super) async fn run(
        &self,
        index: usize,
        state: &mut [StageState],
        feeds: &BTreeMap<String, Rows>,
        advance: Advance,
        context: &Arc<TaskContext>,
        output: &mut EpochOutput,
    ) -> Result<Vec<RecordBatch>> {
        let mut feeds = feeds.clone();
        // Changes of rows that are kept by key, until all inputs of the stage that computes with them are done.
        let mut changes = BTreeMap::new();
        for (number, stage) in self.stages.iter().enumerate() {
            let mut added: Vec<(usize, Vec<KeyedRows>)> = Vec::new();
            if stage.is_keyed() {
                let done = recompute(&self.stages, number, state, &mut changes, advance, context).await?;
                for (number, rows) in done.stored {
                    added.push((number, self.stages[number].keyed(&[rows])?));
                }
                feeds.insert(stage.slot.clone(), vec![done.rows]);
            } else {
                let reads = reads_rows(&stage.input(), &feeds);
                let delta = if reads { stage.delta(&feeds, context).await? } else { Rows::new() };
                if stage.keeps_rows() {
                    changes.insert(number, stage.changes_of(&delta.concat(), advance)?);
                } else {
                    let delta = delta.into_iter().flatten().map(|rows| stage.touched_at(rows, advance.now));
                    let rows = stage.keyed(&delta.collect::<Result<Vec<_>>>()?)?;
                    let closed = stage.fold(&mut state[number], &rows, advance, context).await?;
                    feeds.insert(stage.slot.clone(), closed);
                    added.push((number, rows));
                }
            }
            for (stage, batches) in added.into_iter().filter(|(_, batches)| !batches.is_empty()) {
                let stage = StageId { statement: index, stage };
                output.deltas.push(StageDelta { stage, before: advance.before, batches });
            }
        }
        for (stage, kept) in self.stages.iter().zip(state) {
            stage.expire(kept, advance)?;
        }
        if !advance.emits || !reads_rows(&self.above, &feeds) {
            return Ok(Vec::new());
        }
        let rows = run(with_rows(&self.above, &feeds)?, context).await?;
        let rows: Vec<RecordBatch> = rows.into_iter().flatten().collect();
        if self.changes {
            return in_pairs(&rows, &self.schema);
        }
        let rows = match self.timed {
            true => in_time_order(&rows)?,
            false => rows,
        };
        match self.creates {
            true => as_new(&rows, &self.schema),
            false => Ok(rows),
        }
    }
}

/// Sets in stages which rows of a window the plan above reads, if it reads the window's rows once and only the first ones by a
/// column.
fn set_tops(stages: &mut [Stage], above: &Arc<dyn ExecutionPlan>) {
    let mut read = names(above);
    read.extend(stages.iter().flat_map(|stage| names(&stage.input())));
    for ranked in ranked(above) {
        if read.iter().filter(|name| **name == ranked.feed).count() != 1 {
            continue;
        }
        if let Some(stage) = stages.iter_mut().find(|stage| stage.slot == ranked.feed)
            && ranked.keys.iter().all(|&key| stage.is_window(key))
            && Top::has_order(stage.column_type(ranked.column))
        {
            stage.top = Some(Top { column: ranked.column, order: ranked.order, fetch: ranked.fetch });
        }
    }
}

/// Puts rows in the order of their last column, a time, and removes it. Rows of one time stay in their order.
fn in_time_order(batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let mut places: Vec<(i64, usize, usize)> = Vec::new();
    let mut rows = Vec::with_capacity(batches.len());
    for (number, batch) in batches.iter().enumerate() {
        let times = batch.column(batch.num_columns() - 1).as_primitive::<TimestampNanosecondType>();
        places.extend(times.iter().enumerate().map(|(row, time)| (time.unwrap_or(i64::MIN), number, row)));
        rows.push(batch.project(&(0..batch.num_columns() - 1).collect::<Vec<_>>())?);
    }
    if places.is_sorted_by_key(|(time, ..)| *time) {
        return Ok(rows);
    }
    places.sort_unstable();
    let rows: Vec<&RecordBatch> = rows.iter().collect();
    let ordered = places.chunks(ORDERED_ROWS_MAX).map(|places| {
        let indices: Vec<(usize, usize)> = places.iter().map(|(_, number, row)| (*number, *row)).collect();
        Ok(interleave_record_batch(&rows, &indices)?)
    });
    ordered.collect()
}

/// Adds up the lengths of windows, as the rows of one may be the input of another.
fn reach(stages: &[Stage]) -> Result<i64> {
    let reach = stages.iter().map(|stage| stage.spec.reach()).fold(0, i64::saturating_add);
    if reach > REACH_MAX {
        let windows: Vec<String> = stages.iter().map(|stage| stage.spec.to_string()).collect();
        return Err(QueryError::invalid(format!(
            "the windows {} together are longer than {}; use shorter ones",
            windows.join(", "),
            duration(REACH_MAX)
        )));
    }
    Ok(reach)
}

fn stages_have_windows(stages: &[StageDraft]) -> bool {
    stages.iter().any(|stage| stage.spec != WindowSpec::Never)
}

fn reads_rows(plan: &Arc<dyn ExecutionPlan>, feeds: &BTreeMap<String, Rows>) -> bool {
    names(plan).iter().any(|name| feeds.get(name).is_some_and(|rows| rows.iter().any(|part| !part.is_empty())))
}

fn collect_sources(plan: &LogicalPlan, found: &mut BTreeSet<String>) {
    if let LogicalPlan::TableScan(scan) = plan {
        found.insert(scan.table_name.table().to_string());
    }
    for input in plan.inputs() {
        collect_sources(input, found);
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

    use super::*;
    use crate::pipeline::Pipeline;

    /// The best rows that the stages of a statement over bids keep of each window: the column of the slot and the number.
    async fn tops(select: &str) -> Vec<Option<(usize, usize)>> {
        let fields = vec![
            Field::new("auction", DataType::Int64, true),
            Field::new("price", DataType::Float64, true),
            Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
        ];
        let input = SourceInput {
            schema: Arc::new(Schema::new(fields)),
            time_column: Some("ts".to_string()),
            delay: 0,
            late_side: false,
            bad_side: false,
        };
        let script = Script::parse(select).expect("it is a script");
        let inputs = BTreeMap::from([("bids".to_string(), input)]);
        let pipeline = Pipeline::plan(&script, &inputs, &BTreeMap::new(), 2).await.expect("it can be planned");
        let stages = pipeline.statements[0].stages.iter();
        stages.map(|stage| stage.top.as_ref().map(|top| (top.column, top.fetch))).collect()
    }

    #[tokio::test]
    async fn best_rows_are_kept_only_if_no_others_are_read() {
        let counts = "(SELECT auction, count(*) AS n, max(price) AS most, hop(interval '2 seconds', interval '10 seconds') AS w FROM \
                      bids GROUP BY 1, w)";
        let ranked = |order: &str| format!("(SELECT *, rank() OVER ({order}) AS r FROM {counts})");
        let by_count = ranked("PARTITION BY w ORDER BY n DESC");
        // Columns of the slot: the key, the window, the count and the maximum.
        let cases = [
            (format!("SELECT auction, n, w FROM {by_count} WHERE r <= 3"), Some((2, 3))),
            (format!("SELECT auction, n, w FROM {by_count} WHERE r = 1"), Some((2, 1))),
            (
                format!("SELECT auction, n, w FROM {} WHERE r < 3", ranked("PARTITION BY w ORDER BY n, auction")),
                Some((2, 2)),
            ),
            // Rows are read that are not among the first ones.
            (format!("SELECT auction, n, w FROM {by_count} WHERE r > 3"), None),
            (format!("SELECT auction, n, r FROM {by_count}"), None),
            // The key is not only the window.
            (format!("SELECT n, w FROM {} WHERE r <= 3", ranked("PARTITION BY w, auction % 2 ORDER BY n DESC")), None),
            // -0 and 0 are equal.
            (format!("SELECT n, w FROM {} WHERE r <= 3", ranked("PARTITION BY w ORDER BY most DESC")), None),
        ];
        for (select, expected) in cases {
            assert_eq!(tops(&select).await, [expected], "{select}");
        }
        // Each reads the rows of its own stage.
        let joined =
            format!("SELECT a.n FROM {by_count} AS a JOIN {counts} AS b ON a.w = b.w AND a.n = b.n WHERE a.r <= 3");
        assert_eq!(tops(&joined).await.iter().flatten().count(), 1);
    }
}
