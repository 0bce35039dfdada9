//! The answer to a question.

use buzz_protocol::{CatalogEntry, QueryId};
use serde::{Deserialize, Serialize};

use crate::{Rows, Summary};

/// The answer to a question.
#[derive(Debug)]
pub struct Answer {
    /// Id of the question.
    pub id: QueryId,
    /// Rows, or a plan.
    pub content: Content,
    /// Work done for the answer. Zero for a plan that was not run.
    pub summary: Summary,
}

/// Content of an answer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per query")]
pub enum Content {
    /// All rows of the answer, complete.
    Rows(Rows),
    /// The sink of the question has all rows.
    Passed,
    /// The plan as text, for `--explain` and `EXPLAIN`; with measurements for `EXPLAIN ANALYZE`.
    Plan(String),
}

impl Answer {
    /// Returns the rows, or an empty set of rows for a plan and for rows that the question's sink has.
    pub fn into_rows(self) -> Rows {
        match self.content {
            Content::Rows(rows) => rows,
            Content::Passed | Content::Plan(_) => Rows::new(),
        }
    }
}

/// Description of one table of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDescription {
    /// Name in the query.
    pub name: String,
    /// Catalog type, such as `DeltaLake`.
    pub kind: String,
    /// Place of the table.
    pub uri: String,
    /// Version of a Delta Lake table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Number of files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Names of the partition columns, in order.
    pub partition_columns: Vec<String>,
    /// Names and Arrow types of all columns, in order.
    pub columns: Vec<(String, String)>,
    /// Warnings about the table.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The first files, in the table's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_list: Vec<FileDescription>,
}

/// Description of one file of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDescription {
    /// Path within the store of the table.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Values of the partition columns as text, None for null.
    pub partition_values: Vec<Option<String>>,
    /// Rows that were deleted without rewriting the file.
    pub deleted_rows: u64,
}

impl TableDescription {
    /// Describes the table of `entry` without opening it: without files, and by the columns that were recorded, if any.
    pub fn recorded(entry: &CatalogEntry) -> Self {
        let columns = entry.columns.iter().flatten();
        Self {
            name: entry.name.clone(),
            kind: entry.kind.to_string(),
            uri: entry.uri.clone(),
            version: entry.version,
            files: 0,
            bytes: 0,
            partition_columns: Vec::new(),
            columns: columns.map(|column| (column.name.clone(), column.data_type.clone())).collect(),
            warnings: Vec::new(),
            file_list: Vec::new(),
        }
    }
}
