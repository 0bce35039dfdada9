//! The catalog entry of a table: its place, and how it is read.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::{Compression, CsvFormat, Place, QueryError, Result};

/// The catalog entry of one table, as written in the query. Fields that its type does not use are ignored with a
/// warning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogEntry {
    /// The table name that steps use.
    pub name: String,
    /// The kind of table, which decides how its files are found.
    #[serde(default, rename = "type")]
    pub kind: CatalogType,
    /// The place of the table; empty for a `View`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// `View`: the query whose rows the view has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// `DeltaLake`: the version to read; by default the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// `DeltaLake`: reads the newest version at or before this time, such as `2024-01-31T12:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Folders: the partition columns, written in paths such as `year=2024`. By default they are found in the paths;
    /// an empty list means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_columns: Option<Vec<ColumnSpec>>,
    /// Folders: the columns in the files. By default they are read from the footers of `Parquet` files, and inferred
    /// from the first megabytes of `Csv` and `Json` files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Vec<ColumnSpec>>,
    /// `Csv`: true if each file begins with the names of its columns; by default inferred from the first lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// `Csv`: the separator of values; by default inferred from the first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// `Csv`: the character around a value that contains delimiters; by default `"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// `Csv`: the character before a quote inside a quoted value. By default such a quote is doubled, unless the first
    /// lines can only be parsed with a backslash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escape: Option<String>,
    /// `Csv`: the first character of lines to skip; by default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// `Csv`: the text that means null, in addition to the empty text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<String>,
    /// `Csv`: true (default) if quoted values may contain line breaks. `Json`: true if objects may span several lines;
    /// by default detected. If true, one task reads a whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newlines_in_values: Option<bool>,
    /// `Csv` and `Json`: the encoding of the text, by its label in the WHATWG encoding standard, such as `utf-16le` or
    /// `windows-1252`. By default UTF-8, or the encoding that a byte order mark tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// `Csv` and `Json`: the compression of the files; by default given by the end of their names (`.gz`, `.zst`,
    /// `.bz2`, `.xz`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Connection settings of its bucket. They override those of the environment.
    #[serde(default, skip_serializing_if = "BucketOptions::is_empty")]
    pub storage: BucketOptions,
    /// The columns that the table had when it was added to a registry of names, with partition columns. A statement that
    /// lists tables takes them from here and does not open the table; one that reads the table opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<ColumnSpec>>,
}

/// Connection settings of an S3 bucket. Each `None` falls back to the `AWS_` variables of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketOptions {
    /// The region. If it is unset, Buzz looks it up in S3.
    pub region: Option<String>,
    /// The address of an S3-compatible service, such as `http://localhost:9000`.
    pub endpoint: Option<String>,
    /// True if the bucket's name is part of the path instead of the host.
    pub path_style: Option<bool>,
    /// True if requests are not signed, for a public bucket.
    pub anonymous: Option<bool>,
    /// True if the reader pays for the requests and the transfer.
    pub requester_pays: Option<bool>,
}

impl BucketOptions {
    /// Returns true if no option is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns these options, with unset ones taken from `others`.
    #[must_use]
    pub fn or(&self, others: &BucketOptions) -> BucketOptions {
        BucketOptions {
            region: self.region.clone().or_else(|| others.region.clone()),
            endpoint: self.endpoint.clone().or_else(|| others.endpoint.clone()),
            path_style: self.path_style.or(others.path_style),
            anonymous: self.anonymous.or(others.anonymous),
            requester_pays: self.requester_pays.or(others.requester_pays),
        }
    }
}

/// The end of a message about a URI for which [`without_user_info`] returns a text.
pub const NO_USER_INFO: &str = "contains a user name, keys or a port; set keys with the `AWS_` variables, a profile or a role, and a port with \
     `storage.endpoint`";

/// Returns `uri` without what follows its scheme if it contains a user name, keys or a port, as in `s3://KEY:SECRET@bucket`.
/// Keys may contain slashes, so nothing after the scheme can be shown. Returns `None` for every other URI.
pub fn without_user_info(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_bucket = matches!(scheme, "s3" | "s3a");
    let has_keys = authority.contains('@') || authority.contains(':') && (is_bucket || rest.contains('@'));
    has_keys.then(|| format!("{scheme}://***"))
}

/// The kind of a table, which decides how its files are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CatalogType {
    /// Detected from the files: a folder with a `_delta_log` is `DeltaLake`, otherwise file name extensions decide.
    #[default]
    Auto,
    /// A Delta Lake table.
    DeltaLake,
    /// A Parquet file, a folder of them, or a glob.
    Parquet,
    /// A CSV file, a folder of them, or a glob.
    Csv,
    /// A file with one JSON object per line, a folder of them, or a glob.
    Json,
    /// A list of files: one of three built-in names, or the path of a JSON manifest.
    Static,
    /// A stream of rows that were pushed: its folder, `<place>/sources/<name>`. Its rows are those that its log counts.
    Stream,
    /// A query over other entries, which statements read like a table.
    View,
}

impl fmt::Display for CatalogType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A column by name and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSpec {
    /// The name.
    pub name: String,
    /// The type as Arrow prints it: `Utf8`, `Int64`, `Timestamp(µs)`, `Decimal128(10, 2)`.
    #[serde(rename = "type")]
    pub data_type: String,
}

impl ColumnSpec {
    /// Returns the column as a nullable field.
    ///
    /// # Errors
    /// `Invalid` if the type does not exist.
    pub fn field(&self) -> Result<Field> {
        let data_type = DataType::from_str(&self.data_type).map_err(|_| {
            QueryError::invalid(format!(
                "column `{}` has the unknown type `{}`; use an Arrow type such as `Utf8` or `Int64`",
                self.name, self.data_type
            ))
        })?;
        Ok(Field::new(&self.name, data_type, true))
    }
}

impl CatalogEntry {
    /// Creates the entry of a table from its name, type and URI; all other fields are unset.
    pub fn new(name: impl Into<String>, kind: CatalogType, uri: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            uri: uri.into(),
            sql: None,
            version: None,
            timestamp: None,
            partition_columns: None,
            schema: None,
            header: None,
            delimiter: None,
            quote: None,
            escape: None,
            comment: None,
            null: None,
            newlines_in_values: None,
            compression: None,
            encoding: None,
            storage: BucketOptions::default(),
            columns: None,
        }
    }

    /// Creates the entry of a view from its name and its query.
    pub fn view(name: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { sql: Some(sql.into()), ..Self::new(name, CatalogType::View, "") }
    }

    /// Returns true if the entry is a view.
    pub fn is_view(&self) -> bool {
        self.kind == CatalogType::View
    }

    /// Checks that a view has a query and that any other entry has a place, without keys in it.
    ///
    /// # Errors
    /// `Invalid`, naming the entry.
    pub fn check(&self) -> Result<()> {
        let wrong = match (self.is_view(), self.uri.is_empty(), &self.sql) {
            (true, _, None) => "a view has no `sql`; set it to a SELECT",
            (true, false, Some(_)) => "a view has no `uri`; remove it, or the type",
            (false, true, None) => "`uri` is missing or empty; set it to the place of the table",
            (false, _, Some(_)) => "only an entry of type View has `sql`; remove it, or set the type",
            (true, true, Some(_)) | (false, false, None) => return self.check_place(),
        };
        Err(QueryError::invalid(wrong).at(Place::Catalog(self.name.clone())))
    }

    /// Checks that neither the URI nor the endpoint contains keys, which messages and logs would repeat.
    ///
    /// # Errors
    /// `Invalid`, without the keys.
    pub fn check_place(&self) -> Result<()> {
        for (field, uri) in [("uri", Some(&self.uri)), ("storage.endpoint", self.storage.endpoint.as_ref())] {
            if let Some(redacted) = uri.and_then(|uri| without_user_info(uri)) {
                let error = QueryError::invalid(format!("`{field}`, which is `{redacted}`, {NO_USER_INFO}"));
                return Err(error.at(Place::Catalog(self.name.clone())));
            }
        }
        Ok(())
    }

    /// Returns the CSV format that the entry defines. An unset header or delimiter is the default here; the catalog
    /// infers it from the files.
    ///
    /// # Errors
    /// `Invalid` if a delimiter, quote, escape or comment is not one ASCII character.
    pub fn csv_format(&self) -> Result<CsvFormat> {
        let defaults = CsvFormat::default();
        Ok(CsvFormat {
            header: self.header.unwrap_or(defaults.header),
            delimiter: one_byte("delimiter", self.delimiter.as_deref())?.unwrap_or(defaults.delimiter),
            quote: one_byte("quote", self.quote.as_deref())?.unwrap_or(defaults.quote),
            escape: one_byte("escape", self.escape.as_deref())?,
            comment: one_byte("comment", self.comment.as_deref())?,
            null: self.null.clone(),
            newlines_in_values: self.newlines_in_values.unwrap_or(defaults.newlines_in_values),
            compression: self.compression,
            encoding: self.encoding.clone(),
        })
    }

    /// Returns a warning for each field that is set but not used by a catalog of this type.
    pub fn unused_field_warnings(&self) -> Vec<String> {
        let warning = |field| format!("catalog `{}`: `{field}` has no effect on type {}", self.name, self.kind);
        self.unused_fields().into_iter().map(warning).collect()
    }

    fn unused_fields(&self) -> Vec<&'static str> {
        use CatalogType::{Csv, DeltaLake, Json, Parquet, Stream};
        let fields: [(&'static str, bool, &[CatalogType]); 13] = [
            ("version", self.version.is_some(), &[DeltaLake]),
            ("timestamp", self.timestamp.is_some(), &[DeltaLake]),
            ("partition_columns", self.partition_columns.is_some(), &[Parquet, Csv, Json]),
            ("schema", self.schema.is_some(), &[Csv, Json, Parquet, Stream]),
            ("header", self.header.is_some(), &[Csv]),
            ("delimiter", self.delimiter.is_some(), &[Csv]),
            ("quote", self.quote.is_some(), &[Csv]),
            ("escape", self.escape.is_some(), &[Csv]),
            ("comment", self.comment.is_some(), &[Csv]),
            ("null", self.null.is_some(), &[Csv]),
            ("newlines_in_values", self.newlines_in_values.is_some(), &[Csv, Json]),
            ("encoding", self.encoding.is_some(), &[Csv, Json]),
            ("compression", self.compression.is_some(), &[Csv, Json]),
        ];
        let of_kind = |kinds: &[CatalogType]| self.kind == CatalogType::Auto || kinds.contains(&self.kind);
        let unused = fields.into_iter().filter(|(_, set, kinds)| *set && !of_kind(kinds));
        unused.map(|(field, _, _)| field).collect()
    }
}

/// Splits a value of `--table`, such as `uri@v12` or `uri@2024-01-31T12:00:00Z`, into URI, version and timestamp.
/// Any other `@` belongs to the URI.
pub fn split_version(text: &str) -> (&str, Option<u64>, Option<&str>) {
    let Some((uri, suffix)) = text.rsplit_once('@') else {
        return (text, None, None);
    };
    if let Some(Ok(version)) = suffix.strip_prefix('v').map(str::parse) {
        return (uri, Some(version), None);
    }
    let bytes = suffix.as_bytes();
    let dated = bytes.len() >= 10 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-' && bytes[7] == b'-';
    if dated && !suffix.contains('/') { (uri, None, Some(suffix)) } else { (text, None, None) }
}

fn one_byte(field: &str, text: Option<&str>) -> Result<Option<u8>> {
    match text.map(|text| (text, text.as_bytes())) {
        None => Ok(None),
        Some((_, [byte])) if byte.is_ascii() => Ok(Some(*byte)),
        Some(("\\t", _)) => Ok(Some(b'\t')),
        Some((text, _)) => {
            Err(QueryError::invalid(format!("`{field}` is `{text}`; use one ASCII character such as `;` or `\\t`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_fields_set_the_csv_format() {
        let json = r#"{"name": "t", "type": "Csv", "uri": "t.csv", "delimiter": "\t", "header": false, "null": "NA",
                       "version": 3, "compression": "zstd"}"#;
        let entry: CatalogEntry = serde_json::from_str(json).unwrap();
        let csv = entry.csv_format().unwrap();
        assert_eq!((csv.delimiter, csv.header, csv.null.as_deref()), (b'\t', false, Some("NA")));
        assert_eq!(entry.unused_fields(), ["version"]);
        let view = CatalogEntry::view("v", "SELECT 1");
        assert!(view.check().is_ok() && entry.check().is_ok());
        let no_query = CatalogEntry { sql: None, ..view.clone() }.check().unwrap_err().to_string();
        assert_eq!(no_query, "catalog `v`: a view has no `sql`; set it to a SELECT");
        let two = CatalogEntry { uri: "t.csv".to_string(), ..view.clone() };
        assert!(two.check().unwrap_err().to_string().contains("a view has no `uri`"));
        let odd = CatalogEntry { sql: view.sql.clone(), ..entry.clone() }.check().unwrap_err().to_string();
        assert!(odd.contains("only an entry of type View has `sql`"), "{odd}");
        let odd = CatalogEntry { quote: Some("''".to_string()), ..entry };
        let error = odd.csv_format().unwrap_err().to_string();
        assert_eq!(error, "`quote` is `''`; use one ASCII character such as `;` or `\\t`");
    }

    #[test]
    fn version_follows_the_last_at_sign() {
        assert_eq!(split_version("s3://b/t@v12"), ("s3://b/t", Some(12), None));
        assert_eq!(split_version("t@2024-01-31T12:00:00Z"), ("t", None, Some("2024-01-31T12:00:00Z")));
        assert_eq!(split_version("t@2024-01-31"), ("t", None, Some("2024-01-31")));
        assert_eq!(split_version("me@home/t@latest"), ("me@home/t@latest", None, None));
        assert_eq!(split_version("t@2024-01-31/x"), ("t@2024-01-31/x", None, None));
    }
}
