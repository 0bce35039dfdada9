//! Formats of an answer.

use std::fmt;
use std::str::FromStr;

use crate::{QueryError, Result};

/// Formats of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Table,
    /// An array of objects.
    Json,
    /// One object per line.
    Ndjson,
    /// Comma-separated values with a header.
    Csv,
    /// An Arrow IPC file.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Every format and its description, for `--help`.
pub const FORMATS: [(Format, &str); 6] = [
    (Format::Table, "A table for people"),
    (Format::Json, "An array of objects"),
    (Format::Ndjson, "One object per line"),
    (Format::Csv, "Comma-separated values with a header"),
    (Format::Arrow, "An Arrow IPC file"),
    (Format::Parquet, "A Parquet file"),
];

impl Format {
    /// Returns the name on the command line and in events.
    pub fn name(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Json => "json",
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Arrow => "arrow",
            Format::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self> {
        let found = FORMATS.iter().find(|(format, _)| format.name() == text);
        found.map(|(format, _)| *format).ok_or_else(|| {
            let all = FORMATS.map(|(format, _)| format.name()).join(", ");
            QueryError::invalid(format!("format `{text}` does not exist; use one of {all}"))
        })
    }
}
