//! Opens the log of a stream as a source, from the options of a table.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::Schema;
use buzz_epoch::SourceLog;
use buzz_protocol::{QueryError, Result, nullable};
use serde_json::Value;

use super::Connected;
use super::files::follows;
use crate::options::Options;
use crate::place::Place;
use crate::pushed::{PushedSource, PushedStart, StreamsRoot, stream_columns};
use crate::source::BadData;

/// Opens the log of a stream.
pub(super) async fn pushed(
    options: &mut Options,
    columns: Option<Schema>,
    bad_data: BadData,
    place: &Place,
    offset: Option<&Value>,
) -> Result<Connected> {
    let written = options.required(&["path", "uri"])?;
    let stream = options.text(&["stream"]).unwrap_or_else(|| options.table().to_string());
    let table = options.table().to_string();
    if let Some(format) = options.text(&["format"]).filter(|format| format != "json") {
        return Err(QueryError::invalid(format!(
            "format `{format}` of table `{table}`: the rows of a stream have the formats of their requests; leave the option \
             out"
        )));
    }
    let follow = follows(options, true)?;
    let by_producer = options.flag(&["producers"], false)?;
    let starts = [("earliest", PushedStart::Earliest), ("latest", PushedStart::Latest)];
    let start = options.choice(&["start"], PushedStart::Earliest, &starts)?;
    let (location, store) = place.open(&written).await?;
    let folder = (location.store.scheme() == "file").then(|| PathBuf::from(format!("/{}", location.path)));
    let root = StreamsRoot { store: Arc::clone(&store), path: location.path.clone(), folder, written };
    let log = SourceLog::existing(store, location.path, &stream).await?;
    let schema = match (columns, log) {
        (Some(columns), _) => Arc::new(columns),
        (None, log) => {
            let declared = log.map(|log| stream_columns(log.spec())).transpose()?.flatten();
            let declared = declared.ok_or_else(|| {
                QueryError::invalid(format!(
                    "table `{table}` has no columns, and stream `{stream}` declares none; declare them in CREATE TABLE"
                ))
            })?;
            nullable(&declared)
        }
    };
    let mut source = PushedSource::new(root, stream, schema);
    source.bad_data = bad_data;
    source.follow = follow && !place.until_end;
    source.by_producer = by_producer;
    source.start = start;
    if let Some(offset) = offset {
        source.resume(offset)?;
    }
    Ok(Connected::plain(source))
}
