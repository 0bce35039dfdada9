//! Names and positions of the columns of a CSV file, from its first lines.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::csv::reader::Format;
use buzz_protocol::{CsvFormat, QueryError, Result};
use regex::Regex;

/// Returns `csv` as arrow's format, without its header: [`column_names`] finds the names.
pub(super) fn arrow_format(csv: &CsvFormat) -> Format {
    let mut format = Format::default().with_delimiter(csv.delimiter).with_quote(csv.quote);
    if let Some(escape) = csv.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = csv.comment {
        format = format.with_comment(comment);
    }
    if let Some(null) = &csv.null {
        let either = format!("^(?:|{})$", regex::escape(null));
        format = format.with_null_regex(Regex::new(&either).expect("an escaped text is a pattern"));
    }
    format
}

/// Returns the column names of a file that begins with `head`: those of its header, or `column_1`, `column_2` and so
/// on. An empty name is replaced by that of its position. A duplicate name gets a number as suffix.
///
/// # Errors
/// `Data` if the first record is not valid CSV.
pub fn column_names(csv: &CsvFormat, head: &[u8]) -> Result<Vec<String>> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let head = &head[..first_record_end(csv, head).unwrap_or(head.len())];
    if head.is_empty() {
        return Ok(Vec::new());
    }
    let (schema, _) = arrow_format(csv)
        .with_header(csv.header)
        .infer_schema(head, Some(1))
        .map_err(|error| QueryError::data(format!("the first line is not valid CSV: {error}")))?;
    let mut taken = HashSet::new();
    let mut names = Vec::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let position = || format!("column_{}", index + 1);
        let name = if csv.header { field.name().trim().to_string() } else { position() };
        let name = if name.is_empty() { position() } else { name };
        let mut unique = name.clone();
        let mut number = 1;
        while !taken.insert(unique.clone()) {
            unique = format!("{name}_{number}");
            number += 1;
        }
        names.push(unique);
    }
    Ok(names)
}

/// Returns the end of the first record of `bytes`, after its line break, or `None` if it is incomplete. Comments and
/// empty lines before it are skipped.
pub(super) fn first_record_end(csv: &CsvFormat, bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let end = record_end(csv, &bytes[start..])? + start;
        let line = bytes[start..end].trim_ascii();
        let comment = csv.comment.is_some_and(|comment| line.first() == Some(&comment));
        if !line.is_empty() && !comment {
            return Some(end);
        }
        start = end;
    }
}

/// Returns the start of the first record of `bytes`, after comments and empty lines.
pub(super) fn first_record_start(csv: &CsvFormat, bytes: &[u8]) -> usize {
    let end = first_record_end(csv, bytes).unwrap_or(bytes.len());
    let mut start = 0;
    while let Some(length) = record_end(csv, &bytes[start..end]).filter(|length| start + length < end) {
        start += length;
    }
    start
}

fn record_end(csv: &CsvFormat, bytes: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted && csv.escape == Some(byte) {
            escaped = true;
        } else if byte == csv.quote {
            quoted = !quoted;
        } else if byte == b'\n' && !quoted {
            return Some(at + 1);
        }
    }
    None
}

/// The columns of one file, and the positions of the wanted columns in it.
#[derive(Debug)]
pub(super) struct FileColumns {
    /// All columns of the file. Columns that are not wanted have type text.
    pub(super) schema: arrow::datatypes::SchemaRef,
    /// For each wanted column, its position in the file; `None` if the file lacks it.
    pub(super) positions: Vec<Option<usize>>,
}

impl FileColumns {
    /// Finds the columns of `wanted` in a file whose columns are `names`.
    pub(super) fn find(names: Vec<String>, wanted: &arrow::datatypes::Schema) -> FileColumns {
        use arrow::datatypes::{DataType, Field, Schema};
        let positions =
            wanted.fields().iter().map(|field| names.iter().position(|name| name == field.name())).collect();
        let field = |name: String| match wanted.field_with_name(&name) {
            Ok(field) => field.clone(),
            Err(_) => Field::new(name, DataType::Utf8View, true),
        };
        FileColumns { schema: Arc::new(Schema::new(names.into_iter().map(field).collect::<Vec<_>>())), positions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_gets_a_unique_name() {
        let names = |text: &str| column_names(&CsvFormat::default(), text.as_bytes()).unwrap();
        assert_eq!(names("a,\"b\nc\",,a\n1,2,3,4\n"), ["a", "b\nc", "column_3", "a_1"]);
        assert_eq!(names("\u{feff}id;x\n"), ["id;x"]);
        assert!(names("").is_empty());
        let bare = CsvFormat { header: false, comment: Some(b'#'), ..CsvFormat::default() };
        assert_eq!(column_names(&bare, b"# note\n\n7,8").unwrap(), ["column_1", "column_2"]);
    }

    #[test]
    fn record_ends_at_an_unquoted_line_break() {
        let csv = CsvFormat { escape: Some(b'\\'), ..CsvFormat::default() };
        assert_eq!(first_record_end(&csv, b"a,\"x\\\"\ny\"\nb"), Some(10));
        assert_eq!(first_record_end(&csv, b"a,\"x"), None);
        assert_eq!(first_record_end(&csv, b"a,b"), None);
    }
}
