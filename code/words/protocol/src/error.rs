//! The error type that all roles exchange.

use std::any::Any;
use std::fmt;

use arrow::error::ArrowError;
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

    /// Creates the error of a part of Buzz that panicked.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::internal(format!("a bug in Buzz stopped the query: {}", panic_message(panic)))
    }

    /// Returns the same error with `place` put before the places that it already names.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.origin = if self.origin.is_empty() { place.to_string() } else { format!("{place}, {}", self.origin) };
        self
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
pub(crate) fn from_io(source: &std::io::Error) -> QueryError {
    source.get_ref().and_then(|inner| known_cause(inner)).unwrap_or_else(|| QueryError::data(source.to_string()))
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
        cause = error.source();
    }
    None
}

pub(crate) fn from_external(source: &(dyn std::error::Error + Send + Sync + 'static)) -> QueryError {
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
