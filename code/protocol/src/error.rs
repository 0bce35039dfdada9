//! The error type that all roles exchange.

use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};

use crate::nearest;
use crate::store_error::from_object_store;

/// Shorthand for results that fail with a [`QueryError`].
pub type Result<T, E = QueryError> = std::result::Result<T, E>;

/// The kind of an error, which determines what its reader can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Change the query.
    Invalid,
    /// Repair the table: its files or its log are missing, unreadable or inconsistent.
    Data,
    /// Try again: an HBee, a comb or a store did not respond.
    Unavailable,
    /// Raise the limit that the message names, or reduce the work of the query.
    Limit,
    /// Nothing to do: the query was cancelled.
    Cancelled,
    /// Report it: a bug in Buzz.
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A failure as reported to the user: kind, message and place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct QueryError {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// The message, in lower case and without a final stop: thing, state, remedy.
    pub message: String,
    /// The place, such as `step nyc_taxi_map` or `task 3 of step nyc_taxi_map`; empty if the message needs none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.origin, self.message) }
    }
}

impl QueryError {
    /// Creates an error of `kind` without a place.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), origin: String::new() }
    }

    /// Creates an error of kind `Invalid`: the query must be changed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Creates an error of kind `Data`: the table is missing, unreadable or inconsistent.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// Creates an error of kind `Unavailable`: a service did not respond, and a retry may succeed.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Creates an error of kind `Limit`. The message names the limit and the option that raises it.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Creates an error of kind `Cancelled`.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cancelled, message)
    }

    /// Creates an error of kind `Internal`: a bug in Buzz.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Returns the same error with `place` put before the places that it already names.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.origin = if self.origin.is_empty() { place.to_string() } else { format!("{place}, {}", self.origin) };
        self
    }

    /// Converts this error into one of DataFusion's, to pass it through streams. Within a process,
    /// [`QueryError::from`] restores it unchanged. Between combs, `datafusion-distributed` keeps only the text and the
    /// contexts, so the kind is also sent as a context.
    pub fn into_datafusion(self) -> DataFusionError {
        match self.kind {
            ErrorKind::Limit => DataFusionError::ResourcesExhausted(self.to_string()),
            kind => DataFusionError::External(Box::new(self)).context(format!("{KIND}{kind}")),
        }
    }
}

/// Prefix of the kind of an error in a DataFusion context.
const KIND: &str = "buzz kind ";

/// Parses the kind that [`QueryError::into_datafusion`] wrote as `context`.
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
            errors.first().map_or_else(|| QueryError::internal("DataFusion returned no error"), from_datafusion)
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

/// Returns the part of DataFusion's message that helps a user. Removes the backtrace, the list of all signatures tried
/// and the request to report a bug.
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

/// Converts the message of an `Execution` error. DataFusion uses it for values that make a step impossible (a cast, an
/// overflow), and also for some errors of files and connections.
fn from_execution(message: &str) -> QueryError {
    // Only the start is compared: the rest of the message may contain values.
    let begins = |words: &[&str]| words.iter().any(|words| message.starts_with(words));
    if begins(&["Parquet", "Cannot cast column"]) {
        QueryError::data(message)
    } else if begins(&["transport error", "h2 protocol error", "connection ", "broken pipe"]) {
        QueryError::unavailable(message)
    } else {
        QueryError::invalid(message)
    }
}

/// Converts an error of reading. Decompressors and streams wrap the error of the store.
fn from_io(source: &std::io::Error) -> QueryError {
    source.get_ref().and_then(|inner| known_cause(inner)).unwrap_or_else(|| QueryError::data(source.to_string()))
}

/// Returns the first error in the chain of `source` that has a known type.
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
    // datafusion-distributed has no typed error for a lost worker: the remaining errors come from tonic and hyper.
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

/// Returns "column `x` does not exist{place}" and a remedy: the most similar of `names`, or up to 20 of them.
pub fn column_not_found(name: &str, place: &str, names: &[&str]) -> String {
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if names.is_empty() => String::new(),
        None => {
            let mut shown: Vec<String> = names.iter().take(20).map(|name| format!("`{name}`")).collect();
            if names.len() > shown.len() {
                shown.push("…".to_string());
            }
            format!("; available: {}", shown.join(", "))
        }
    };
    format!("column `{name}` does not exist{place}{help}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_error_survives_conversion_to_datafusion() {
        let born = QueryError::data("file `a.parquet` is truncated").at("task 3");
        let arrow = ArrowError::ExternalError(Box::new(born.clone().into_datafusion()));
        let wrapped = DataFusionError::ArrowError(Box::new(arrow), None).context("while scanning");
        assert_eq!(QueryError::from(wrapped), born);
    }

    #[test]
    fn error_kind_survives_transfer_between_combs() {
        // Converts an error the way datafusion-distributed does between combs.
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
    fn value_in_a_message_does_not_change_the_kind() {
        let failed = |message: &str| QueryError::from(DataFusionError::Execution(message.to_string())).kind;
        assert_eq!(failed("Error parsing timestamp from 'connection 1'"), ErrorKind::Invalid);
        assert_eq!(failed("Date part 'Parquet' not supported"), ErrorKind::Invalid);
        assert_eq!(failed("connection reset by peer"), ErrorKind::Unavailable);
    }

    #[test]
    fn limit_error_keeps_its_kind() {
        let error = QueryError::limit("inbox is full").into_datafusion();
        assert_eq!(QueryError::from(error).kind, ErrorKind::Limit);
    }
}
