//! A pipeline: a planned script, its state, and one epoch as a function of both.
//!
//! Nothing here reads or writes: the caller brings the rows of an epoch and takes the rows that come out, with what must
//! be stored so that another process can go on.
//!
//! `declaration` prepares sources, whose rows `source` brings into an epoch, and `lookup` the tables that are looked up; `views` and `statement` plan, and `columns`
//! brings rows to the columns of their table; `changes` pairs rows that change; `state` is what is kept between epochs.

mod changes;
mod columns;
mod declaration;
mod describe;
mod late;
mod lookup;
mod session;
mod source;
mod state;
mod statement;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_protocol::{Options, Overflow, QueryError, Result};
use datafusion::prelude::SessionContext;

use self::columns::Target;
use self::declaration::prepare;
use self::late::late_rows;
use self::lookup::lookups;
use self::session::session;
use self::source::{BAD, LATE, Source, bad_rows, spread};
pub use self::source::{SourceInput, SourceRows};
pub use self::state::{SourceTime, StageId, State};
use self::statement::{Sources, Statement};
pub use self::views::declared_columns;
use self::views::{is_name_only, quoted, register_views};
use crate::feed::{FeedTable, Rows, names};
use crate::lower::{SourceScan, TIME, source_feed};
use crate::script::Script;
use crate::stage::{Advance, END_OF_TIME, KeyedRows, PART_ROWS, StageState};
use crate::window::{WindowSpec, time_type};

/// Places for the changes of a source in an epoch.
const SOURCE_PLACES: i64 = 1 << 42;

/// A planned script.
pub struct Pipeline {
    context: SessionContext,
    parallelism: usize,
    /// State rows above which a part of a stage is divided.
    part_rows: usize,
    sources: BTreeMap<String, Source>,
    /// Tables that are looked up.
    lookups: BTreeMap<String, Source>,
    statements: Vec<Statement>,
}

/// The rows of an epoch.
#[derive(Debug, Default, Clone)]
pub struct EpochInput {
    /// The time of the epoch, in nanoseconds since 1970.
    pub now: i64,
    /// Rows by source.
    pub sources: BTreeMap<String, SourceRows>,
    /// Rows that could not be decoded, by source: the text and the reason.
    pub bad: BTreeMap<String, Vec<(String, String)>>,
}

/// The part of an epoch that is left out after it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// Its rows.
    Rows,
    /// The rows of the windows that close in it.
    Windows,
    /// Both.
    Both,
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
    /// Number of late pairs by the stage that joins them: pairs of rows of which all windows were closed in at least one stage.
    pub late_pairs: BTreeMap<StageId, u64>,
    /// Rows that are left out because they have no event time, windows that do not fit into time, or NULL in a column that
    /// is NOT NULL, by source: the text and the reason.
    pub unfit: BTreeMap<String, Vec<(String, String)>>,
}

/// State rows that an epoch added to a stage.
#[derive(Debug)]
pub struct StageDelta {
    /// The stage.
    pub stage: StageId,
    /// The watermark of the statement before the epoch.
    pub before: i64,
    /// The rows.
    pub batches: Vec<KeyedRows>,
}

impl Pipeline {
    /// Plans `script`. `inputs` describes each table that is read, and `sinks` has the columns of each table that is
    /// written, where it declares some. All statements that insert into one table have the same columns in the same order.
    ///
    /// # Errors
    /// `Invalid` if a statement cannot run; the message names the clause, the reason and a remedy.
    pub async fn plan(
        script: &Script,
        inputs: &BTreeMap<String, SourceInput>,
        sinks: &BTreeMap<String, SchemaRef>,
        parallelism: usize,
    ) -> Result<Self> {
        let context = session(parallelism, overflow(script)?)?;
        let mut prepared = BTreeMap::new();
        let mut scans = BTreeMap::new();
        let lookups = lookups(&context, script, inputs, &mut scans).await?;
        for (name, input) in inputs.iter().filter(|(_, input)| !input.is_lookup) {
            let table = script.table(name);
            let mut source =
                prepare(&context, name, table, input).await.map_err(|error| error.at(format!("table {name}")))?;
            if let Some(place) = &mut source.source.first_place {
                *place = first_place(prepared.len());
            }
            register(&context, name, source.visible)?;
            for (side, schema) in sides(name, input, &source.source) {
                register(&context, &side, Arc::clone(&schema))?;
                let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
                fields.push(Field::new(TIME, time_type(), true));
                let schema = Arc::new(Schema::new(fields));
                scans.insert(side, SourceScan { schema, time_column: None, is_lookup: false, changing: false });
            }
            prepared.insert(name.clone(), source.source);
            scans.insert(name.clone(), source.scan);
        }
        register_views(&context, script).await?;
        let sources = Sources { script, inputs, scans: &scans };
        let mut statements: Vec<Statement> = Vec::new();
        let declared = sinks.iter().map(|(name, columns)| (name.as_str(), Target::declared(columns)));
        let mut targets: BTreeMap<&str, Target> = declared.collect();
        for (index, output) in script.statements.iter().enumerate() {
            let into = output.into.as_deref();
            if into.is_some_and(|into| is_name_only(script, into)) {
                continue;
            }
            let target = into.and_then(|into| targets.get(into));
            let planned = Statement::plan(&context, output, index, &sources, target).await;
            let place = into.map_or_else(|| "SELECT".to_string(), |into| format!("INSERT INTO {into}"));
            let planned = planned.map_err(|error| error.at(place))?;
            if let Some(into) = into {
                targets.entry(into).or_insert_with(|| planned.target.clone());
            }
            for name in &planned.sources {
                if let Some(source) = prepared.get_mut(name) {
                    source.reach = source.reach.max(planned.reach);
                }
            }
            statements.push(planned);
        }
        let parallelism = parallelism.max(1);
        Ok(Self { context, parallelism, part_rows: PART_ROWS, sources: prepared, lookups, statements })
    }

    /// Sets the number of state rows above which a part of a stage is divided into parts with fewer key groups. A window
    /// with a quarter as many rows is aggregated on its own. Rows do not depend on it.
    #[must_use]
    pub fn with_part_rows(self, part_rows: usize) -> Self {
        Self { part_rows, ..self }
    }

    /// Sets the time in nanoseconds after which the rows of a key without a window are dropped if nothing touches the key.
    #[must_use]
    pub fn with_updating_ttl(mut self, ttl: Option<i64>) -> Self {
        for stage in self.statements.iter_mut().flat_map(|statement| &mut statement.stages) {
            // No epoch has run, so nothing else holds the stage.
            if let Some(stage) = Arc::get_mut(stage) {
                stage.ttl = ttl;
            }
        }
        self
    }

    /// Returns the empty state.
    pub fn start(&self) -> State {
        let stages = self.statements.iter().map(|statement| {
            statement.stages.iter().map(|_| StageState::new(self.parallelism, self.part_rows)).collect()
        });
        State {
            stages: stages.collect(),
            sources: self.sources.keys().map(|name| (name.clone(), SourceTime::default())).collect(),
            watermarks: vec![i64::MIN; self.statements.len()],
            lookups: BTreeMap::new(),
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

    /// Returns, for each statement, the sources that it reads.
    pub fn reads(&self) -> impl Iterator<Item = &BTreeSet<String>> {
        self.statements.iter().map(|statement| &statement.sources)
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
    pub async fn epoch(&self, state: &mut State, input: &EpochInput) -> Result<EpochOutput> {
        self.run(state, input, true).await
    }

    async fn run(&self, state: &mut State, input: &EpochInput, emits: bool) -> Result<EpochOutput> {
        let mut output = EpochOutput { rows: vec![Vec::new(); self.statements.len()], ..Default::default() };
        let mut feeds: BTreeMap<String, Rows> = state.lookups.clone();
        for (name, source) in &self.sources {
            let rows = input.sources.get(name);
            let time = state.sources.entry(name.clone()).or_default();
            let prepared = source.prepare(rows, time, input.now)?;
            if !prepared.unfit.is_empty() {
                output.unfit.insert(name.clone(), prepared.unfit);
            }
            feeds.insert(source_feed(name), spread(prepared.batches, self.parallelism.max(2)));
        }
        for name in self.sources.keys() {
            let late = self.late(name, &feeds[&source_feed(name)], &state.watermarks)?;
            feeds.insert(source_feed(&format!("{name}{LATE}")), vec![late.clone()]);
            let bad = input.bad.get(name).into_iter().chain(output.unfit.get(name)).flatten().collect::<Vec<_>>();
            feeds.insert(source_feed(&format!("{name}{BAD}")), vec![bad_rows(&bad, input.now)?]);
            if !late.is_empty() {
                output.late.insert(name.clone(), late);
            }
        }
        let context = self.context.task_ctx();
        for (index, statement) in self.statements.iter().enumerate() {
            let advance = self.advance(state, index, (input.now, emits));
            let rows = statement.run(index, &mut state.stages[index], &feeds, advance, &context, &mut output);
            output.rows[index] = rows.await?;
            state.watermarks[index] = advance.watermark;
        }
        Ok(output)
    }

    /// Runs an epoch that has failed, and leaves out what `without` says: event time moves as if its rows had been read.
    ///
    /// # Errors
    /// As [`Self::epoch`].
    pub async fn epoch_without(&self, state: &mut State, input: &EpochInput, without: LeftOut) -> Result<EpochOutput> {
        if without == LeftOut::Windows {
            return self.run(state, input, false).await;
        }
        self.move_time(state, input);
        let sources = input.sources.iter().map(|(name, rows)| (name.clone(), rows.without_rows())).collect();
        let input = EpochInput { now: input.now, sources, bad: input.bad.clone() };
        self.run(state, &input, without == LeftOut::Rows).await
    }

    /// Returns true if all statements have windows: rows leave only with them.
    pub fn has_only_windows(&self) -> bool {
        let has_end = |statement: &Statement| statement.stages.iter().all(|stage| stage.spec != WindowSpec::Never);
        self.statements.iter().all(|statement| !statement.stages.is_empty() && has_end(statement))
    }

    /// Moves the event time of each partition by the rows of an epoch. Rows whose watermark cannot be computed are left
    /// out.
    fn move_time(&self, state: &mut State, input: &EpochInput) {
        for (name, source) in &self.sources {
            if let Some(rows) = input.sources.get(name) {
                source.move_time(rows, state.sources.entry(name.clone()).or_default());
            }
        }
    }

    /// Returns the step of event time of a statement.
    fn advance(&self, state: &State, statement: usize, (now, emits): (i64, bool)) -> Advance {
        let before = state.watermarks[statement];
        let sources = &self.statements[statement].sources;
        let marks = sources.iter().map(|name| state.sources[name].watermark.unwrap_or(i64::MIN));
        let watermark = marks.min().unwrap_or(END_OF_TIME).max(before);
        Advance { before, watermark, emits, now }
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
            let reading = statement.stages.iter().filter(|stage| names(&stage.input()).contains(&feed));
            specs.extend(reading.map(|stage| (stage.spec, before)));
        }
        late_rows(rows.iter().flatten(), &specs)
    }

    /// Returns all state rows of a stage.
    ///
    /// # Errors
    /// `Internal` if the rows cannot be put in the order of their key groups.
    pub fn snapshot(&self, state: &State, stage: StageId) -> Result<Vec<KeyedRows>> {
        let kept = &state.stages[stage.statement][stage.stage];
        self.statements[stage.statement].stages[stage.stage].keyed(&kept.batches()?)
    }

    /// Returns the number of state rows and of slices of a stage.
    pub fn size(&self, state: &State, stage: StageId) -> (usize, usize) {
        let kept = &state.stages[stage.statement][stage.stage];
        (kept.rows(), kept.slices())
    }

    /// Returns the ends of windows that need state rows: the smallest and the largest.
    pub fn ends(&self, stage: StageId, batches: &[KeyedRows]) -> Option<(i64, i64)> {
        self.statements[stage.statement].stages[stage.stage].ends(batches)
    }

    /// Returns true if no open window needs state rows whose largest end is `end`. A session may grow beyond the end
    /// that its rows have now, so its rows are needed until the whole state is written again.
    pub fn is_closed(&self, stage: StageId, end: i64, watermark: i64) -> bool {
        let spec = self.statements[stage.statement].stages[stage.stage].spec;
        matches!(spec, WindowSpec::Hop { .. }) && spec.is_closed(end, watermark)
    }

    /// Returns for each statement the watermark with which it goes on after all sources have ended: the end of the last window
    /// that may have closed then. Older rows that come later belong to closed windows. `None` if no source has had a row; `now`
    /// is the time of rows without a time.
    fn closed_until(&self, state: &State, now: i64) -> Vec<Option<i64>> {
        let newest = |name: &String| {
            if !self.sources.get(name)?.has_time() {
                return Some(now);
            }
            let time = state.sources.get(name)?;
            let mark = time.partitions.values().copied().filter(|mark| *mark != i64::MIN).max()?;
            Some(mark.saturating_add(time.delay))
        };
        let until = |statement: &Statement| {
            let sources = statement.sources.iter().filter_map(|name| Some((source_feed(name), newest(name)?)));
            let mut times: BTreeMap<String, i64> = sources.collect();
            let mut until = times.values().copied().max()?;
            for stage in &statement.stages {
                let read = names(&stage.input());
                let Some(time) = read.iter().filter_map(|name| times.get(name).copied()).max() else { continue };
                let end = stage.spec.closed_after(time);
                until = until.max(end);
                // Its rows have the last moment of their window.
                let has_window = stage.spec != WindowSpec::Never;
                times.insert(stage.slot.clone(), end.saturating_sub(i64::from(has_window)));
            }
            Some(until)
        };
        self.statements.iter().map(until).collect()
    }

    /// Sets the watermarks of statements from those of their sources, after the state was loaded. If all sources have ended, each
    /// statement goes on behind the windows that closed then; `at` is the time of that epoch in nanoseconds.
    pub fn set_watermarks(&self, state: &mut State, at: i64) {
        let has_ended = state.sources.values().all(|time| time.watermark == Some(END_OF_TIME));
        if has_ended && !state.sources.is_empty() {
            let closed = self.closed_until(state, at);
            let lowest = closed.iter().flatten().min().copied();
            state.sources.values_mut().for_each(|time| time.watermark = lowest);
            state.watermarks = closed.into_iter().map(|until| until.unwrap_or(i64::MIN)).collect();
            return;
        }
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
}

/// Returns the place of the first change of source `number` in an epoch. Those of stages are not negative, and -1 is that of final
/// rows that UNION puts among changes.
fn first_place(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX).saturating_add(2).saturating_mul(-SOURCE_PLACES)
}

/// Returns the treatment of numbers that do not fit their type: an error, unless the script sets another.
fn overflow(script: &Script) -> Result<Overflow> {
    let mut options = Options::default();
    if let Some(value) = script.settings.get("overflow") {
        options.set(&format!("overflow={value}"))?;
    }
    Ok(options.overflow)
}

fn register(context: &SessionContext, name: &str, schema: SchemaRef) -> Result<()> {
    context.register_table(quoted(name), Arc::new(FeedTable { name: source_feed(name), schema }))?;
    Ok(())
}

/// Returns the side tables of a source with their columns.
fn sides(name: &str, input: &SourceInput, source: &Source) -> Vec<(String, SchemaRef)> {
    let mut sides = Vec::new();
    if input.late_side {
        sides.push((format!("{name}{LATE}"), Arc::new(source.visible())));
    }
    if input.bad_side {
        let fields = ["text", "reason"].map(|name| Field::new(name, DataType::Utf8, true));
        sides.push((format!("{name}{BAD}"), Arc::new(Schema::new(fields.to_vec()))));
    }
    sides
}
