//! Opens files as a source, from the options of a table.

use std::sync::Arc;

use arrow::datatypes::Schema;
use buzz_protocol::{QueryError, Result};
use buzz_storage::Location;
use serde_json::Value;

use super::Connected;
use crate::decode::Format;
use crate::files::{FileSource, first_schema};
use crate::options::Options;
use crate::place::Place;
use crate::source::BadData;

/// Opens one file, or the files of a folder.
pub(super) async fn files(
    options: &mut Options,
    connector: &str,
    columns: Option<Schema>,
    bad_data: BadData,
    place: &Place,
    offset: Option<&Value>,
) -> Result<Connected> {
    let path = options.required(&["path", "uri"])?;
    let format = read_format(options, connector)?;
    let follow = follows(options, connector != "single_file")?;
    let (location, store) = place.open(&path).await?;
    let exists = root_of(&location) == "/" && std::path::Path::new(&format!("/{}", location.path)).exists();
    if path.contains('*') && !exists {
        // A source that follows a folder would wait for one of this name.
        return Err(QueryError::invalid(format!(
            "option `path` of table `{}` is `{path}`; a source reads one file, or all files of a folder and of those below \
             it: name the folder, without `*`",
            options.table()
        )));
    }
    let schema = columns.clone().map_or_else(|| Arc::new(Schema::empty()), Arc::new);
    let mut source = FileSource::new(store, location.path.clone(), format, schema);
    source.root = root_of(&location);
    source.folder = connector != "single_file";
    source.follow = follow && !place.until_end;
    source.bad_data = bad_data;
    if columns.is_none() {
        source.schema = first_schema(&source, options.table()).await?;
    }
    if let Some(offset) = offset {
        source.resume(offset)?;
    }
    Ok(Connected::plain(source))
}

/// Returns true if the option `mode` says that new files are waited for.
pub(super) fn follows(options: &mut Options, default: bool) -> Result<bool> {
    let modes = [("bounded", false), ("follow", true), ("once", false), ("continuous", true)];
    options.choice(&["mode"], default, &modes)
}

/// Returns what stands before paths of the store of `location` in messages.
pub(super) fn root_of(location: &Location) -> String {
    if location.store.scheme() == "file" { "/".to_string() } else { location.store.to_string() }
}

/// Returns the name of the format of a table.
pub(super) fn format_name(options: &mut Options, connector: &str) -> Result<String> {
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
