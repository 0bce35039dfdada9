//! Opens sources and sinks, from the options of a table.

#[cfg(any(feature = "kafka", test))]
mod auth;
mod delta;
mod files;
mod generators;
mod kafka;
mod places;
mod profile;
mod pushed;
mod received;
mod sinks;

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use buzz_protocol::{QueryError, Result};
use serde_json::Value;

use self::delta::delta;
use self::files::files;
use self::generators::generated;
pub use self::places::{OpenTable, check_places};
pub use self::profile::{PROFILE, check_connection, profile_config, profile_options};
use self::pushed::pushed;
use self::received::received;
pub use self::sinks::{PRINTED, open_sink};
use crate::options::Options;
use crate::place::Place;
use crate::source::{BadData, Source};

/// Connectors of sources, for messages.
const SOURCES: &str = "nexmark, impulse, single_file, filesystem (also parquet, json, csv), delta, http, sse, websocket, \
     polling_http, kafka";

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
    /// Nanoseconds of event time that the source may be ahead of the slowest one.
    pub max_drift: Option<i64>,
    /// Treatment of rows that cannot be decoded.
    pub bad_data: BadData,
    /// Late rows are readable as a table of their own.
    pub late_side: bool,
}

/// A source as its connector opens it.
struct Connected {
    source: Box<dyn Source>,
    time_column: Option<String>,
    delay: i64,
}

impl Connected {
    /// A source without an event time of its own.
    fn plain(source: impl Source + 'static) -> Self {
        Self { source: Box::new(source), time_column: None, delay: 0 }
    }
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
    let max_drift = options.duration(&["max_drift"])?;
    let treatments = [("fail", BadData::Fail), ("drop", BadData::Drop), ("side", BadData::Side)];
    let bad_data = options.choice(&["bad_data"], BadData::Fail, &treatments)?;
    let late_side = options.choice(&["late"], false, &[("drop", false), ("side", true)])?;
    let Connected { source, time_column, delay } = match connector {
        "nexmark" | "impulse" => generated(&mut options, columns, connector, place, offset)?,
        "single_file" | "filesystem" | "parquet" | "json" | "csv" => {
            files(&mut options, connector, columns, bad_data, place, offset).await?
        }
        "http" => pushed(&mut options, columns, bad_data, place, offset).await?,
        "sse" | "websocket" | "polling_http" => received(&mut options, connector, columns, bad_data, place, offset)?,
        "kafka" => kafka::source(&mut options, columns, bad_data, place, offset)?,
        "delta" => delta(&mut options, columns, place, offset).await?,
        "" => return Err(QueryError::invalid(format!("table `{name}` has no connector; use one of {SOURCES}"))),
        other => {
            return Err(QueryError::invalid(format!(
                "connector `{other}` of table `{name}` is not supported as a source; use one of {SOURCES}"
            )));
        }
    };
    options.finish()?;
    Ok(OpenSource { source, time_column, delay, idle_timeout, max_drift, bad_data, late_side })
}

/// Returns true if the source of a table with `options` stores notes of its readers outside of their pipelines, so that these must
/// be removed ([`Source::note_reader`]).
pub fn keeps_rows(options: &BTreeMap<String, String>) -> bool {
    options.get("connector").is_some_and(|connector| connector == "http")
}
