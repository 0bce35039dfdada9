//! The one error that crosses role boundaries.

use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};

use crate::nearest;
use crate::store_error::from_object_store;

/// Shorthand for results that fail with a [`QueryError`].
pub type Result<T, E = QueryError> = std::result::Result<T, E>;

/// What the reader of an error can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Change the query.
    Invalid,
    /// The table is not as it should be.
    Data,
    /// Try again: a worker, a comb or a store did not answer.
    Unavailable,
    /// Raise the bound that the message names, or ask for less.
    Limit,
    /// Somebody stopped it.
    Cancelled,
    /// A bug here.
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A failure on its way to the user: its kind, a message that names the thing, and where it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct QueryError {
    /// What the reader can do.
    pub kind: ErrorKind,
    /// Lower case, without a final stop, naming the thing.
    pub message: String,
    /// The place, as `step nyc_taxi_map` or `task 3 of step nyc_taxi_map`; empty when the message says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.origin, self.message) }
    }
}

impl QueryError {
    /// An error of `kind`, with no place yet.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), origin: String::new() }
    }

    /// The query is wrong: its writer can mend it.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// The table is not as it should be.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// Something did not answer; trying again may help.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// A bound was hit; the message names it and the option that raises it.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Somebody stopped it.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cancelled, message)
    }

    /// A bug in Buzz.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The same error, said to have happened at `place`, before the places within it that are known.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.origin = if self.origin.is_empty() { place.to_string() } else { format!("{place}, {}", self.origin) };
        self
    }

    /// This error as one of DataFusion's, to travel through its streams. [`QueryError::from`] gets it back whole
    /// within a process; of what goes from comb to comb, `datafusion-distributed` keeps the text, and contexts: so the kind
    /// travels as one.
    pub fn into_datafusion(self) -> DataFusionError {
        match self.kind {
            ErrorKind::Limit => DataFusionError::ResourcesExhausted(self.to_string()),
            kind => DataFusionError::External(Box::new(self)).context(format!("{KIND}{kind}")),
        }
    }
}

/// Before the kind of an error, in a context of DataFusion's.
const KIND: &str = "buzz kind ";

/// The kind that [`QueryError::into_datafusion`] wrote as `context`.
fn kind_of(context: &str) -> Option<ErrorKind> {
    let kind = context.strip_prefix(KIND)?;
    let kinds =
        [ErrorKind::Invalid, ErrorKind::Data, ErrorKind::Unavailable, ErrorKind::Cancelled, ErrorKind::Internal];
    kinds.into_iter().find(|known| known.to_string() == kind)
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        from_datafusion(&error)
    }
}

impl From<ArrowError> for QueryError {
    fn from(error: ArrowError) -> Self {
        from_arrow(&error)
    }
}

impl From<object_store::Error> for QueryError {
    fn from(error: object_store::Error) -> Self {
        from_object_store(&error)
    }
}

fn from_datafusion(error: &DataFusionError) -> QueryError {
    match error {
        DataFusionError::Context(context, inner) => {
            let known = from_datafusion(inner);
            match kind_of(context) {
                Some(kind) => QueryError { kind, ..known },
                None => known,
            }
        }
        DataFusionError::Diagnostic(_, inner) => from_datafusion(inner),
        DataFusionError::Shared(inner) => from_datafusion(inner),
        DataFusionError::Collection(errors) => {
            errors.first().map_or_else(|| QueryError::internal("an empty list of errors"), from_datafusion)
        }
        DataFusionError::External(source) => from_external(source.as_ref()),
        DataFusionError::SchemaError(schema, _) => from_schema_error(schema),
        #[cfg(feature = "sql")]
        DataFusionError::SQL(parser, _) => QueryError::invalid(format!(
            "SQL syntax: {}",
            plain(&parser.to_string()).trim_start_matches("sql parser error: ")
        )),
        DataFusionError::Plan(message) | DataFusionError::Configuration(message) => QueryError::invalid(plain(message)),
        DataFusionError::NotImplemented(message) => {
            QueryError::invalid(format!("not supported by the SQL engine: {}", plain(message)))
        }
        DataFusionError::ResourcesExhausted(message) => QueryError::limit(plain(message)),
        DataFusionError::ParquetError(source) => QueryError::data(format!("not readable Parquet: {source}")),
        DataFusionError::ObjectStore(source) => from_object_store(source),
        DataFusionError::IoError(source) => from_io(source),
        DataFusionError::ArrowError(source, _) => from_arrow(source),
        DataFusionError::Execution(message) => from_execution(&plain(message)),
        DataFusionError::ExecutionJoin(source) if source.is_cancelled() => {
            QueryError::cancelled("a task was cancelled")
        }
        other => QueryError::internal(plain(&other.strip_backtrace())),
    }
}

/// The part of DataFusion's message that a user can act on: no backtrace, no list of every signature that was tried, no
/// request to report a bug.
fn plain(message: &str) -> String {
    let useful = message.find("No function matches").map_or(message, |at| &message[at..]);
    let mut lines = useful.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let whole =
        if first.ends_with(':') { format!("{first} {}", lines.next().unwrap_or_default()) } else { first.into() };
    let mut line = whole.as_str();
    for prefix in ["Internal error: ", "Error during planning: ", "Execution error: "] {
        line = line.trim_start_matches(prefix);
    }
    line.trim_end_matches('.').to_string()
}

/// `Execution` is DataFusion's word for what a value made impossible (a cast, an overflow), and also for a few things
/// that come from files.
fn from_execution(message: &str) -> QueryError {
    // What is further behind may be a value.
    let begins = |words: &[&str]| words.iter().any(|words| message.starts_with(words));
    if begins(&["Parquet", "Cannot cast column"]) {
        QueryError::data(message)
    } else if begins(&["transport error", "h2 protocol error", "connection ", "broken pipe"]) {
        QueryError::unavailable(message)
    } else {
        QueryError::invalid(message)
    }
}

/// An error of reading; decompressors and streams carry those of the store within.
fn from_io(source: &std::io::Error) -> QueryError {
    source.get_ref().and_then(|inner| known_cause(inner)).unwrap_or_else(|| QueryError::data(source.to_string()))
}

/// The first error in the chain of `source` whose kind is known.
fn known_cause(source: &(dyn std::error::Error + 'static)) -> Option<QueryError> {
    let mut cause = Some(source);
    while let Some(error) = cause {
        if let Some(known) = error.downcast_ref::<QueryError>() {
            return Some(known.clone());
        }
        if let Some(inner) = error.downcast_ref::<DataFusionError>() {
            return Some(from_datafusion(inner));
        }
        if let Some(inner) = error.downcast_ref::<ArrowError>() {
            return Some(from_arrow(inner));
        }
        if let Some(inner) = error.downcast_ref::<object_store::Error>() {
            return Some(from_object_store(inner));
        }
        cause = error.source();
    }
    None
}

fn from_external(source: &(dyn std::error::Error + Send + Sync + 'static)) -> QueryError {
    if let Some(known) = known_cause(source) {
        return known;
    }
    let message = source.to_string();
    // datafusion-distributed has no typed "worker lost": what is left here comes from tonic and hyper.
    if ["status:", "transport", "h2", "connect", "broken pipe"].iter().any(|word| message.contains(word)) {
        QueryError::unavailable(message)
    } else {
        QueryError::internal(message)
    }
}

fn from_arrow(error: &ArrowError) -> QueryError {
    match error {
        ArrowError::ExternalError(source) => from_external(source.as_ref()),
        ArrowError::ParquetError(message) => QueryError::data(format!("not readable Parquet: {message}")),
        ArrowError::IoError(_, source) => from_io(source),
        ArrowError::IpcError(_) | ArrowError::CDataInterface(_) | ArrowError::SchemaError(_) => {
            QueryError::internal(error.to_string())
        }
        ArrowError::DivideByZero => QueryError::invalid("division by zero"),
        other => QueryError::invalid(other.to_string()),
    }
}

fn from_schema_error(error: &SchemaError) -> QueryError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            let relation = field.relation.as_ref().or_else(|| {
                let first = valid_fields.first()?.relation.as_ref()?;
                valid_fields.iter().all(|column| column.relation.as_ref() == Some(first)).then_some(first)
            });
            let place = relation.map(|table| format!(" in table `{table}`")).unwrap_or_default();
            QueryError::invalid(column_not_found(&field.name, &place, &names))
        }
        other => QueryError::invalid(other.to_string()),
    }
}

/// "column `x` is not{place}", with the nearest of `names`, or all of them when few.
pub fn column_not_found(name: &str, place: &str, names: &[&str]) -> String {
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("; the nearest is `{near}`"),
        None if names.is_empty() => String::new(),
        None => {
            let mut shown: Vec<String> = names.iter().take(20).map(|name| format!("`{name}`")).collect();
            if names.len() > shown.len() {
                shown.push("…".to_string());
            }
            format!("; there are {}", shown.join(", "))
        }
    };
    format!("column `{name}` is not{}{help}", if place.is_empty() { " there" } else { place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_error_survives_a_trip_through_datafusion() {
        let born = QueryError::data("file `a.parquet` is truncated").at("task 3");
        let arrow = ArrowError::ExternalError(Box::new(born.clone().into_datafusion()));
        let wrapped = DataFusionError::ArrowError(Box::new(arrow), None).context("while scanning");
        assert_eq!(QueryError::from(wrapped), born);
    }

    #[test]
    fn a_kind_outlives_the_error_that_had_it() {
        // As datafusion-distributed sends what a comb fails with.
        let over_the_wire = |error: DataFusionError| match error {
            DataFusionError::Context(context, inner) => {
                DataFusionError::External(inner.to_string().trim_start_matches("External error: ").into())
                    .context(context)
            }
            other => other,
        };
        let born = QueryError::unavailable("this comb was told to stop");
        assert_eq!(QueryError::from(over_the_wire(born.clone().into_datafusion())), born);
        let nested = over_the_wire(QueryError::data("a file is cut off").into_datafusion()).context("Join Error");
        assert_eq!(QueryError::from(nested).kind, ErrorKind::Data);
    }

    #[test]
    fn values_do_not_decide_what_an_error_is() {
        let failed = |message: &str| QueryError::from(DataFusionError::Execution(message.to_string())).kind;
        assert_eq!(failed("Error parsing timestamp from 'connection 1'"), ErrorKind::Invalid);
        assert_eq!(failed("Date part 'Parquet' not supported"), ErrorKind::Invalid);
        assert_eq!(failed("connection reset by peer"), ErrorKind::Unavailable);
    }

    #[test]
    fn limits_stay_limits() {
        let error = QueryError::limit("inbox is full").into_datafusion();
        assert_eq!(QueryError::from(error).kind, ErrorKind::Limit);
    }
}
