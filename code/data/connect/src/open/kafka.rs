//! Opens topics of Kafka, from the options of a table.

use std::collections::BTreeMap;
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
    QueryError::invalid(format!("connector kafka of table `{}` {NO_CLIENT}", options.table()))
}

/// Connects to a cluster.
///
/// # Errors
/// `Invalid`, since this build has no client of Kafka.
#[cfg(not(feature = "kafka"))]
pub(super) fn check(_: &BTreeMap<String, String>) -> std::future::Ready<Result<String>> {
    std::future::ready(Err(QueryError::invalid(format!("connector kafka {NO_CLIENT}"))))
}

#[cfg(not(feature = "kafka"))]
const NO_CLIENT: &str = "is not in this build of Buzz; build one that has it: `cargo build --features kafka --bin buzz`, which \
                         needs a C compiler and make";

#[cfg(feature = "kafka")]
pub(super) use with_kafka::{check, sink, source};

#[cfg(feature = "kafka")]
mod with_kafka {
    use buzz_protocol::QueryError;
    use url::Url;

    use super::{Arc, BTreeMap, BadData, Connected, Options, Place, Result, Schema, Sink, Value};
    use crate::avro::{Login, Registry};
    use crate::kafka::{Cluster, CommitMode, KafkaSink, KafkaSource, RecordFormat, Start, brokers};
    use crate::open::auth::client_settings;
    use crate::open::files::follows;
    use crate::open::received::message_format;
    use crate::received::MessageFormat;

    /// Reads the options of a cluster.
    fn cluster(options: &mut Options) -> Result<Cluster> {
        let table = options.table().to_string();
        let servers = options.required(&["bootstrap_servers"])?;
        let topic = options.required(&["topic"])?;
        let settings = client_settings(options)?;
        Cluster::new(&table, servers, topic, settings)
    }

    /// Connects to a cluster with the options of a connection profile. Returns what answered.
    ///
    /// # Errors
    /// `Invalid` if an option is wrong or missing; `Unavailable` or `Data` if no broker answers, or refuses.
    pub(in super::super) async fn check(options: &BTreeMap<String, String>) -> Result<String> {
        let mut options = Options::new("profile", options);
        let servers = options.required(&["bootstrap_servers"])?;
        let settings = client_settings(&mut options)?;
        registry(&mut options)?;
        options.finish()?;
        brokers(Cluster::new("profile", servers, String::new(), settings)?).await
    }

    /// Reads the options of a registry of schemas; `None` if none is named.
    fn registry(options: &mut Options) -> Result<Option<Registry>> {
        let url = options.text(&["schema_registry.url", "schema_registry.endpoint"]);
        let user = options.text(&["schema_registry.user", "schema_registry.username", "schema_registry.api_key"]);
        let password = options.text(&["schema_registry.password", "schema_registry.api_secret"]);
        let Some(url) = url else { return Ok(None) };
        let wrong = || {
            QueryError::invalid(format!(
                "option `schema_registry.url` of table `{}` is no URL that begins with http:// or https://",
                options.table()
            ))
        };
        let url = Url::parse(url.trim()).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        Registry::new(url.ok_or_else(wrong)?, user.map(|user| Login { user, password })).map(Some)
    }

    /// Reads the option `format`, and returns it with the columns of the rows.
    fn record_format(options: &mut Options, columns: Option<Schema>) -> Result<(RecordFormat, Arc<Schema>)> {
        let registry = registry(options)?;
        if options.text(&["format"]).as_deref() != Some("avro") {
            let (format, schema) = message_format(options, columns)?;
            return Ok((RecordFormat::Messages(format), schema));
        }
        let table = options.table();
        let columns = columns.filter(|columns| !columns.fields().is_empty()).ok_or_else(|| {
            QueryError::invalid(format!(
                "table `{table}` has no columns; declare the fields of its schema in CREATE TABLE"
            ))
        })?;
        let registry = registry.ok_or_else(|| {
            QueryError::invalid(format!(
                "table `{table}` has format = 'avro' and no `schema_registry.url`, where the schemas of its records are; add it"
            ))
        })?;
        Ok((RecordFormat::Avro(Arc::new(registry)), Arc::new(columns)))
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
        let (format, schema) = record_format(options, columns)?;
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
        // A connection profile may have one for sources.
        registry(options)?;
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
