//! A table as a query names it: where it is, and what its files are like where they do not say so themselves.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::{QueryError, Result};

/// A table by name, as the query gives it. Fields that its type does not use are ignored with a warning.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CatalogEntry {
    /// The table name that steps use.
    pub name: String,
    /// How its files are found.
    #[serde(rename = "type")]
    pub kind: CatalogType,
    /// Where it is.
    pub uri: String,
    /// `DeltaLake`: the version to read; the newest by default.
    #[serde(default)]
    pub version: Option<u64>,
    /// `DeltaLake`: reads the newest version that is not younger than this time, as `2024-01-31T12:00:00Z`.
    #[serde(default)]
    pub timestamp: Option<String>,
    /// Folders: the columns that stand in paths as `year=2024`. Found there by default; an empty list means none.
    #[serde(default)]
    pub partition_columns: Option<Vec<ColumnSpec>>,
    /// Folders: the columns in the files. By default `Parquet` files say them, and for `Csv` and `Json` they are inferred
    /// from the first megabytes.
    #[serde(default)]
    pub schema: Option<Vec<ColumnSpec>>,
    /// `Csv`: whether each file begins with the names of its columns; by default seen from the first lines.
    #[serde(default)]
    pub header: Option<bool>,
    /// `Csv`: what stands between values; by default seen from the first line.
    #[serde(default)]
    pub delimiter: Option<String>,
    /// `Csv`: what stands around a value that holds delimiters; `"` by default.
    #[serde(default)]
    pub quote: Option<String>,
    /// `Csv`: what stands before a quote inside a quoted value; by default such a quote is doubled, unless the first lines
    /// only make sense with a backslash.
    #[serde(default)]
    pub escape: Option<String>,
    /// `Csv`: lines that begin so are skipped; none by default.
    #[serde(default)]
    pub comment: Option<String>,
    /// `Csv`: the text that means null, beside the empty one.
    #[serde(default)]
    pub null: Option<String>,
    /// `Csv`: whether quoted values may hold line breaks. Then a file is read by one task; true by default.
    #[serde(default)]
    pub newlines_in_values: Option<bool>,
    /// `Csv` and `Json`: how the files are compressed; by default as their names end (`.gz`, `.zst`, `.bz2`, `.xz`).
    #[serde(default)]
    pub compression: Option<Compression>,
    /// How its bucket is reached, where the environment says it otherwise or not at all.
    #[serde(default)]
    pub storage: BucketOptions,
}

/// How a bucket of S3 is reached. What is None is as the `AWS_` variables of the environment say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketOptions {
    /// The region; found by asking S3 where nothing says it.
    pub region: Option<String>,
    /// The address of a service that speaks as S3 does, as `http://localhost:9000`.
    pub endpoint: Option<String>,
    /// Whether the bucket's name stands in the path instead of the host.
    pub path_style: Option<bool>,
    /// Whether requests are not signed, as for a public bucket.
    pub anonymous: Option<bool>,
    /// Whether the reader pays for the requests and the transfer.
    pub requester_pays: Option<bool>,
}

impl BucketOptions {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These options, and `others` where they say nothing.
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

/// How a catalog finds its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum CatalogType {
    /// A Delta Lake table.
    DeltaLake,
    /// A Parquet file, a folder of them, or a glob.
    Parquet,
    /// A CSV file, a folder of them, or a glob.
    Csv,
    /// A file with one JSON object a line, a folder of them, or a glob.
    Json,
    /// A list of files: one of three built-in names, or the path of a JSON manifest.
    Static,
}

impl fmt::Display for CatalogType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A column by name and type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ColumnSpec {
    /// The name.
    pub name: String,
    /// The type as Arrow prints it: `Utf8`, `Int64`, `Timestamp(µs)`, `Decimal128(10, 2)`.
    #[serde(rename = "type")]
    pub data_type: String,
}

impl ColumnSpec {
    /// The column as a nullable field.
    ///
    /// # Errors
    /// `Invalid` when there is no such type.
    pub fn field(&self) -> Result<Field> {
        let data_type = DataType::from_str(&self.data_type).map_err(|_| {
            QueryError::invalid(format!("column `{}` has the unknown type `{}`", self.name, self.data_type))
        })?;
        Ok(Field::new(&self.name, data_type, true))
    }
}

/// How a file is compressed as a whole; it may be several compressed streams, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "text",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        })
    }
}

impl Compression {
    /// What the end of `path` says, and the path without it.
    pub fn by_name(path: &str) -> (Compression, &str) {
        let ends = [
            (".gz", Compression::Gzip),
            (".gzip", Compression::Gzip),
            (".zst", Compression::Zstd),
            (".zstd", Compression::Zstd),
            (".bz2", Compression::Bzip2),
            (".xz", Compression::Xz),
        ];
        let found = ends.iter().find_map(|(end, compression)| Some((*compression, path.strip_suffix(end)?)));
        found.unwrap_or((Compression::None, path))
    }
}

/// What the files of a table are like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FileFormat {
    /// Parquet, which says the rest itself.
    #[default]
    Parquet,
    /// Lines of values.
    Csv(CsvFormat),
    /// One JSON object a line.
    Json {
        /// How files are compressed; None for what their names say.
        compression: Option<Compression>,
    },
}

impl FileFormat {
    /// The name of the format, in lower case.
    pub fn name(&self) -> &'static str {
        match self {
            FileFormat::Parquet => "parquet",
            FileFormat::Csv(_) => "csv",
            FileFormat::Json { .. } => "json",
        }
    }

    /// How the file at `path` is compressed as a whole.
    pub fn compression(&self, path: &str) -> Compression {
        let fixed = match self {
            FileFormat::Parquet => Some(Compression::None),
            FileFormat::Csv(csv) => csv.compression,
            FileFormat::Json { compression } => *compression,
        };
        fixed.unwrap_or_else(|| Compression::by_name(path).0)
    }

    /// Whether the file at `path` can be read from any byte on, at the next line break.
    pub fn is_divisible(&self, path: &str) -> bool {
        let lines = match self {
            FileFormat::Parquet => false,
            FileFormat::Csv(csv) => !csv.newlines_in_values,
            FileFormat::Json { .. } => true,
        };
        lines && self.compression(path) == Compression::None
    }
}

/// What CSV files are like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvFormat {
    /// Whether each file begins with the names of its columns, by which they are then found. Without, columns are found
    /// by position.
    pub header: bool,
    /// Between values.
    pub delimiter: u8,
    /// Around values that hold delimiters, quotes or line breaks.
    pub quote: u8,
    /// Before a quote inside a quoted value; None when it is doubled.
    pub escape: Option<u8>,
    /// At the start of lines to skip.
    pub comment: Option<u8>,
    /// The text that means null, beside the empty one.
    pub null: Option<String>,
    /// Whether quoted values may hold line breaks.
    pub newlines_in_values: bool,
    /// How files are compressed; None for what their names say.
    pub compression: Option<Compression>,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            header: true,
            delimiter: b',',
            quote: b'"',
            escape: None,
            comment: None,
            null: None,
            newlines_in_values: true,
            compression: None,
        }
    }
}

impl CatalogEntry {
    /// The entry of a table that needs no more than its place.
    pub fn new(name: impl Into<String>, kind: CatalogType, uri: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            uri: uri.into(),
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
            storage: BucketOptions::default(),
        }
    }

    /// What the entry says of CSV files. A header and a delimiter that it does not say are the defaults; the catalog
    /// looks at the files.
    ///
    /// # Errors
    /// `Invalid` when a delimiter, quote, escape or comment is not one ASCII character.
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
        })
    }

    /// The fields that are set and that a catalog of this type does not use.
    pub fn unused_fields(&self) -> Vec<&'static str> {
        use CatalogType::{Csv, DeltaLake, Json, Parquet};
        let fields: [(&'static str, bool, &[CatalogType]); 12] = [
            ("version", self.version.is_some(), &[DeltaLake]),
            ("timestamp", self.timestamp.is_some(), &[DeltaLake]),
            ("partition_columns", self.partition_columns.is_some(), &[Parquet, Csv, Json]),
            ("schema", self.schema.is_some(), &[Csv, Json, Parquet]),
            ("header", self.header.is_some(), &[Csv]),
            ("delimiter", self.delimiter.is_some(), &[Csv]),
            ("quote", self.quote.is_some(), &[Csv]),
            ("escape", self.escape.is_some(), &[Csv]),
            ("comment", self.comment.is_some(), &[Csv]),
            ("null", self.null.is_some(), &[Csv]),
            ("newlines_in_values", self.newlines_in_values.is_some(), &[Csv]),
            ("compression", self.compression.is_some(), &[Csv, Json]),
        ];
        let unused = fields.into_iter().filter(|(_, set, kinds)| *set && !kinds.contains(&self.kind));
        unused.map(|(field, _, _)| field).collect()
    }
}

/// Splits what `--table` takes, `uri@v12` or `uri@2024-01-31T12:00:00Z`, into the uri and the version or timestamp.
/// Another `@` belongs to the uri.
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
            Err(QueryError::invalid(format!("`{field}` is `{text}`; it must be one ASCII character, as `;` or `\\t`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_csv_files_are_like() {
        let json = r#"{"name": "t", "type": "Csv", "uri": "t.csv", "delimiter": "\t", "header": false, "null": "NA",
                       "version": 3, "compression": "zstd"}"#;
        let entry: CatalogEntry = serde_json::from_str(json).unwrap();
        let csv = entry.csv_format().unwrap();
        assert_eq!((csv.delimiter, csv.header, csv.null.as_deref()), (b'\t', false, Some("NA")));
        assert_eq!(entry.unused_fields(), ["version"]);
        let odd = CatalogEntry { quote: Some("''".to_string()), ..entry };
        let error = odd.csv_format().unwrap_err().to_string();
        assert_eq!(error, "`quote` is `''`; it must be one ASCII character, as `;` or `\\t`");
    }

    #[test]
    fn a_version_stands_behind_the_last_at_sign() {
        assert_eq!(split_version("s3://b/t@v12"), ("s3://b/t", Some(12), None));
        assert_eq!(split_version("t@2024-01-31T12:00:00Z"), ("t", None, Some("2024-01-31T12:00:00Z")));
        assert_eq!(split_version("t@2024-01-31"), ("t", None, Some("2024-01-31")));
        assert_eq!(split_version("me@home/t@latest"), ("me@home/t@latest", None, None));
        assert_eq!(split_version("t@2024-01-31/x"), ("t@2024-01-31/x", None, None));
    }

    #[test]
    fn a_file_is_divided_only_where_lines_are_rows() {
        let json = FileFormat::Json { compression: None };
        assert!(json.is_divisible("a.jsonl") && !json.is_divisible("a.jsonl.gz"));
        let csv = |newlines_in_values| FileFormat::Csv(CsvFormat { newlines_in_values, ..CsvFormat::default() });
        assert!(csv(false).is_divisible("a.csv") && !csv(true).is_divisible("a.csv"));
        assert_eq!(Compression::by_name("a/b.csv.zst"), (Compression::Zstd, "a/b.csv"));
    }
}
