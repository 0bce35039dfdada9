//! A pipeline: a planned script, its state, and one epoch as a function of both.
//!
//! Nothing here reads or writes: the caller brings the rows of an epoch and takes the rows that come out, with what must
//! be stored so that another process can go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, TimestampNanosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use buzz_protocol::{QueryError, Result};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::ViewTable;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as ParserStatement;
use datafusion::sql::sqlparser::ast::{ColumnOption, Query, Statement as SqlStatement};

use crate::feed::{FeedTable, Rows, run, with_rows};
use crate::lower::{SourceScan, TIME, lower, source_feed};
use crate::script::{Script, TableDefinition};
use crate::stage::{END_OF_TIME, Stage, StageState};
use crate::window::{WindowSpec, functions, time_type};

/// The columns and the event time of a source, from its connector.
#[derive(Debug, Clone)]
pub struct SourceInput {
    /// The columns that it reads.
    pub schema: SchemaRef,
    /// The column of event time, if the connector has one and the script names none.
    pub time_column: Option<String>,
    /// The delay of the watermark behind that column, in nanoseconds.
    pub delay: i64,
    /// Late rows can be read as table `<name>__late`.
    pub late_side: bool,
    /// Rows that could not be decoded can be read as table `<name>__bad`.
    pub bad_side: bool,
}

/// Suffix of the table of late rows.
const LATE: &str = "__late";
/// Suffix of the table of rows that could not be decoded.
const BAD: &str = "__bad";

/// A planned script.
pub struct Pipeline {
    context: SessionContext,
    parallelism: usize,
    sources: BTreeMap<String, Source>,
    statements: Vec<Statement>,
}

/// A source with its event time.
struct Source {
    /// Computes the visible columns, and then the event time.
    columns: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    /// Computes the watermark of a row; `None` if rows have the time of their arrival.
    mark: Option<Arc<dyn PhysicalExpr>>,
    mark_text: String,
}

struct Statement {
    /// The table it inserts into; `None` prints the rows.
    into: Option<String>,
    sources: BTreeSet<String>,
    stages: Vec<Arc<Stage>>,
    above: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
}

/// The state of a pipeline between two epochs.
#[derive(Debug)]
pub struct State {
    stages: Vec<Vec<StageState>>,
    /// Event time by source.
    pub sources: BTreeMap<String, SourceTime>,
    /// The watermark of each statement, in nanoseconds.
    pub watermarks: Vec<i64>,
}

/// The progress of the event time of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceTime {
    /// The highest watermark seen, by partition, in nanoseconds.
    pub partitions: BTreeMap<String, i64>,
    /// The watermark of the source. It never moves back.
    pub watermark: Option<i64>,
    /// The largest distance between a row's time and its watermark.
    pub delay: i64,
}

/// The rows of an epoch.
#[derive(Debug, Default)]
pub struct EpochInput {
    /// The time of the epoch, in nanoseconds since 1970.
    pub now: i64,
    /// Rows by source.
    pub sources: BTreeMap<String, SourceRows>,
    /// Rows that could not be decoded, by source: the text and the reason.
    pub bad: BTreeMap<String, Vec<(String, String)>>,
}

/// The rows that a source read for an epoch.
#[derive(Debug, Default)]
pub struct SourceRows {
    /// Batches by partition. A partition without rows is named too, since it holds back the watermark.
    pub partitions: Vec<(String, Vec<RecordBatch>)>,
    /// No rows follow.
    pub ended: bool,
    /// Partitions that do not hold back the watermark, because they were silent for too long.
    pub idle: BTreeSet<String>,
}

/// The result of an epoch.
#[derive(Debug, Default)]
pub struct EpochOutput {
    /// Rows by statement.
    pub rows: Vec<Vec<RecordBatch>>,
    /// State rows that were added.
    pub deltas: Vec<StageDelta>,
    /// Late rows by source: rows of which all windows were closed in at least one stage.
    pub late: BTreeMap<String, Vec<RecordBatch>>,
    /// Rows without an event time, by source.
    pub without_time: BTreeMap<String, u64>,
}

/// State rows that an epoch added to a stage.
#[derive(Debug)]
pub struct StageDelta {
    /// The stage.
    pub stage: StageId,
    /// The watermark of the statement before the epoch.
    pub before: i64,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

/// Identifies a stage in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId {
    /// The statement.
    pub statement: usize,
    /// The stage in it.
    pub stage: usize,
}

impl std::fmt::Display for StageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}-{}", self.statement, self.stage)
    }
}

impl std::str::FromStr for StageId {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.strip_prefix('s').and_then(|rest| rest.split_once('-'));
        let parsed = parts.and_then(|(a, b)| Some(Self { statement: a.parse().ok()?, stage: b.parse().ok()? }));
        parsed.ok_or_else(|| QueryError::data(format!("`{text}` is not the name of a stage")))
    }
}

fn session(parallelism: usize) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(parallelism.max(2)).with_batch_size(8192);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    // The schemas of partial aggregates differ from the logical ones in nullability.
    options.execution.skip_physical_aggregate_schema_check = true;
    // Filters that depend on rows of another operator would be kept between epochs.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    let context = SessionContext::new_with_config(config);
    // It plans DISTINCT aggregates as two aggregates, whose partial state is not one row per group.
    context.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
    // They move the reading of struct fields into scans, which gains nothing here, and fail on columns that an alias
    // renames.
    context.remove_optimizer_rule("extract_leaf_expressions");
    context.remove_optimizer_rule("push_down_leaf_projections");
    for function in functions() {
        context.register_udf(function);
    }
    context
}

/// Returns the columns that a table declares, with generated ones, or `None` if it declares none.
///
/// # Errors
/// `Invalid` if a type is unknown.
pub async fn declared_columns(table: &TableDefinition) -> Result<Option<Schema>> {
    if table.columns.is_empty() {
        return Ok(None);
    }
    let context = session(1);
    let mut fields = Vec::new();
    for column in &table.columns {
        let name = match column.name.quote_style {
            Some(_) => column.name.value.clone(),
            None => column.name.value.to_lowercase(),
        };
        let written = column.data_type.to_string();
        let written = if written.eq_ignore_ascii_case("json") { "VARCHAR".to_string() } else { written };
        let plan = context.state().create_logical_plan(&format!("SELECT CAST(NULL AS {written})")).await;
        let plan = plan.map_err(|error| {
            QueryError::invalid(format!("column `{name}` of `{}` has type {written}: {error}", table.name))
        })?;
        let data_type = match plan.schema().field(0).data_type() {
            // Times are kept in nanoseconds everywhere.
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
            other => other.clone(),
        };
        let not_null = column.options.iter().any(|option| option.option == ColumnOption::NotNull);
        fields.push(Field::new(name, data_type, !not_null));
    }
    Ok(Some(Schema::new(fields)))
}

impl Pipeline {
    /// Plans `script`. `sources` describes each table that is read, and `sinks` has the columns of each table that is
    /// written, where it declares some.
    ///
    /// # Errors
    /// `Invalid` if a statement cannot run; the message names the clause, the reason and a remedy.
    pub async fn plan(
        script: &Script,
        sources: &BTreeMap<String, SourceInput>,
        sinks: &BTreeMap<String, SchemaRef>,
        parallelism: usize,
    ) -> Result<Self> {
        let context = session(parallelism);
        let mut prepared = BTreeMap::new();
        let mut scans = BTreeMap::new();
        for (name, input) in sources {
            let table = script.table(name);
            let (source, scan, visible) =
                prepare(&context, name, table, input).await.map_err(|error| error.at(format!("table {name}")))?;
            let feed = FeedTable { name: source_feed(name), schema: visible };
            context.register_table(quoted(name), Arc::new(feed))?;
            if input.late_side {
                let side = format!("{name}{LATE}");
                let feed = FeedTable { name: source_feed(&side), schema: Arc::new(source.visible()) };
                context.register_table(quoted(&side), Arc::new(feed))?;
                scans.insert(side, SourceScan { time_column: None, ..scan.clone() });
            }
            if input.bad_side {
                let side = format!("{name}{BAD}");
                let mut fields =
                    vec![Field::new("text", DataType::Utf8, true), Field::new("reason", DataType::Utf8, true)];
                let feed = FeedTable { name: source_feed(&side), schema: Arc::new(Schema::new(fields.clone())) };
                context.register_table(quoted(&side), Arc::new(feed))?;
                fields.push(Field::new(TIME, time_type(), true));
                scans.insert(side, SourceScan { schema: Arc::new(Schema::new(fields)), time_column: None });
            }
            prepared.insert(name.clone(), source);
            scans.insert(name.clone(), scan);
        }
        register_views(&context, script).await?;
        let mut statements = Vec::new();
        for (index, output) in script.statements.iter().enumerate() {
            if output.into.as_ref().is_some_and(|into| is_name_only(script, into)) {
                continue;
            }
            let place = match &output.into {
                Some(into) => format!("INSERT INTO {into}"),
                None => "SELECT".to_string(),
            };
            let planned = async {
                let plan = logical(&context, &output.query).await?;
                let target = output.into.as_ref().and_then(|into| sinks.get(into));
                let plan = into_columns(plan, &output.columns, target)?;
                let lowered = lower(&plan, &scans, &index.to_string(), output.on_close)?;
                let mut stages = Vec::new();
                for draft in &lowered.stages {
                    stages.push(Arc::new(Stage::plan(draft, &context.state()).await?));
                }
                let mut read = BTreeSet::new();
                collect_sources(&plan, &mut read);
                let side = read.iter().find(|name| !sources.contains_key(*name)).cloned();
                if let Some(side) = side {
                    if !stages.is_empty() {
                        return Err(QueryError::invalid(format!(
                            "a window over `{side}` cannot run: its rows are late for all windows; select them as they are"
                        )));
                    }
                    // Rows of a side table come with those of its source.
                    read = read.iter().map(|name| source_of(name, sources).to_string()).collect();
                }
                let above = context.state().create_physical_plan(&lowered.above).await?;
                Ok::<_, QueryError>(Statement {
                    into: output.into.clone(),
                    sources: read,
                    stages,
                    schema: above.schema(),
                    above,
                })
            };
            statements.push(planned.await.map_err(|error| error.at(place))?);
        }
        Ok(Self { context, parallelism: parallelism.max(1), sources: prepared, statements })
    }

    /// Returns the empty state.
    pub fn start(&self) -> State {
        let stages = self
            .statements
            .iter()
            .map(|statement| statement.stages.iter().map(|_| StageState::new(self.parallelism)).collect());
        State {
            stages: stages.collect(),
            sources: self.sources.keys().map(|name| (name.clone(), SourceTime::default())).collect(),
            watermarks: vec![i64::MIN; self.statements.len()],
        }
    }

    /// Returns the target and the columns of each statement.
    pub fn outputs(&self) -> impl Iterator<Item = (Option<&str>, SchemaRef)> {
        self.statements.iter().map(|statement| (statement.into.as_deref(), Arc::clone(&statement.schema)))
    }

    /// Returns the sources that statements read.
    pub fn sources(&self) -> BTreeSet<&str> {
        self.statements.iter().flat_map(|statement| statement.sources.iter().map(String::as_str)).collect()
    }

    /// Returns the stages and the columns of their state.
    pub fn stages(&self) -> impl Iterator<Item = (StageId, SchemaRef)> {
        self.statements.iter().enumerate().flat_map(|(statement, planned)| {
            planned
                .stages
                .iter()
                .enumerate()
                .map(move |(stage, planned)| (StageId { statement, stage }, Arc::clone(&planned.state_schema)))
        })
    }

    /// Runs one epoch: folds `input` into `state` and returns the rows of the windows that close. If it fails, the state
    /// is unusable.
    ///
    /// # Errors
    /// The kind of the expression that failed, such as `Data` for a cast.
    pub async fn epoch(&self, state: &mut State, input: EpochInput) -> Result<EpochOutput> {
        let mut output = EpochOutput { rows: vec![Vec::new(); self.statements.len()], ..Default::default() };
        let mut feeds: BTreeMap<String, Rows> = BTreeMap::new();
        for (name, source) in &self.sources {
            let rows = input.sources.get(name);
            let time = state.sources.entry(name.clone()).or_default();
            let prepared = source.prepare(rows, time, input.now)?;
            if prepared.without_time > 0 {
                output.without_time.insert(name.clone(), prepared.without_time);
            }
            feeds.insert(source_feed(name), spread(prepared.batches, self.parallelism.max(2)));
        }
        for name in self.sources.keys() {
            let late = self.late(name, &feeds[&source_feed(name)], &state.watermarks)?;
            feeds.insert(source_feed(&format!("{name}{LATE}")), vec![late.clone()]);
            feeds.insert(source_feed(&format!("{name}{BAD}")), vec![bad_rows(input.bad.get(name), input.now)?]);
            if !late.is_empty() {
                output.late.insert(name.clone(), late);
            }
        }
        let context = self.context.task_ctx();
        for (index, statement) in self.statements.iter().enumerate() {
            let before = state.watermarks[index];
            let marks = statement.sources.iter().map(|name| state.sources[name].watermark.unwrap_or(i64::MIN));
            let watermark = marks.min().unwrap_or(END_OF_TIME).max(before);
            let rows = statement.run(index, &mut state.stages[index], &feeds, before, watermark, &context, &mut output);
            output.rows[index] = rows.await?;
            state.watermarks[index] = watermark;
        }
        Ok(output)
    }

    /// Returns the rows of a source of which all windows were closed in at least one stage that reads it. `watermarks`
    /// are those of the statements before the epoch.
    fn late(&self, name: &str, rows: &Rows, watermarks: &[i64]) -> Result<Vec<RecordBatch>> {
        let mut specs: Vec<(WindowSpec, i64)> = Vec::new();
        for (statement, &before) in self.statements.iter().zip(watermarks) {
            if before == i64::MIN || !statement.sources.contains(name) {
                continue;
            }
            let feed = source_feed(name);
            let reading = statement.stages.iter().filter(|stage| crate::feed::names(&stage.input()).contains(&feed));
            specs.extend(reading.map(|stage| (stage.spec, before)));
        }
        let Some(newest) = specs.iter().map(|(_, before)| *before).max() else { return Ok(Vec::new()) };
        let mut late = Vec::new();
        for batch in rows.iter().flatten() {
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

    /// Returns all state rows of a stage.
    pub fn snapshot(&self, state: &State, stage: StageId) -> Vec<RecordBatch> {
        state.stages[stage.statement][stage.stage].batches()
    }

    /// Returns the number of state rows and of slices of a stage.
    pub fn size(&self, state: &State, stage: StageId) -> (usize, usize) {
        let kept = &state.stages[stage.statement][stage.stage];
        (kept.rows(), kept.slices())
    }

    /// Returns the ends of windows that need state rows: the smallest and the largest.
    pub fn ends(&self, stage: StageId, batches: &[RecordBatch]) -> Option<(i64, i64)> {
        self.statements[stage.statement].stages[stage.stage].ends(batches)
    }

    /// Returns true if no open window needs state rows whose largest end is `end`. A session may grow beyond the end
    /// that its rows have now, so its rows are needed until the whole state is written again.
    pub fn is_closed(&self, stage: StageId, end: i64, watermark: i64) -> bool {
        let spec = self.statements[stage.statement].stages[stage.stage].spec;
        matches!(spec, WindowSpec::Hop { .. }) && spec.is_closed(end, watermark)
    }

    /// Sets the watermarks of statements from those of their sources, after the state was loaded.
    pub fn set_watermarks(&self, state: &mut State) {
        for (index, statement) in self.statements.iter().enumerate() {
            let marks = statement
                .sources
                .iter()
                .map(|name| state.sources.get(name).and_then(|time| time.watermark).unwrap_or(i64::MIN));
            state.watermarks[index] = marks.min().unwrap_or(i64::MIN);
        }
    }

    /// Adds state rows that an earlier process stored. Files must be added in the order of their epochs. `before` is the
    /// watermark that was valid before the rows were added.
    ///
    /// # Errors
    /// `Data` if the rows do not have the columns of the state.
    pub async fn restore(
        &self,
        state: &mut State,
        stage: StageId,
        batches: Vec<RecordBatch>,
        before: i64,
    ) -> Result<()> {
        let planned = self.statements.get(stage.statement).and_then(|statement| statement.stages.get(stage.stage));
        let planned = planned.ok_or_else(|| QueryError::data(format!("the script has no stage {stage}")))?;
        let kept = &mut state.stages[stage.statement][stage.stage];
        planned.restore(kept, batches, before, &self.context.task_ctx()).await
    }

    /// Ends a restore: drops state of windows that were closed when the state was stored.
    ///
    /// # Errors
    /// As [`Self::epoch`].
    pub async fn restored(&self, state: &mut State) -> Result<()> {
        for (index, statement) in self.statements.iter().enumerate() {
            let watermark = state.watermarks[index];
            if watermark == i64::MIN {
                continue;
            }
            for (stage, kept) in statement.stages.iter().zip(&mut state.stages[index]) {
                stage.forget(kept, watermark, &self.context.task_ctx()).await?;
            }
        }
        Ok(())
    }

    /// Describes the plan for `buzz stream check`.
    pub fn describe(&self, plans: bool) -> String {
        let mut text = String::new();
        for (name, source) in &self.sources {
            let columns: Vec<String> = source.schema.fields()[..source.schema.fields().len() - 1]
                .iter()
                .map(|field| format!("{} {}", field.name(), field.data_type()))
                .collect();
            text.push_str(&format!("source {name} ({})\n  watermark: {}\n", columns.join(", "), source.mark_text));
        }
        for statement in &self.statements {
            let into = statement.into.as_deref().unwrap_or("standard output");
            text.push_str(&format!("statement into {into}, reads {}\n", list(&statement.sources)));
            for stage in &statement.stages {
                text.push_str(&format!(
                    "  map (HBee, no state): reads {}, computes partial rows\n  keep (HComb, {}): {}\n    state: {}\n",
                    list(feeds_of(&stage.input())),
                    stage.slot,
                    stage.clause,
                    stage.kept()
                ));
            }
            let kind =
                if statement.stages.is_empty() { "map (HBee, no state)" } else { "closed windows (HComb, no state)" };
            text.push_str(&format!("  {kind}: reads {}, emits rows\n", list(feeds_of(&statement.above))));
            if plans {
                for line in displayable(statement.above.as_ref()).indent(false).to_string().lines() {
                    text.push_str(&format!("    {line}\n"));
                }
            }
        }
        text
    }
}

/// Returns the source of a side table, or the name itself.
fn source_of<'a>(name: &'a str, sources: &BTreeMap<String, SourceInput>) -> &'a str {
    let base = name.strip_suffix(LATE).or_else(|| name.strip_suffix(BAD));
    base.filter(|base| !sources.contains_key(name) && sources.contains_key(*base)).unwrap_or(name)
}

/// Rows that could not be decoded, as a batch of `(text, reason, time)`.
fn bad_rows(rows: Option<&Vec<(String, String)>>, now: i64) -> Result<Vec<RecordBatch>> {
    let Some(rows) = rows.filter(|rows| !rows.is_empty()) else { return Ok(Vec::new()) };
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(text, _)| text)));
    let reasons: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, reason)| reason)));
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_value(now, rows.len()));
    Ok(vec![RecordBatch::try_from_iter_with_nullable([
        ("text", texts, true),
        ("reason", reasons, true),
        (TIME, times, true),
    ])?])
}

fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| name.as_ref().to_string()).collect::<Vec<_>>().join(", ")
}

fn feeds_of(plan: &Arc<dyn ExecutionPlan>) -> BTreeSet<String> {
    let text = displayable(plan.as_ref()).indent(false).to_string();
    text.lines().filter_map(|line| line.trim().strip_prefix("FeedExec: ").map(str::to_string)).collect()
}

impl Statement {
    #[expect(clippy::too_many_arguments)]
    async fn run(
        &self,
        index: usize,
        state: &mut [StageState],
        feeds: &BTreeMap<String, Rows>,
        before: i64,
        watermark: i64,
        context: &Arc<TaskContext>,
        output: &mut EpochOutput,
    ) -> Result<Vec<RecordBatch>> {
        let mut feeds = feeds.clone();
        for (number, (stage, kept)) in self.stages.iter().zip(state).enumerate() {
            let delta = if stage.reads_rows(&feeds) { stage.delta(&feeds, context).await? } else { Rows::new() };
            let batches: Vec<RecordBatch> = delta.iter().flatten().cloned().collect();
            if !batches.is_empty() {
                let stage = StageId { statement: index, stage: number };
                output.deltas.push(StageDelta { stage, before, batches });
            }
            let closed = stage.fold(kept, delta, before, watermark, context).await?;
            feeds.insert(stage.slot.clone(), closed);
        }
        if !reads_rows(&self.above, &feeds) {
            return Ok(Vec::new());
        }
        let rows = run(with_rows(&self.above, &feeds)?, context).await?;
        Ok(rows.into_iter().flatten().collect())
    }
}

fn reads_rows(plan: &Arc<dyn ExecutionPlan>, feeds: &BTreeMap<String, Rows>) -> bool {
    crate::feed::names(plan)
        .iter()
        .any(|name| feeds.get(name).is_some_and(|rows| rows.iter().any(|part| !part.is_empty())))
}

impl Stage {
    fn reads_rows(&self, feeds: &BTreeMap<String, Rows>) -> bool {
        reads_rows(&self.input(), feeds)
    }
}

struct Prepared {
    batches: Vec<RecordBatch>,
    without_time: u64,
}

impl Source {
    /// Returns the columns that a statement can name.
    fn visible(&self) -> Schema {
        let fields = &self.schema.fields()[..self.schema.fields().len() - 1];
        Schema::new(fields.to_vec())
    }

    /// Computes the columns and event times of the rows of an epoch, and moves the watermark.
    fn prepare(&self, rows: Option<&SourceRows>, time: &mut SourceTime, now: i64) -> Result<Prepared> {
        let mut prepared = Prepared { batches: Vec::new(), without_time: 0 };
        let no_rows = SourceRows::default();
        let rows = rows.unwrap_or(&no_rows);
        for (partition, batches) in &rows.partitions {
            let seen = time.partitions.entry(partition.clone()).or_insert(i64::MIN);
            for batch in batches {
                if batch.num_rows() == 0 {
                    continue;
                }
                let mut columns = Vec::with_capacity(self.columns.len() + 1);
                for expr in &self.columns {
                    columns.push(expr.evaluate(batch)?.into_array(batch.num_rows())?);
                }
                let times: ArrayRef = match &self.mark {
                    None => Arc::new(TimestampNanosecondArray::from_value(now, batch.num_rows())),
                    Some(mark) => {
                        let marks = mark.evaluate(batch)?.into_array(batch.num_rows())?;
                        let marks = marks.as_primitive::<TimestampNanosecondType>();
                        let times = columns.pop().ok_or_else(|| QueryError::internal("a source has no columns"))?;
                        let typed = times.as_primitive::<TimestampNanosecondType>();
                        if let Some(mark) = arrow::compute::max(marks) {
                            *seen = (*seen).max(mark);
                            if let Some(last) = arrow::compute::max(typed) {
                                time.delay = time.delay.max(last.saturating_sub(mark));
                            }
                        }
                        prepared.without_time += typed.null_count() as u64;
                        times
                    }
                };
                columns.push(times);
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                prepared.batches.push(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
            }
        }
        let watermark = if rows.ended {
            Some(END_OF_TIME)
        } else if self.mark.is_none() {
            Some(now)
        } else {
            let mut live = time.partitions.iter().filter(|(name, _)| !rows.idle.contains(*name)).peekable();
            match live.peek() {
                Some(_) => live.map(|(_, &mark)| mark).min().filter(|&mark| mark != i64::MIN),
                // All partitions are idle: time goes on without them.
                None if !time.partitions.is_empty() => Some(now.saturating_sub(time.delay)),
                None => None,
            }
        };
        time.watermark = time.watermark.max(watermark);
        Ok(prepared)
    }
}

/// Divides batches evenly among partitions.
fn spread(batches: Vec<RecordBatch>, partitions: usize) -> Rows {
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let size = total.div_ceil(partitions).max(1);
    let mut rows: Rows = vec![Vec::new(); partitions];
    let (mut partition, mut room) = (0, size);
    for batch in batches {
        let mut from = 0;
        while from < batch.num_rows() {
            let count = room.min(batch.num_rows() - from);
            rows[partition].push(batch.slice(from, count));
            (from, room) = (from + count, room - count);
            if room == 0 {
                (partition, room) = ((partition + 1).min(partitions - 1), size);
            }
        }
    }
    rows
}

fn quoted(name: &str) -> datafusion::common::TableReference {
    datafusion::common::TableReference::bare(name.to_string())
}

#[expect(clippy::too_many_lines, reason = "one step after the other, to be divided")]
async fn prepare(
    context: &SessionContext,
    name: &str,
    table: Option<&TableDefinition>,
    input: &SourceInput,
) -> Result<(Source, SourceScan, SchemaRef)> {
    let raw = DFSchema::try_from_qualified_schema(quoted(name), &input.schema)?;
    let declared = match table {
        Some(table) => declared_columns(table).await?,
        None => None,
    };
    let visible = declared.unwrap_or_else(|| input.schema.as_ref().clone());
    let no_columns = BTreeMap::new();
    let generated = table.map_or(&no_columns, |table| &table.generated);
    let mut exprs: Vec<(Expr, Field)> = Vec::new();
    for field in visible.fields() {
        let expr = match generated.get(field.name()) {
            Some(text) => cast(context.parse_sql_expr(text, &raw)?, field.data_type().clone()),
            None => Expr::Column(Column::new(Some(name), field.name())),
        };
        exprs.push((expr, field.as_ref().clone().with_nullable(true)));
    }
    let column = |wanted: &str| {
        let found = exprs.iter().find(|(_, field)| field.name() == wanted);
        found.map(|(expr, _)| expr.clone()).ok_or_else(|| {
            QueryError::invalid(format!(
                "the event time `{wanted}` is not a column of `{name}`; declare it as TIMESTAMP"
            ))
        })
    };
    let option = |keys: &[&str]| table.and_then(|table| keys.iter().find_map(|key| table.option(key)));
    let watermark = table.and_then(|table| table.watermark.clone());
    let time_column = match &watermark {
        Some((column, _)) => Some(column.clone()),
        None => option(&["event_time_field", "event_time"]).map(str::to_lowercase).or_else(|| {
            input
                .time_column
                .clone()
                .filter(|time| visible.field_with_name(time).is_ok() || raw.has_column_with_unqualified_name(time))
        }),
    };
    let time = match &time_column {
        Some(name) if visible.field_with_name(name).is_ok() => Some(column(name)?),
        Some(hidden) if raw.has_column_with_unqualified_name(hidden) => {
            Some(Expr::Column(Column::new(Some(name), hidden)))
        }
        Some(missing) => Some(column(missing)?),
        None => None,
    };
    let mark = match (&watermark, &time) {
        (Some((_, Some(text))), _) => {
            // The expression names columns of the table, of which some may be generated.
            let table_schema = DFSchema::try_from_qualified_schema(quoted(name), &visible)?;
            let parsed = context.parse_sql_expr(text, &table_schema)?;
            Some((inlined(parsed, &exprs)?, text.clone()))
        }
        (_, Some(time)) => match option(&["watermark_field"]) {
            Some(field) => Some((column(&field.to_lowercase())?, field.to_string())),
            None => {
                let field = time_column.clone().unwrap_or_default();
                let delay = arrow::datatypes::IntervalMonthDayNano::new(0, 0, input.delay);
                let delay =
                    datafusion::logical_expr::lit(datafusion::common::ScalarValue::IntervalMonthDayNano(Some(delay)));
                match input.delay {
                    0 => Some((time.clone(), field)),
                    nanos => Some((
                        cast(time.clone(), time_type()) - delay,
                        format!("{field} - {}", crate::window::duration(nanos)),
                    )),
                }
            }
        },
        (_, None) => None,
    };
    let mut columns = Vec::new();
    for (expr, _) in &exprs {
        columns.push(context.create_physical_expr(expr.clone(), &raw)?);
    }
    let mut fields: Vec<Field> = exprs.iter().map(|(_, field)| field.clone()).collect();
    let visible = Arc::new(Schema::new(fields.clone()));
    fields.push(Field::new(TIME, time_type(), true));
    let schema = Arc::new(Schema::new(fields));
    let mut mark_text = "time of arrival".to_string();
    let mark = match (time, mark) {
        (Some(time), Some((mark, text))) => {
            let type_of = time.get_type(&raw)?;
            if !matches!(type_of, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) {
                return Err(QueryError::invalid(format!(
                    "the event time `{}` has type {type_of}; declare it as TIMESTAMP",
                    time_column.unwrap_or_default()
                )));
            }
            mark_text = text;
            columns.push(context.create_physical_expr(cast(time, time_type()), &raw)?);
            Some(context.create_physical_expr(cast(mark, time_type()), &raw)?)
        }
        _ => None,
    };
    let scan = SourceScan { schema: Arc::clone(&schema), time_column };
    Ok((Source { columns, schema, mark, mark_text }, scan, visible))
}

/// Replaces the columns of `expr` by their expressions over the raw columns.
fn inlined(expr: Expr, exprs: &[(Expr, Field)]) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
    let replaced = expr.transform(|node| match &node {
        Expr::Column(column) => {
            let found = exprs.iter().find(|(_, field)| *field.name() == column.name);
            Ok(found.map_or(Transformed::no(node.clone()), |(expr, _)| Transformed::yes(expr.clone())))
        }
        _ => Ok(Transformed::no(node)),
    });
    Ok(replaced.data()?)
}

/// Returns true if `name` is a table without a connector: a name for the rows that are inserted into it.
fn is_name_only(script: &Script, name: &str) -> bool {
    script.table(name).is_some_and(|table| table.option("connector").is_none())
}

/// A name, the columns that its table declares, the columns that an INSERT names, and its queries.
type NamedQueries = (String, Option<SchemaRef>, Vec<String>, Vec<Box<Query>>);

async fn register_views(context: &SessionContext, script: &Script) -> Result<()> {
    // A view may read another one, or a table that is only a name, that is declared later.
    let mut waiting: Vec<NamedQueries> = Vec::new();
    for table in script.tables.iter().filter(|table| table.option("connector").is_none()) {
        let inserts: Vec<_> =
            script.statements.iter().filter(|output| output.into.as_ref() == Some(&table.name)).collect();
        if inserts.is_empty() {
            return Err(QueryError::invalid(format!(
                "table `{}` has no connector and nothing is inserted into it; add WITH (connector = '…')",
                table.name
            )));
        }
        let schema = declared_columns(table).await?.map(Arc::new);
        let columns = inserts[0].columns.clone();
        waiting.push((
            table.name.clone(),
            schema,
            columns,
            inserts.iter().map(|output| output.query.clone()).collect(),
        ));
    }
    for view in &script.views {
        waiting.push((view.name.clone(), None, view.columns.clone(), vec![view.query.clone()]));
    }
    while !waiting.is_empty() {
        let mut left = Vec::new();
        let mut failure = None;
        let count = waiting.len();
        for (name, schema, columns, queries) in waiting {
            let mut plans = Vec::new();
            for query in &queries {
                match logical(context, query).await {
                    Ok(plan) => plans.push(plan),
                    Err(error) => failure = Some(error.at(format!("view {name}"))),
                }
            }
            if plans.len() < queries.len() {
                left.push((name, schema, columns, queries));
                continue;
            }
            let mut combined: Option<LogicalPlan> = None;
            for plan in plans {
                let plan = match &schema {
                    Some(_) => into_columns(plan, &columns, schema.as_ref())?,
                    None => named_columns(plan, &columns, &name)?,
                };
                combined = Some(match combined {
                    Some(first) => LogicalPlanBuilder::from(first).union(plan)?.build()?,
                    None => plan,
                });
            }
            let plan = combined.ok_or_else(|| QueryError::internal("a view has no query"))?;
            let view: Arc<dyn TableProvider> = Arc::new(ViewTable::new(plan, None));
            context.register_table(quoted(&name), view)?;
        }
        if left.len() == count
            && let Some(error) = failure
        {
            return Err(error);
        }
        waiting = left;
    }
    Ok(())
}

async fn logical(context: &SessionContext, query: &Query) -> Result<LogicalPlan> {
    let statement = ParserStatement::Statement(Box::new(SqlStatement::Query(Box::new(query.clone()))));
    Ok(context.state().statement_to_plan(statement).await?)
}

fn named_columns(plan: LogicalPlan, names: &[String], view: &str) -> Result<LogicalPlan> {
    if names.is_empty() {
        return Ok(plan);
    }
    if names.len() != plan.schema().fields().len() {
        return Err(QueryError::invalid(format!(
            "view `{view}` names {} columns, but its query has {}",
            names.len(),
            plan.schema().fields().len()
        )));
    }
    let columns: Vec<Expr> =
        plan.schema().columns().into_iter().zip(names).map(|(column, name)| Expr::Column(column).alias(name)).collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// Casts and names the columns of `plan` as the table that it is inserted into.
fn into_columns(plan: LogicalPlan, named: &[String], target: Option<&SchemaRef>) -> Result<LogicalPlan> {
    let Some(target) = target else { return Ok(plan) };
    let target: Vec<Field> = match named {
        [] => target.fields().iter().map(|field| field.as_ref().clone()).collect(),
        named => named
            .iter()
            .map(|name| {
                let field = target.field_with_name(name);
                field.cloned().map_err(|_| QueryError::invalid(format!("column `{name}` is not a column of the table")))
            })
            .collect::<Result<_>>()?,
    };
    let columns = plan.schema().columns();
    if columns.len() != target.len() {
        return Err(QueryError::invalid(format!(
            "the SELECT has {} columns, but the table has {}: {}",
            columns.len(),
            target.len(),
            target.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
        )));
    }
    let exprs = columns
        .into_iter()
        .zip(target)
        .map(|(column, field)| cast(Expr::Column(column), field.data_type().clone()).alias(field.name()));
    Ok(LogicalPlanBuilder::from(plan).project(exprs.collect::<Vec<_>>())?.build()?)
}

fn collect_sources(plan: &LogicalPlan, found: &mut BTreeSet<String>) {
    if let LogicalPlan::TableScan(scan) = plan {
        found.insert(scan.table_name.table().to_string());
    }
    for input in plan.inputs() {
        collect_sources(input, found);
    }
}
