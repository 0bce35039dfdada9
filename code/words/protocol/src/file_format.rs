//! The format of the files of a table, as far as they do not define it themselves.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The compression of a whole file, which may consist of several concatenated compressed streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// No compression.
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
    /// Returns the compression given by the end of `path`, and the path without that end.
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

/// The format of the files of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FileFormat {
    /// Parquet, whose files describe themselves.
    #[default]
    Parquet,
    /// Lines of delimited values.
    Csv(CsvFormat),
    /// JSON objects, usually one per line.
    Json(JsonFormat),
    /// Segments of a stream, whose requests have formats of their own. Of each file, only the rows of
    /// [`TaskFile::runs`](crate::TaskFile::runs) count.
    Segments(SegmentsFormat),
}

/// The format of the segments of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SegmentsFormat {
    /// Rows that do not fit the columns are left out, as the stream declares. Otherwise they are an error.
    #[serde(default)]
    pub leaves_out_bad: bool,
}

impl FileFormat {
    /// Returns the name of the format, in lower case.
    pub fn name(&self) -> &'static str {
        match self {
            FileFormat::Parquet => "parquet",
            FileFormat::Csv(_) => "csv",
            FileFormat::Json(_) => "json",
            FileFormat::Segments(_) => "stream",
        }
    }

    /// Returns the compression of the whole file at `path`.
    pub fn compression(&self, path: &str) -> Compression {
        let fixed = match self {
            FileFormat::Parquet | FileFormat::Segments(_) => Some(Compression::None),
            FileFormat::Csv(csv) => csv.compression,
            FileFormat::Json(json) => json.compression,
        };
        fixed.unwrap_or_else(|| Compression::by_name(path).0)
    }

    /// Returns the label of the encoding of the text; `None` for UTF-8 or that of a byte order mark.
    pub fn encoding(&self) -> Option<&str> {
        match self {
            FileFormat::Parquet | FileFormat::Segments(_) => None,
            FileFormat::Csv(csv) => csv.encoding.as_deref(),
            FileFormat::Json(json) => json.encoding.as_deref(),
        }
    }

    /// Returns true if the compression of a file is detected from its first bytes, unless its name gives one.
    pub fn detects_compression(&self) -> bool {
        match self {
            FileFormat::Parquet | FileFormat::Segments(_) => false,
            FileFormat::Csv(csv) => csv.compression.is_none(),
            FileFormat::Json(json) => json.compression.is_none(),
        }
    }

    /// Returns true if the file at `path` can be read from any byte, starting after the next line break.
    pub fn is_divisible(&self, path: &str) -> bool {
        let lines = match self {
            FileFormat::Parquet | FileFormat::Segments(_) => false,
            FileFormat::Csv(csv) => !csv.newlines_in_values,
            FileFormat::Json(json) => !json.newlines_in_values,
        };
        lines && self.encoding().is_none() && self.compression(path) == Compression::None
    }
}

/// The format of JSON files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JsonFormat {
    /// True if objects may span several lines, or if a file may be an array of objects.
    pub newlines_in_values: bool,
    /// Compression of the files; `None` means that their names and first bytes decide.
    pub compression: Option<Compression>,
    /// Label of the encoding; `None` for UTF-8 or that of a byte order mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Other spellings of columns, which differ only in case. No object has two spellings of one column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spellings: BTreeMap<String, Vec<String>>,
}

/// The format of CSV files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvFormat {
    /// True if each file begins with the names of its columns; columns are then found by name, otherwise by position.
    pub header: bool,
    /// Separator of values.
    pub delimiter: u8,
    /// Character around values that contain delimiters, quotes or line breaks.
    pub quote: u8,
    /// Character before a quote inside a quoted value; `None` if such a quote is doubled.
    pub escape: Option<u8>,
    /// First character of lines to skip.
    pub comment: Option<u8>,
    /// Text that means null, in addition to the empty text.
    pub null: Option<String>,
    /// True if quoted values may contain line breaks.
    pub newlines_in_values: bool,
    /// Compression of the files; `None` means that their names and first bytes decide.
    pub compression: Option<Compression>,
    /// Label of the encoding; `None` for UTF-8 or that of a byte order mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
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
            encoding: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uncompressed_files_with_a_row_per_line_are_divisible() {
        let json = FileFormat::Json(JsonFormat::default());
        assert!(json.is_divisible("a.jsonl") && !json.is_divisible("a.jsonl.gz"));
        let csv = |newlines_in_values| FileFormat::Csv(CsvFormat { newlines_in_values, ..CsvFormat::default() });
        assert!(csv(false).is_divisible("a.csv") && !csv(true).is_divisible("a.csv"));
        assert_eq!(Compression::by_name("a/b.csv.zst"), (Compression::Zstd, "a/b.csv"));
    }
}
