//! From a script to a pipeline with its sources and sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use buzz_connect::{BadData, OpenSource, Place, Sink, Stdout, WriteFormat, nullable, open_sink, open_source};
use buzz_protocol::{QueryError, Result};
use buzz_stream::{Pipeline, Script, SourceInput, TableDefinition, declared_columns};
use serde_json::Value;

/// The sink of a SELECT without INSERT.
pub(super) const STDOUT: &str = "stdout";

/// The length of an epoch unless the script sets another.
pub(super) const EPOCH: i64 = 1_000_000_000;

/// A script that is ready to run.
pub(super) struct Planned {
    pub(super) script: Script,
    pub(super) pipeline: Pipeline,
    pub(super) sources: BTreeMap<String, OpenSource>,
    pub(super) sinks: BTreeMap<String, Arc<dyn Sink>>,
    /// The sink of each statement.
    pub(super) targets: Vec<String>,
    pub(super) epoch_nanos: i64,
    /// Rows that an epoch takes of each source.
    pub(super) epoch_rows: usize,
    pub(super) place: Place,
}

/// Reads a script, or a query in JSON, which is translated to one. Returns it with the name that the query gives.
pub(super) fn read_script(file: &Path) -> Result<(String, Option<String>)> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|error| QueryError::invalid(format!("standard input is not readable: {error}")))?;
        text
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| QueryError::invalid(format!("script `{}` is not readable: {error}", file.display())))?
    };
    if text.trim_start().starts_with('{') { super::json::to_script(&text) } else { Ok((text, None)) }
}

/// Opens the sources that statements read, from `offset` or from the start.
pub(super) async fn open_table(
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

/// Plans a script for `parallelism` workers. `pipeline_id` identifies the pipeline in its targets.
#[expect(clippy::too_many_lines, reason = "one step after the other, to be divided")]
pub(super) async fn plan(text: &str, parallelism: usize, until_end: bool, pipeline_id: &str) -> Result<Planned> {
    let script = Script::parse(text)?;
    let base = std::env::current_dir()
        .map_err(|error| QueryError::invalid(format!("the working directory is not available: {error}")))?;
    let place = Place { base, until_end };
    let written: BTreeSet<&str> = script.statements.iter().filter_map(|output| output.into.as_deref()).collect();
    let (mut sources, mut inputs) = (BTreeMap::new(), BTreeMap::new());
    let (mut sinks, mut sink_columns) = (BTreeMap::new(), BTreeMap::<String, SchemaRef>::new());
    for table in &script.tables {
        let name = table.name.as_str();
        if table.option("connector").is_none() {
            continue;
        }
        let is_sink = match table.option("type") {
            Some("sink") => true,
            Some("source") => false,
            Some(other) => {
                return Err(QueryError::invalid(format!(
                    "option `type` of table `{name}` is `{other}`; use source or sink"
                )));
            }
            None => written.contains(name),
        };
        if is_sink {
            if !written.contains(name) {
                continue;
            }
            sinks.insert(name.to_string(), open_sink(name, &table.options, &place, pipeline_id)?);
            if let Some(columns) = declared_columns(table).await? {
                sink_columns.insert(name.to_string(), nullable(&columns));
            }
            continue;
        }
        if written.contains(name) {
            return Err(QueryError::invalid(format!(
                "INSERT INTO {name}: the table is a source; declare type = 'sink'"
            )));
        }
        let opened =
            open_table(&script, name, &place, None).await.map_err(|error| error.at(format!("table {name}")))?;
        let input = SourceInput {
            schema: opened.source.schema(),
            time_column: opened.time_column.clone(),
            delay: opened.delay,
            late_side: opened.late_side,
            bad_side: opened.bad_data == BadData::Side,
        };
        inputs.insert(name.to_string(), input);
        sources.insert(name.to_string(), opened);
    }
    for name in &written {
        if script.table(name).is_none() {
            return Err(QueryError::invalid(format!(
                "INSERT INTO {name}: the table is not declared; add CREATE TABLE {name} WITH (connector = '…')"
            )));
        }
    }
    let setting = |key: &str| script.settings.get(key).map(String::as_str);
    let parallelism = match setting("parallelism") {
        Some(text) if parallelism == 0 => text
            .parse()
            .map_err(|_| QueryError::invalid(format!("SET parallelism = '{text}': a number is required")))?,
        _ => parallelism,
    };
    let epoch_nanos = match setting("epoch") {
        None => EPOCH,
        Some(text) => buzz_connect::parse_duration(text).filter(|nanos| *nanos > 0).ok_or_else(|| {
            QueryError::invalid(format!("SET epoch = '{text}': a duration such as 1s or 200 ms is required"))
        })?,
    };
    let epoch_rows = match setting("epoch_rows") {
        None => 1_000_000,
        Some(text) => text.parse().ok().filter(|rows| *rows > 0).ok_or_else(|| {
            QueryError::invalid(format!("SET epoch_rows = '{text}': a number above zero is required"))
        })?,
    };
    for key in script.settings.keys() {
        if !["epoch", "epoch_rows", "parallelism"].contains(&key.as_str()) {
            return Err(QueryError::invalid(format!("SET {key} is unknown; known are epoch, epoch_rows, parallelism")));
        }
    }
    let pipeline = Pipeline::plan(&script, &inputs, &sink_columns, parallelism.max(1)).await?;
    let read = pipeline.sources();
    sources.retain(|name, _| read.contains(name.as_str()));
    let targets: Vec<String> = pipeline.outputs().map(|(into, _)| into.unwrap_or(STDOUT).to_string()).collect();
    if targets.iter().any(|target| target == STDOUT) && !sinks.contains_key(STDOUT) {
        sinks.insert(STDOUT.to_string(), Arc::new(Stdout { format: WriteFormat::Json }));
    }
    Ok(Planned { script, pipeline, sources, sinks, targets, epoch_nanos, epoch_rows, place })
}
