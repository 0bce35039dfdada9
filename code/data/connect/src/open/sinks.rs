//! Opens a sink, from the options of a table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use buzz_protocol::{CHANGES_FORMAT, QueryError, Result};
use buzz_storage::Location;
use object_store::ObjectStore;

use super::files::format_name;
use super::received::{endpoint, headers};
use crate::options::Options;
use crate::place::Place;
use crate::sink::{Blackhole, Changes, DeltaSink, Files, Folder, SingleFile, Sink, Stdout, Webhook, WriteFormat};
use crate::web::client_without_redirects;

/// Connectors of sinks, for messages.
const SINKS: &str = "stdout (also preview, log, web), blackhole, single_file, filesystem (also parquet, json, csv), delta, kafka, \
     webhook";

/// Connectors that write [`CHANGES_FORMAT`], beside those of [`PRINTED`].
const CHANGES_CONNECTORS: [&str; 5] = ["single_file", "filesystem", "json", "kafka", "webhook"];

/// Connectors whose rows are printed.
pub const PRINTED: [&str; 4] = ["stdout", "preview", "log", "web"];

/// Opens the sink of table `name`. `pipeline` identifies the pipeline that writes.
///
/// # Errors
/// `Invalid` if an option is wrong, or the place of the rows cannot be written to.
pub async fn open_sink(
    name: &str,
    options: &BTreeMap<String, String>,
    place: &Place,
    pipeline: &str,
) -> Result<Arc<dyn Sink>> {
    let writes_json =
        |connector: &String| PRINTED.contains(&connector.as_str()) || CHANGES_CONNECTORS.contains(&connector.as_str());
    if options.get("format").is_some_and(|format| format == CHANGES_FORMAT)
        && options.get("connector").is_some_and(writes_json)
    {
        let mut plain = options.clone();
        plain.insert("format".to_string(), "json".to_string());
        let sink = Box::pin(open_sink(name, &plain, place, pipeline)).await?;
        return Ok(Arc::new(Changes(sink)));
    }
    let connector = options.get("connector").map(String::as_str).unwrap_or_default();
    let mut options = Options::new(name, options);
    let sink: Arc<dyn Sink> = match connector {
        "blackhole" => Arc::new(Blackhole),
        printed if PRINTED.contains(&printed) => Arc::new(Stdout::new(text_format(&mut options)?)),
        "single_file" => {
            let path = options.required(&["path", "uri"])?;
            let (location, _) = place.open(&path).await?;
            if location.store.scheme() != "file" {
                return Err(QueryError::invalid(format!(
                    "connector single_file of table `{name}` writes local files, and `{path}` is in a bucket, whose \
                     objects cannot grow; use connector = 'json' or 'csv' with a folder"
                )));
            }
            let path = PathBuf::from(format!("/{}", location.path));
            let file = SingleFile { path, format: text_format(&mut options)?, pipeline: pipeline.to_string() };
            file.check_path().map_err(|error| error.at(format!("table {name}")))?;
            Arc::new(file)
        }
        "filesystem" | "parquet" | "json" | "csv" => Arc::new(folder(&mut options, connector, place, pipeline).await?),
        "kafka" => super::kafka::sink(&mut options, pipeline)?,
        "webhook" => Arc::new(webhook(&mut options, pipeline)?),
        "delta" => Arc::new(delta(&mut options, place, pipeline).await?),
        other => {
            return Err(QueryError::invalid(format!(
                "connector `{other}` of table `{name}` is not supported as a sink; use one of {SINKS}"
            )));
        }
    };
    options.finish()?;
    Ok(sink)
}

async fn folder(options: &mut Options, connector: &str, place: &Place, pipeline: &str) -> Result<Folder> {
    let path = options.required(&["path", "uri"])?;
    let format = match format_name(options, connector)?.as_str() {
        "json" => WriteFormat::Json,
        "csv" => csv(options)?,
        "parquet" => WriteFormat::Parquet,
        "arrow" => WriteFormat::Arrow,
        other => {
            return Err(QueryError::invalid(format!(
                "format `{other}` of table `{}` cannot be written; use json, csv, parquet or arrow",
                options.table()
            )));
        }
    };
    let (location, store) = place.open(&path).await?;
    let partition_by = partition_by(options);
    let roll = match options.duration(&["roll"])? {
        Some(nanos) if nanos < 1_000_000 => {
            return Err(QueryError::invalid(format!(
                "option `roll` of table `{}` is shorter than a millisecond; use the time that a file should span, such \
                 as 1 minute",
                options.table()
            )));
        }
        roll => roll.map(|nanos| Duration::from_nanos(nanos as u64)),
    };
    Ok(Folder {
        place: files(&location, store),
        format,
        partition_by,
        rows_per_file: options.number(&["rows_per_file"])?.unwrap_or(1_000_000).max(1),
        roll,
        pipeline: pipeline.to_string(),
    })
}

async fn delta(options: &mut Options, place: &Place, pipeline: &str) -> Result<DeltaSink> {
    let path = options.required(&["path", "uri"])?;
    let (location, store) = place.open(&path).await?;
    Ok(DeltaSink {
        files: files(&location, store),
        place: location,
        partition_by: partition_by(options),
        pipeline: pipeline.to_string(),
        opened: OnceLock::new(),
    })
}

fn webhook(options: &mut Options, pipeline: &str) -> Result<Webhook> {
    let table = options.table().to_string();
    if let Some(format) = options.text(&["format"]).filter(|format| format != "json") {
        return Err(QueryError::invalid(format!(
            "format `{format}` of table `{table}` cannot be sent to a webhook; use json or debezium_json"
        )));
    }
    let rows_per_request = options.number(&["rows_per_request"])?.unwrap_or(1);
    if rows_per_request == 0 {
        return Err(QueryError::invalid(format!("option `rows_per_request` of table `{table}` must be above zero")));
    }
    Ok(Webhook {
        client: client_without_redirects()?,
        endpoint: endpoint(options, ["http", "https"])?,
        headers: headers(options)?,
        rows_per_request,
        id: format!("{pipeline}-{table}"),
    })
}

fn files(location: &Location, store: Arc<dyn ObjectStore>) -> Files {
    match location.store.scheme() {
        "file" => Files::Disk(PathBuf::from(format!("/{}", location.path)), OnceLock::new()),
        _ => Files::Bucket(store, location.path.clone()),
    }
}

fn partition_by(options: &mut Options) -> Vec<String> {
    let columns = options.text(&["partition_by", "partition_fields"]).unwrap_or_default();
    columns.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect()
}

fn csv(options: &mut Options) -> Result<WriteFormat> {
    Ok(WriteFormat::Csv { header: options.flag(&["csv.header", "header"], true)? })
}

fn text_format(options: &mut Options) -> Result<WriteFormat> {
    match options.text(&["format"]).as_deref() {
        None | Some("json") => Ok(WriteFormat::Json),
        Some("csv") => csv(options),
        Some(other) => Err(QueryError::invalid(format!(
            "format `{other}` of table `{}` cannot be written to one file; use json or csv",
            options.table()
        ))),
    }
}
