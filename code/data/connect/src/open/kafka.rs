//! Opens topics of Kafka, from the options of a table.

use std::sync::Arc;

use arrow::datatypes::Schema;
#[cfg(not(feature = "kafka"))]
use buzz_protocol::QueryError;
use buzz_protocol::Result;
use serde_json::Value;

use super::Connected;
use crate::options::Options;
use crate::place::Place;
use crate::sink::Sink;
use crate::source::BadData;

/// Opens a topic as a source.
///
/// # Errors
/// `Invalid`, since this build has no client of Kafka.
#[cfg(not(feature = "kafka"))]
pub(super) fn source(
    options: &mut Options,
    _: Option<Schema>,
    _: BadData,
    _: &Place,
    _: Option<&Value>,
) -> Result<Connected> {
    Err(missing(options))
}

/// Opens a topic as a sink.
///
/// # Errors
/// `Invalid`, since this build has no client of Kafka.
#[cfg(not(feature = "kafka"))]
pub(super) fn sink(options: &mut Options, _: &str) -> Result<Arc<dyn Sink>> {
    Err(missing(options))
}

#[cfg(not(feature = "kafka"))]
fn missing(options: &Options) -> QueryError {
    QueryError::invalid(format!(
        "connector kafka of table `{}` is not in this build of Buzz; build one that has it: `cargo build --features kafka \
         --bin buzz`, which needs a C compiler and make",
        options.table()
    ))
}

#[cfg(feature = "kafka")]
pub(super) use with_kafka::{sink, source};

#[cfg(feature = "kafka")]
mod with_kafka {
    use buzz_protocol::QueryError;

    use super::{Arc, BadData, Connected, Options, Place, Result, Schema, Sink, Value};
    use crate::kafka::{Cluster, CommitMode, KafkaSink, KafkaSource, Start};
    use crate::open::files::follows;
    use crate::open::received::message_format;
    use crate::received::MessageFormat;

    /// Reads the options of a cluster.
    fn cluster(options: &mut Options) -> Result<Cluster> {
        let table = options.table().to_string();
        let servers = options.required(&["bootstrap_servers"])?;
        let topic = options.required(&["topic"])?;
        Cluster::new(&table, servers, topic, options.prefixed("client_configs."))
    }

    /// Opens a topic as a source.
    pub(in super::super) fn source(
        options: &mut Options,
        columns: Option<Schema>,
        bad_data: BadData,
        place: &Place,
        offset: Option<&Value>,
    ) -> Result<Connected> {
        let cluster = cluster(options)?;
        let group = options.text(&["source.group_id"]).unwrap_or_else(|| format!("buzz-{}", options.table()));
        let (format, schema) = message_format(options, columns)?;
        let mut source = KafkaSource::new(cluster, group, schema, format);
        source.bad_data = bad_data;
        source.follow = follows(options, true)? && !place.until_end;
        let starts = [("earliest", Start::Earliest), ("latest", Start::Latest)];
        source.start = options.choice(&["source.offset", "start"], Start::Latest, &starts)?;
        let modes = [("read_committed", true), ("read_uncommitted", false)];
        source.committed = options.choice(&["source.read_mode"], true, &modes)?;
        if let Some(offset) = offset {
            source.resume(offset)?;
        }
        Ok(Connected::plain(source))
    }

    /// Opens a topic as a sink of `pipeline`.
    pub(in super::super) fn sink(options: &mut Options, pipeline: &str) -> Result<Arc<dyn Sink>> {
        let table = options.table().to_string();
        let cluster = cluster(options)?;
        let format = match options.text(&["format"]).as_deref() {
            None | Some("json") => MessageFormat::Json,
            Some("raw_string") => MessageFormat::RawString,
            Some(other) => {
                return Err(QueryError::invalid(format!(
                    "format `{other}` of table `{table}` cannot be written to a topic; use json, debezium_json or raw_string"
                )));
            }
        };
        let modes = [("exactly_once", CommitMode::ExactlyOnce), ("at_least_once", CommitMode::AtLeastOnce)];
        let mode = options.choice(&["sink.commit_mode"], CommitMode::ExactlyOnce, &modes)?;
        let mut sink = KafkaSink::new(cluster, format!("buzz-{pipeline}-{table}"), format, mode);
        sink.key = options.text(&["sink.key_field", "key_field"]);
        Ok(Arc::new(sink))
    }
}
