//! The error type that all roles exchange.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::time::Duration;

use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use crate::place::write_places;
use crate::store_error::from_object_store;
use crate::{Place, TaskIndex, identifier, nearest};

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

/// A failure as reported to the user: kind, message and places. It travels whole between all roles, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct QueryError {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// The message, in lower case and without a final stop: thing, state, remedy.
    pub message: String,
    /// The places of the failure, the outermost first, such as a step, its task and a file; empty if the message needs
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Place>,
    /// Time after which the service that failed accepts a retry, if it sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// True if operators or a machine needed more memory than they have; smaller tasks may succeed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_places(&self.places, f)?;
        if !self.places.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

impl QueryError {
    /// Creates an error of `kind` without a place.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), places: Vec::new(), retry_after: None, out_of_memory: false }
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

    /// Creates an error of kind `Limit` of operators or a machine that ran out of memory.
    pub fn out_of_memory(message: impl Into<String>) -> Self {
        Self { out_of_memory: true, ..Self::limit(message) }
    }

    /// Creates an error of kind `Cancelled`.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cancelled, message)
    }

    /// Creates an error of kind `Internal`: a bug in Buzz.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Creates the error of a part of Buzz that panicked.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::internal(format!("a bug in Buzz stopped the query: {}", panic_message(panic)))
    }

    /// Returns the same error with `place` put before the places that it already names.
    #[must_use]
    pub fn at(mut self, place: impl Into<Place>) -> Self {
        self.places.insert(0, place.into());
        self
    }

    /// Returns the same error at `task` of `step`.
    #[must_use]
    pub fn at_task(self, step: &str, task: TaskIndex) -> Self {
        self.at(Place::Task(task.0)).at(Place::Step(step.to_string()))
    }

    /// Returns the same error, for which the service accepts a retry after `wait`.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Returns the text of the error for a log. It leaves out the message of a kind whose messages may repeat values of
    /// rows or parameters.
    pub fn without_values(&self) -> String {
        match self.kind {
            ErrorKind::Invalid | ErrorKind::Data => {
                let error = Self { message: "the caller has the message".to_string(), ..self.clone() };
                error.to_string()
            }
            // Names of operators repeat expressions of the statement.
            _ if self.out_of_memory => {
                let message = "out of memory; the caller has the message".to_string();
                Self { message, ..self.clone() }.to_string()
            }
            _ => self.to_string(),
        }
    }

    /// Returns the step in which it failed.
    pub fn step(&self) -> Option<&str> {
        self.places.iter().find_map(|place| match place {
            Place::Step(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns the index of the task that failed, within its step.
    pub fn task(&self) -> Option<u32> {
        self.places.iter().find_map(|place| match place {
            Place::Task(task) => Some(*task),
            _ => None,
        })
    }

    /// Returns the name of the table or catalog entry that failed.
    pub fn table(&self) -> Option<&str> {
        self.places.iter().find_map(|place| match place {
            Place::Table(name) | Place::Catalog(name) | Place::File { table: Some(name), .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns the path of the file that failed.
    pub fn file(&self) -> Option<&str> {
        self.places.iter().find_map(|place| match place {
            Place::File { path, .. } => Some(path.as_str()),
            _ => None,
        })
    }

    /// Returns the address of the comb that failed.
    pub fn comb(&self) -> Option<&str> {
        self.places.iter().find_map(|place| match place {
            Place::Comb(address) => Some(address.as_str()),
            _ => None,
        })
    }
}

/// Returns the message of a panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
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

/// Converts an error of reading. Decompressors and streams wrap the error of the store.
pub(crate) fn from_io(source: &io::Error) -> QueryError {
    if crate::temporary::is_full(source) {
        return QueryError::not_spilled("rows that exceed the memory cannot be written", Some("memory_bytes"), source);
    }
    let cause = source.get_ref().and_then(|inner| known_cause(inner));
    cause.or_else(|| connection_error(source)).unwrap_or_else(|| QueryError::data(source.to_string()))
}

/// Returns the error of a connection, if `source` is one: a retry may succeed.
fn connection_error(source: &io::Error) -> Option<QueryError> {
    use io::ErrorKind::{
        AddrNotAvailable, BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
        NetworkDown, NetworkUnreachable, NotConnected, TimedOut,
    };
    let lost = matches!(
        source.kind(),
        AddrNotAvailable
            | BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | NotConnected
            | TimedOut
    );
    lost.then(|| QueryError::unavailable(source.to_string()))
}

/// Returns the first error in the chain of `source` that has a known type.
fn known_cause(source: &(dyn std::error::Error + 'static)) -> Option<QueryError> {
    let mut cause = Some(source);
    while let Some(error) = cause {
        if let Some(known) = error.downcast_ref::<QueryError>() {
            return Some(known.clone());
        }
        #[cfg(feature = "datafusion")]
        if let Some(inner) = error.downcast_ref::<datafusion::error::DataFusionError>() {
            return Some(crate::datafusion_error::from_datafusion(inner));
        }
        if let Some(inner) = error.downcast_ref::<ArrowError>() {
            return Some(from_arrow(inner));
        }
        if let Some(inner) = error.downcast_ref::<object_store::Error>() {
            return Some(from_object_store(inner));
        }
        if let Some(lost) = error.downcast_ref::<io::Error>().and_then(connection_error) {
            return Some(lost);
        }
        cause = error.source();
    }
    None
}

/// Converts an error of any type. Its kind comes from a known type in its chain of causes. An unknown error is a bug
/// and not retried, whatever its text is; statuses of gRPC are converted where they arrive (`buzz-exchange`).
pub(crate) fn from_external(source: &(dyn std::error::Error + Send + Sync + 'static)) -> QueryError {
    if let Some(known) = known_cause(source) {
        return known;
    }
    let message = source.to_string();
    #[cfg(feature = "datafusion")]
    if let Some(carried) = crate::datafusion_error::carried(&message) {
        return carried;
    }
    QueryError::internal(message)
}

pub(crate) fn from_arrow(error: &ArrowError) -> QueryError {
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

/// Returns "column `x` does not exist{place}" and a remedy: the most similar of `names`, or up to 20 of them.
pub fn column_not_found(name: &str, place: &str, names: &[&str]) -> String {
    let cased = names.iter().filter(|other| other.eq_ignore_ascii_case(name) && **other != name);
    let cased: BTreeSet<String> = cased.map(|other| format!("`{}`", identifier(other))).collect();
    let help = match nearest(name, names.iter().copied()) {
        Some(_) if !cased.is_empty() => {
            format!("; write it in double quotes: {}", cased.into_iter().collect::<Vec<_>>().join(" or "))
        }
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
    fn places_are_printed_from_the_outermost() {
        let file = Place::file_of("trips", "s3://lake/a.parquet");
        let error = QueryError::data("is truncated").at(file.clone()).at_task("m", TaskIndex(3));
        assert_eq!(error.to_string(), "step `m`, task 3: file `s3://lake/a.parquet` of table `trips`: is truncated");
        assert_eq!((error.step(), error.task(), error.table()), (Some("m"), Some(3), Some("trips")));
        assert_eq!((error.file(), error.comb()), (Some("s3://lake/a.parquet"), None));
        let error = QueryError::data("is truncated").at(file).at(Place::Step("m".to_string()));
        assert_eq!(error.to_string(), "step `m`, file `s3://lake/a.parquet` of table `trips`: is truncated");
        assert_eq!(QueryError::invalid("wrong").to_string(), "wrong");
    }

    #[test]
    fn every_field_survives_json() {
        let places = [
            Place::Query("query.json".to_string()),
            Place::Catalog("t".to_string()),
            Place::Step("m".to_string()),
            Place::Task(7),
            Place::Table("t".to_string()),
            Place::File { path: "a.csv".to_string(), table: None },
            Place::Comb("http://[::1]:3333/".to_string()),
            Place::from("version 3"),
        ];
        let mut error = QueryError::unavailable("slow down").retry_after(Some(Duration::from_millis(1500)));
        error.places = places.to_vec();
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<QueryError>(&json).unwrap(), error);
    }

    #[test]
    fn connection_error_is_unavailable_and_a_text_is_not() {
        let io = |kind| from_external(&io::Error::new(kind, "connection lost")).kind;
        assert_eq!(io(io::ErrorKind::ConnectionReset), ErrorKind::Unavailable);
        assert_eq!(io(io::ErrorKind::BrokenPipe), ErrorKind::Unavailable);
        assert_eq!(io(io::ErrorKind::TimedOut), ErrorKind::Unavailable);
        for text in ["connect failed", "h2 protocol error", "transport error", "status: Unavailable", "broken pipe"] {
            let unknown: Box<dyn std::error::Error + Send + Sync> = text.into();
            assert_eq!(from_external(unknown.as_ref()).kind, ErrorKind::Internal, "{text}");
        }
        assert_eq!(from_io(&io::Error::from(io::ErrorKind::UnexpectedEof)).kind, ErrorKind::Data);
    }
}
