//! From the options of a table to a source or a sink.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use buzz_protocol::{QueryError, Result};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use serde_json::Value;

use crate::decode::Format;
use crate::files::{FileSource, first_schema};
use crate::generate::Generator;
use crate::generated::GeneratedSource;
use crate::impulse::Impulse;
use crate::nexmark::Nexmark;
use crate::options::Options;
use crate::sink::{Blackhole, Folder, SingleFile, Sink, Stdout, WriteFormat};
use crate::source::{BadData, Source};

/// Connectors of sources, for messages.
const SOURCES: &str = "nexmark, impulse, single_file, filesystem (also parquet, json, csv)";
/// Connectors of sinks, for messages.
const SINKS: &str = "stdout, blackhole, single_file, filesystem (also parquet, json, csv)";

/// A source and its options that the pipeline applies.
#[derive(Debug)]
pub struct OpenSource {
    /// The source.
    pub source: Box<dyn Source>,
    /// The column of event time, if the connector has one.
    pub time_column: Option<String>,
    /// The delay of the watermark behind that column, in nanoseconds.
    pub delay: i64,
    /// Nanoseconds without rows after which the source does not hold back the watermark.
    pub idle_timeout: Option<i64>,
    /// Treatment of rows that cannot be decoded.
    pub bad_data: BadData,
    /// Late rows are readable as a table of their own.
    pub late_side: bool,
}

/// The place of the files of a script.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder that relative paths are below.
    pub base: PathBuf,
    /// Folders are read once, even if a table follows them.
    pub until_end: bool,
}

/// Opens the source of table `name`. `columns` are those that the table declares and the source must return.
///
/// # Errors
/// `Invalid` if an option is wrong, `Data` if a file is missing.
pub async fn open_source(
    name: &str,
    options: &BTreeMap<String, String>,
    columns: Option<Schema>,
    place: &Place,
    offset: Option<&Value>,
) -> Result<OpenSource> {
    let connector = options.get("connector").map(String::as_str).unwrap_or_default();
    let mut options = Options::new(name, options);
    let idle_timeout = options.duration(&["idle_timeout"])?;
    let bad_data = match options.text(&["bad_data"]).as_deref() {
        None | Some("fail") => BadData::Fail,
        Some("drop") => BadData::Drop,
        Some("side") => BadData::Side,
        Some(other) => {
            return Err(QueryError::invalid(format!(
                "option `bad_data` of table `{name}` is `{other}`; use fail, drop or side"
            )));
        }
    };
    let late_side = match options.text(&["late"]).as_deref() {
        None | Some("drop") => false,
        Some("side") => true,
        Some(other) => {
            return Err(QueryError::invalid(format!("option `late` of table `{name}` is `{other}`; use drop or side")));
        }
    };
    let mut opened = match connector {
        "nexmark" => generated(&mut options, columns, "nexmark", place, offset)?,
        "impulse" => generated(&mut options, columns, "impulse", place, offset)?,
        "single_file" | "filesystem" | "parquet" | "json" | "csv" => {
            files(&mut options, connector, columns, bad_data, place, offset).await?
        }
        "" => return Err(QueryError::invalid(format!("table `{name}` has no connector; use one of {SOURCES}"))),
        other => {
            return Err(QueryError::invalid(format!(
                "connector `{other}` of table `{name}` is not supported as a source; use one of {SOURCES}"
            )));
        }
    };
    options.finish()?;
    opened.idle_timeout = idle_timeout;
    opened.bad_data = bad_data;
    opened.late_side = late_side;
    Ok(opened)
}

fn generated(
    options: &mut Options,
    columns: Option<Schema>,
    kind: &str,
    place: &Place,
    offset: Option<&Value>,
) -> Result<OpenSource> {
    let rate: f64 =
        match (options.number(&["event_rate", "events_per_second"])?, options.duration(&["event_time_interval"])?) {
            (Some(rate), _) => rate,
            (None, Some(interval)) => 1e9 / interval.max(1) as f64,
            (None, None) => 100.0,
        };
    if !(rate > 0.0 && rate.is_finite()) {
        return Err(QueryError::invalid(format!("`event_rate` of table `{}` must be above zero", options.table())));
    }
    let seed = options.number(&["seed"])?.unwrap_or(0);
    let disorder_nanos = options.duration(&["disorder"])?.unwrap_or(0);
    let count = match (options.number(&["events", "message_count"])?, options.duration(&["runtime"])?) {
        (Some(count), _) => Some(count),
        (None, Some(runtime)) => Some((rate * runtime as f64 / 1e9) as u64),
        (None, None) => None,
    };
    // An endless source would never end as fast as possible, and a bounded one is not worth waiting for.
    let real = options.flag(&["real_time"], !place.until_end || count.is_none())?;
    let base = options.number::<i64>(&["base_time"])?.map(|millis| millis * 1_000_000);
    let (generator, time, default): (Arc<dyn Generator>, &str, Vec<usize>) = if kind == "nexmark" {
        let keys = options.number(&["keys"])?.unwrap_or(0);
        let hot_percent = options.number(&["hot_percent"])?.unwrap_or(0);
        (Arc::new(Nexmark { rate, seed, disorder_nanos, keys, hot_percent }), "date_time", vec![1, 2, 3, 4])
    } else {
        (Arc::new(Impulse { rate, seed, disorder_nanos }), "timestamp", vec![0, 1, 2])
    };
    let schema = generator.schema();
    let mut positions = default;
    let mut time_column = Some(time.to_string());
    if let Some(columns) = columns {
        positions.clear();
        for field in columns.fields() {
            let position = schema.index_of(field.name()).map_err(|_| {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                QueryError::invalid(format!(
                    "connector {kind} has no column `{}`; its columns are {}",
                    field.name(),
                    known.join(", ")
                ))
            })?;
            positions.push(position);
        }
        let time_position = schema.index_of(time).expect("a generator has its time column");
        if !positions.contains(&time_position) {
            positions.push(time_position);
        }
    }
    if positions.is_empty() {
        time_column = None;
    }
    let mut source = GeneratedSource {
        generator,
        columns: positions,
        count,
        pace: real.then_some(rate),
        base: base.or((!real).then_some(0)),
        next: 0,
    };
    if let Some(offset) = offset {
        source.resume(offset)?;
    }
    Ok(OpenSource {
        source: Box::new(source),
        time_column,
        delay: disorder_nanos,
        idle_timeout: None,
        bad_data: BadData::Fail,
        late_side: false,
    })
}

async fn files(
    options: &mut Options,
    connector: &str,
    columns: Option<Schema>,
    bad_data: BadData,
    place: &Place,
    offset: Option<&Value>,
) -> Result<OpenSource> {
    let path = options.required(&["path", "uri"])?;
    let format = read_format(options, connector)?;
    let mode = options.text(&["mode"]);
    let follow = match mode.as_deref() {
        None => connector != "single_file",
        Some("follow" | "continuous") => true,
        Some("bounded" | "once") => false,
        Some(other) => {
            return Err(QueryError::invalid(format!(
                "option `mode` of table `{}` is `{other}`; use bounded or follow",
                options.table()
            )));
        }
    };
    let (store, location) = store(&path, &place.base)?;
    let schema = columns.clone().map_or_else(|| Arc::new(Schema::empty()), Arc::new);
    let mut source = FileSource::new(store, location, format, schema);
    source.root = if is_remote(&path) { "" } else { "/" };
    source.folder = connector != "single_file";
    source.follow = follow && !place.until_end;
    source.bad_data = bad_data;
    if columns.is_none() {
        source.schema = first_schema(&source, options.table()).await?;
    }
    if let Some(offset) = offset {
        source.resume(offset)?;
    }
    Ok(OpenSource {
        source: Box::new(source),
        time_column: None,
        delay: 0,
        idle_timeout: None,
        bad_data,
        late_side: false,
    })
}

fn format_name(options: &mut Options, connector: &str) -> Result<String> {
    let given = options.text(&["format"]);
    match connector {
        "parquet" | "json" | "csv" => Ok(connector.to_string()),
        _ => given.ok_or_else(|| {
            QueryError::invalid(format!("table `{}` has no `format`; use json, csv or parquet", options.table()))
        }),
    }
}

fn read_format(options: &mut Options, connector: &str) -> Result<Format> {
    let name = format_name(options, connector)?;
    Ok(match name.as_str() {
        "json" => Format::Json { unstructured: options.flag(&["json.unstructured"], false)? },
        "csv" => {
            let delimiter = options.text(&["csv.delimiter", "delimiter"]).unwrap_or_else(|| ",".to_string());
            let [delimiter] = delimiter.as_bytes() else {
                return Err(QueryError::invalid("option `csv.delimiter` must be one character"));
            };
            Format::Csv { header: options.flag(&["csv.header", "header"], true)?, delimiter: *delimiter }
        }
        "raw_string" => Format::RawString,
        "parquet" => Format::Parquet,
        "arrow" => Format::Arrow,
        "debezium_json" => {
            return Err(QueryError::invalid(format!(
                "format debezium_json of table `{}` is not supported: its rows change earlier ones; use json",
                options.table()
            )));
        }
        other => {
            return Err(QueryError::invalid(format!(
                "format `{other}` of table `{}` is not supported; use json, csv, parquet, arrow or raw_string",
                options.table()
            )));
        }
    })
}

/// Opens the sink of table `name`. `pipeline` identifies the pipeline that writes.
///
/// # Errors
/// `Invalid` if an option is wrong.
pub fn open_sink(
    name: &str,
    options: &BTreeMap<String, String>,
    place: &Place,
    pipeline: &str,
) -> Result<Arc<dyn Sink>> {
    let connector = options.get("connector").map(String::as_str).unwrap_or_default();
    let mut options = Options::new(name, options);
    let sink: Arc<dyn Sink> = match connector {
        "blackhole" => Arc::new(Blackhole),
        "stdout" | "preview" | "log" => Arc::new(Stdout { format: text_format(&mut options)? }),
        "single_file" => {
            let path = options.required(&["path", "uri"])?;
            let path = place.base.join(path.trim_start_matches("file://"));
            Arc::new(SingleFile { path, format: text_format(&mut options)?, pipeline: pipeline.to_string() })
        }
        "filesystem" | "parquet" | "json" | "csv" => {
            let path = options.required(&["path", "uri"])?;
            let format = match format_name(&mut options, connector)?.as_str() {
                "json" => WriteFormat::Json,
                "csv" => WriteFormat::Csv,
                "parquet" => WriteFormat::Parquet,
                "arrow" => WriteFormat::Arrow,
                other => {
                    return Err(QueryError::invalid(format!(
                        "format `{other}` of table `{name}` cannot be written; use json, csv, parquet or arrow"
                    )));
                }
            };
            let (store, location) = store(&path, &place.base)?;
            let partition_by = options.text(&["partition_by", "partition_fields"]).unwrap_or_default();
            let partition_by =
                partition_by.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty());
            Arc::new(Folder {
                store,
                path: location,
                format,
                partition_by: partition_by.collect(),
                rows_per_file: options.number(&["rows_per_file"])?.unwrap_or(1_000_000).max(1),
                pipeline: pipeline.to_string(),
            })
        }
        other => {
            return Err(QueryError::invalid(format!(
                "connector `{other}` of table `{name}` is not supported as a sink; use one of {SINKS}"
            )));
        }
    };
    options.finish()?;
    Ok(sink)
}

fn text_format(options: &mut Options) -> Result<WriteFormat> {
    match options.text(&["format"]).as_deref() {
        None | Some("json") => Ok(WriteFormat::Json),
        Some("csv") => Ok(WriteFormat::Csv),
        Some("debezium_json") => Err(QueryError::invalid(format!(
            "format debezium_json of table `{}` is not supported: rows are final when their window closes; use json",
            options.table()
        ))),
        Some(other) => Err(QueryError::invalid(format!(
            "format `{other}` of table `{}` cannot be written to one file; use json or csv",
            options.table()
        ))),
    }
}

/// Returns true if `uri` is not a path of this machine.
fn is_remote(uri: &str) -> bool {
    uri.contains("://") && !uri.starts_with("file://")
}

/// Returns the store and the path in it of a local path or an s3:// uri.
///
/// # Errors
/// `Invalid` if the uri is not understood.
pub fn store(uri: &str, base: &std::path::Path) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let invalid = |error: &dyn std::fmt::Display| QueryError::invalid(format!("`{uri}` cannot be used: {error}"));
    if is_remote(uri) {
        let parsed = url::Url::parse(uri).map_err(|error| invalid(&error))?;
        let (store, path) = object_store::parse_url_opts(&parsed, std::env::vars()).map_err(|error| invalid(&error))?;
        return Ok((Arc::from(store), path));
    }
    let local = base.join(uri.trim_start_matches("file://"));
    let local = normal(&std::path::absolute(local).map_err(|error| invalid(&error))?);
    let path = Path::from_absolute_path(&local).map_err(|error| invalid(&error))?;
    Ok((Arc::new(LocalFileSystem::new()), path))
}

/// Resolves `..` in an absolute path. A store's paths must not contain it.
fn normal(path: &std::path::Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = normal.pop(),
            part => normal.push(part),
        }
    }
    normal
}

/// Returns the columns of a schema as they are read: without constraints on nulls, which a source cannot promise.
pub fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}
