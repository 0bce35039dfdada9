//! The places that an error names, from the query down to a file.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a query, in its tables or in its machines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A query text: its file, or the field of an event.
    Query(String),
    /// The catalog entry with this name.
    Catalog(String),
    /// The step with this name.
    Step(String),
    /// A task of the step that is named before it.
    Task(u32),
    /// The table with this name.
    Table(String),
    /// A file of a table.
    File {
        /// Path or URI of the file.
        path: String,
        /// Name of the table, if the places before it do not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
    },
    /// The comb at this address.
    Comb(String),
    /// Any other place, as it is printed.
    Other(String),
}

impl Place {
    /// Returns the place of the file at `path` of table `table`.
    pub fn file_of(table: &str, path: impl Into<String>) -> Self {
        Self::File { path: path.into(), table: Some(table.to_string()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(text) | Self::Other(text) => f.write_str(text),
            Self::Catalog(name) => write!(f, "catalog `{name}`"),
            Self::Step(name) => write!(f, "step `{name}`"),
            Self::Task(task) => write!(f, "task {task}"),
            Self::Table(name) => write!(f, "table `{name}`"),
            Self::File { path, table: None } => write!(f, "file `{path}`"),
            Self::File { path, table: Some(table) } => write!(f, "file `{path}` of table `{table}`"),
            Self::Comb(address) => write!(f, "comb {address}"),
        }
    }
}

impl From<String> for Place {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl From<&str> for Place {
    fn from(text: &str) -> Self {
        Self::Other(text.to_string())
    }
}

/// Writes `places`, the outermost first. A file that a task reads follows a colon: it is the subject of the message.
pub(crate) fn write_places(places: &[Place], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut before: Option<&Place> = None;
    for place in places {
        match (before, place) {
            (None, _) => {}
            (Some(Place::Task(_)), Place::File { .. }) => f.write_str(": ")?,
            _ => f.write_str(", ")?,
        }
        write!(f, "{place}")?;
        before = Some(place);
    }
    Ok(())
}
