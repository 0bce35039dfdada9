//! Errors with the codes of PostgreSQL (SQLSTATE).

use buzz_protocol::{ErrorKind, QueryError};

use crate::names::Names;
use crate::planner;
use crate::postgres::wire::WireError;

/// An error as it is sent to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PgError {
    /// Five characters that clients understand.
    pub(crate) code: &'static str,
    /// The message.
    pub(crate) message: String,
}

/// The end of a statement without success: an error that the client receives, or the loss of the client.
#[derive(Debug)]
pub(super) enum Stop {
    Error(PgError),
    Wire(WireError),
}

impl PgError {
    /// Makes an error.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Makes the error of a statement that is not written correctly.
    pub(crate) fn syntax(message: impl Into<String>) -> Self {
        Self::new("42601", message)
    }

    /// Makes the error of something that this server does not do.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new("0A000", message)
    }

    /// Makes the error of a statement that its client cancelled.
    pub(crate) fn cancelled() -> Self {
        Self::new("57014", "canceling statement due to user request")
    }

    /// Makes the error of a statement that ran longer than the setting `statement_timeout`.
    pub(crate) fn timed_out() -> Self {
        Self::new("57014", "canceling statement due to statement timeout")
    }

    /// Makes the error of `sql`, which failed with `error`. Of a wrong statement, finds out whether a table or column is
    /// missing.
    pub(crate) async fn of_query(error: QueryError, names: &Names, sql: &str) -> Self {
        let code = match error.kind {
            ErrorKind::Invalid => match planner::fault(names, sql).await {
                planner::Fault::Syntax => "42601",
                planner::Fault::Table => "42P01",
                planner::Fault::Column => "42703",
                planner::Fault::Other => "42000",
            },
            _ => return Self::from(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<QueryError> for PgError {
    fn from(error: QueryError) -> Self {
        let code = match error.kind {
            ErrorKind::Invalid => "42000",
            ErrorKind::Data => "XX001",
            ErrorKind::Unavailable => "57P03",
            ErrorKind::Limit => "53400",
            ErrorKind::Cancelled => "57014",
            ErrorKind::Internal => "XX000",
        };
        Self::new(code, error.to_string())
    }
}

impl From<PgError> for Stop {
    fn from(error: PgError) -> Self {
        Self::Error(error)
    }
}

impl From<PgError> for WireError {
    fn from(error: PgError) -> Self {
        Self::Protocol(error.message)
    }
}

impl From<QueryError> for Stop {
    fn from(error: QueryError) -> Self {
        Self::Error(error.into())
    }
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}
