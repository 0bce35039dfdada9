//! Makes a pipeline with its sources and sinks of a script.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use buzz_connect::{
    BadData, OpenSource, OpenTable, Place, Sink, Stdout, WriteFormat, check_columns, check_places, open_source,
};
use buzz_protocol::{QueryError, Result, nullable};
use buzz_stream::{Pipeline, Script, SourceInput, TableDefinition, declared_columns};
use serde_json::Value;

use crate::process::{Printed, Process};

/// The sink of a SELECT without INSERT.
pub(crate) const STDOUT: &str = "stdout";

/// The length of an epoch in nanoseconds, unless the script sets another.
const EPOCH: i64 = 1_000_000_000;

/// The length of an epoch in nanoseconds if the state is in a bucket.
const EPOCH_REMOTE: i64 = 10_000_000_000;

/// A script that is ready to run.
pub(crate) struct Planned {
    pub(crate) script: Script,
    pub(crate) pipeline: Pipeline,
    /// Number of workers that hold state.
    pub(crate) workers: usize,
    pub(crate) sources: BTreeMap<String, OpenSource>,
    pub(crate) sinks: BTreeMap<String, Arc<dyn Sink>>,
    /// The sink of each statement.
    pub(crate) targets: Vec<String>,
    pub(crate) settings: Settings,
    pub(crate) process: Process,
}

/// Opens the sources that statements read, from `offset` or from the start.
pub(crate) async fn open_table(
    script: &Script,
    name: &str,
    place: &Place,
    offset: Option<&Value>,
) -> Result<OpenSource> {
    let table = script.table(name);
    let table =
        table.ok_or_else(|| QueryError::invalid(format!("table `{name}` is not declared; add CREATE TABLE")))?;
    let columns = declared_columns(table).await?.map(|schema| read_columns(table, &schema));
    open_source(name, &table.options, columns, place, offset).await
}

/// Returns the columns that a source must return: those that no expression computes.
fn read_columns(table: &TableDefinition, schema: &Schema) -> Schema {
    let fields: Vec<_> =
        schema.fields().iter().filter(|field| !table.generated.contains_key(field.name())).cloned().collect();
    nullable(&Schema::new(fields)).as_ref().clone()
}

/// Plans a script. `parallelism` replaces the script's own number of workers; `pipeline_id` identifies the pipeline in its
/// targets.
pub(crate) async fn plan(
    text: &str,
    parallelism: Option<NonZeroUsize>,
    process: &Process,
    pipeline_id: &str,
) -> Result<Planned> {
    let script = Script::parse(text)?;
    let settings = Settings::of(&script)?;
    let Tables { mut sources, inputs, mut sinks, sink_columns } = tables(&script, process, pipeline_id).await?;
    let workers = process.workers(parallelism, settings.parallelism);
    let pipeline = Pipeline::plan(&script, &inputs, &sink_columns, workers).await?;
    let pipeline = pipeline.with_updating_ttl(settings.updating_ttl);
    let read = pipeline.sources();
    sources.retain(|name, _| read.contains(name.as_str()));
    let targets: Vec<String> = pipeline.outputs().map(|(into, _)| into.unwrap_or(STDOUT).to_string()).collect();
    if targets.iter().any(|target| target == STDOUT) && !sinks.contains_key(STDOUT) {
        let sink = match &process.printed {
            Printed::Terminal => Arc::new(Stdout::new(WriteFormat::Json)),
            Printed::Elsewhere(make) | Printed::Everything(make) => make(STDOUT),
        };
        sinks.insert(STDOUT.to_string(), sink);
    }
    let planned = Planned { script, pipeline, workers, sources, sinks, targets, settings, process: process.clone() };
    planned.check()?;
    Ok(planned)
}

impl Planned {
    /// Checks that sinks can take the columns of their statements, and that no rows of two tables meet in one place.
    fn check(&self) -> Result<()> {
        for (into, sink, columns) in self.outputs() {
            check_columns(sink.as_ref(), &columns).map_err(|error| error.at(into))?;
        }
        let names = self.sinks.keys().map(|name| (name, true)).chain(self.sources.keys().map(|name| (name, false)));
        let tables: Vec<OpenTable<'_>> = names
            .filter_map(|(name, is_sink)| {
                let options = &self.script.table(name)?.options;
                Some(OpenTable { name, options, is_sink })
            })
            .collect();
        check_places(&tables, &self.process.place.base)
    }

    /// Checks, at the start of a run, that this pipeline may write to its sinks.
    pub(crate) async fn check_targets(&self) -> Result<()> {
        for (into, sink, columns) in self.outputs() {
            sink.check_target(&columns).await.map_err(|error| error.at(into))?;
        }
        Ok(())
    }

    /// Returns, for each statement, its clause, its sink and its columns.
    fn outputs(&self) -> impl Iterator<Item = (String, &Arc<dyn Sink>, SchemaRef)> {
        self.pipeline.outputs().zip(&self.targets).map(move |((into, columns), target)| {
            let clause = into.map_or_else(|| "SELECT".to_string(), |into| format!("INSERT INTO {into}"));
            (clause, &self.sinks[target], columns)
        })
    }
}

/// Opens the sinks of a script.
pub(crate) async fn sinks_of(
    text: &str,
    process: &Process,
    pipeline_id: &str,
) -> Result<BTreeMap<String, Arc<dyn Sink>>> {
    let script = Script::parse(text)?;
    let written: BTreeSet<&str> = script.statements.iter().filter_map(|output| output.into.as_deref()).collect();
    let mut sinks = BTreeMap::new();
    for table in script.tables.iter().filter(|table| table.option("connector").is_some()) {
        if written.contains(table.name.as_str()) {
            sinks.insert(table.name.clone(), process.sink(table, pipeline_id).await?);
        }
    }
    Ok(sinks)
}

/// The values of `SET`.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The length of an epoch in nanoseconds, if the script sets it.
    epoch_nanos: Option<i64>,
    /// Rows that an epoch takes of each source.
    pub(crate) epoch_rows: usize,
    parallelism: Option<usize>,
    pub(crate) on_error: OnError,
    /// The time in nanoseconds after which the rows of a key without a window are dropped.
    updating_ttl: Option<i64>,
}

/// The treatment of a statement that fails for a value of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// The run ends with the error. A run with state can resume from the epoch before.
    Stop,
    /// The rows of the epoch are left out.
    SkipEpoch,
}

impl Settings {
    fn of(script: &Script) -> Result<Self> {
        let mut settings = Self {
            epoch_nanos: None,
            epoch_rows: 1_000_000,
            parallelism: None,
            on_error: OnError::Stop,
            updating_ttl: None,
        };
        for (key, text) in &script.settings {
            let wrong = |required: &str| QueryError::invalid(format!("SET {key} = '{text}': {required} is required"));
            let number = || text.parse().ok().filter(|number: &usize| *number > 0);
            match key.as_str() {
                "epoch" => {
                    let nanos = buzz_connect::parse_duration(text).filter(|nanos| *nanos > 0);
                    settings.epoch_nanos = Some(nanos.ok_or_else(|| wrong("a duration such as 1s or 200 ms"))?);
                }
                "epoch_rows" => settings.epoch_rows = number().ok_or_else(|| wrong("a number above zero"))?,
                "parallelism" => settings.parallelism = Some(number().ok_or_else(|| wrong("a number above zero"))?),
                "on_error" => {
                    settings.on_error = match text.as_str() {
                        "stop" => OnError::Stop,
                        "skip_epoch" => OnError::SkipEpoch,
                        _ => return Err(wrong("stop or skip_epoch")),
                    };
                }
                "updating_ttl" => {
                    let nanos = buzz_connect::parse_duration(text).filter(|nanos| *nanos > 0);
                    settings.updating_ttl = Some(nanos.ok_or_else(|| wrong("a duration such as 1 day or 12 h"))?);
                }
                // The planner reads it.
                "overflow" => {}
                _ => {
                    return Err(QueryError::invalid(format!(
                        "SET {key} is unknown; known are epoch, epoch_rows, on_error, overflow, parallelism, updating_ttl"
                    )));
                }
            }
        }
        Ok(settings)
    }

    /// Returns the length of an epoch in nanoseconds. In a bucket, where each epoch costs requests, epochs are longer
    /// unless the script sets their length.
    pub(crate) fn epoch_nanos(&self, remote: bool) -> i64 {
        self.epoch_nanos.unwrap_or(if remote { EPOCH_REMOTE } else { EPOCH })
    }
}

/// The opened tables of a script.
struct Tables {
    sources: BTreeMap<String, OpenSource>,
    inputs: BTreeMap<String, SourceInput>,
    sinks: BTreeMap<String, Arc<dyn Sink>>,
    /// Columns of the sinks that declare some.
    sink_columns: BTreeMap<String, SchemaRef>,
}

/// Opens the tables of `script` that have a connector.
async fn tables(script: &Script, process: &Process, pipeline_id: &str) -> Result<Tables> {
    let written: BTreeSet<&str> = script.statements.iter().filter_map(|output| output.into.as_deref()).collect();
    let mut tables = Tables {
        sources: BTreeMap::new(),
        inputs: BTreeMap::new(),
        sinks: BTreeMap::new(),
        sink_columns: BTreeMap::new(),
    };
    for table in script.tables.iter().filter(|table| table.option("connector").is_some()) {
        let name = table.name.as_str();
        match (is_sink(table, &written)?, written.contains(name)) {
            (true, false) => continue,
            (true, true) => {
                tables.sinks.insert(name.to_string(), process.sink(table, pipeline_id).await?);
                if let Some(columns) = declared_columns(table).await? {
                    tables.sink_columns.insert(name.to_string(), nullable(&columns));
                }
            }
            (false, true) => {
                return Err(QueryError::invalid(format!(
                    "INSERT INTO {name}: the table is a source; declare type = 'sink'"
                )));
            }
            (false, false) => {
                let opened = open_table(script, name, &process.place, None).await;
                let opened = opened.map_err(|error| error.at(format!("table {name}")))?;
                let input = SourceInput {
                    schema: opened.source.schema(),
                    time_column: opened.time_column.clone(),
                    delay: opened.delay,
                    late_side: opened.late_side,
                    bad_side: opened.bad_data == BadData::Side,
                };
                tables.inputs.insert(name.to_string(), input);
                tables.sources.insert(name.to_string(), opened);
            }
        }
    }
    match written.iter().find(|name| script.table(name).is_none()) {
        Some(name) => Err(QueryError::invalid(format!(
            "INSERT INTO {name}: the table is not declared; add CREATE TABLE {name} WITH (connector = '…')"
        ))),
        None => Ok(tables),
    }
}

/// Returns true if `table` is written to: by its option `type`, or because a statement inserts into it.
fn is_sink(table: &TableDefinition, written: &BTreeSet<&str>) -> Result<bool> {
    match table.option("type") {
        Some("sink") => Ok(true),
        Some("source") => Ok(false),
        Some(other) => Err(QueryError::invalid(format!(
            "option `type` of table `{}` is `{other}`; use source or sink",
            table.name
        ))),
        None => Ok(written.contains(table.name.as_str())),
    }
}
