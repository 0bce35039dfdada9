//! Names of tables and views that outlive a query, and the changes that clients make to them.

use std::fmt;

use async_trait::async_trait;
use buzz_protocol::{CatalogEntry, Result};
use serde::{Deserialize, Serialize};

/// A registry of names: the file of one machine, or the object of a stack.
#[async_trait]
pub trait Names: fmt::Debug + Send + Sync {
    /// Returns all entries, sorted by name. Their places are absolute. Opens no table.
    ///
    /// # Errors
    /// `Data` if the registry is damaged, `Unavailable` if its store does not respond.
    async fn list(&self) -> Result<Vec<CatalogEntry>>;

    /// Makes one change. Of several changes at the same time, none is lost.
    ///
    /// # Errors
    /// `Invalid` if the name exists already, or does not exist; the errors of opening an added table; `Data` if the
    /// registry is damaged, `Unavailable` if it cannot be written.
    async fn change(&self, change: NameChange) -> Result<NameChanged>;
}

/// A change of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NameChange {
    /// Adds a table or a view.
    Add {
        /// The entry. Its columns are recorded when it is added.
        entry: Box<CatalogEntry>,
        /// The action if the name exists.
        #[serde(default)]
        existing: Existing,
    },
    /// Removes a name. The files of a table stay.
    Drop {
        /// The name.
        name: String,
        /// The kind that the entry must have; `None` for any.
        #[serde(default)]
        kind: Option<NameKind>,
        /// True if it is not an error that the name does not exist.
        #[serde(default)]
        if_exists: bool,
    },
}

/// The action if an added name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// Fails.
    #[default]
    Fail,
    /// Replaces the entry. A table does not replace a view, nor a view a table.
    Replace,
    /// Keeps the entry.
    Keep,
}

/// The kind of a named entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameKind {
    /// A table.
    Table,
    /// A view.
    View,
}

impl NameKind {
    /// Returns the kind of `entry`.
    pub fn of(entry: &CatalogEntry) -> Self {
        if entry.is_view() { Self::View } else { Self::Table }
    }
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::View => "view",
        })
    }
}

/// The effect of a [`NameChange`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NameChanged {
    /// The effect as a sentence without a final stop, such as ``table `trips` was added: 19 columns``.
    pub message: String,
    /// Warnings about the table.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The answer to a request for all names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NameList {
    /// The entries, sorted by name.
    pub names: Vec<CatalogEntry>,
}
