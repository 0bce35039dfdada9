//! Names and positions of the columns of a CSV file, from its first lines.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::csv::reader::Format;
use buzz_protocol::{CsvFormat, QueryError, Result};
use futures::StreamExt;
use regex::Regex;

use super::encoding::{Pieces, not_utf8, peeked};
use super::quotes::{check_quotes, record_end};

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
/// `Data` if the first record is not valid CSV, for example if a quote in it is never closed.
pub fn column_names(csv: &CsvFormat, head: &[u8]) -> Result<Vec<String>> {
    let end = first_record_end(csv, head);
    let head = &head[..end.unwrap_or(head.len())];
    if is_blank(csv, head) {
        return Ok(Vec::new());
    }
    if end.is_none() {
        // The file has no more lines.
        check_quotes(csv, head, 0, true)?;
    }
    if std::str::from_utf8(head).is_err() {
        return Err(not_utf8(0));
    }
    if head.contains(&0) {
        return Err(QueryError::data(
            "the first line has zero bytes, as in UTF-16; set `encoding` in the catalog entry, for example to `utf-16le`",
        ));
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

/// Returns the length of a first line such as `sep=;`, which tells Excel the delimiter and is not data. Without one, it is 0.
pub(super) fn separator_line(text: &[u8]) -> usize {
    match text.strip_prefix(b"sep=") {
        Some([b'\r' | b'\n', ..]) => 0,
        Some([_, b'\n', ..]) => 6,
        Some([_, b'\r', b'\n', ..]) => 7,
        _ => 0,
    }
}

/// Removes the [`separator_line`] from the start of `text`. Returns the number of lines removed, 0 or 1.
pub(super) async fn without_separator_line(text: Pieces) -> Result<(usize, Pieces)> {
    let (head, text) = peeked(text, b"sep=;\r\n".len()).await?;
    Ok(match separator_line(&head) {
        0 => (0, text),
        // The head is the first piece.
        length => (1, futures::stream::iter([Ok(head.slice(length..))]).chain(text.skip(1)).boxed()),
    })
}

/// Returns whether `text` consists of comments and lines of blanks.
pub(super) fn is_blank(csv: &CsvFormat, text: &[u8]) -> bool {
    let is_comment = |line: &[u8]| csv.comment.is_some() && line.first().copied() == csv.comment;
    text.split(|&byte| byte == b'\n' || byte == b'\r').all(|line| line.trim_ascii().is_empty() || is_comment(line))
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
    pub(super) fn find(names: &[String], wanted: &arrow::datatypes::Schema) -> FileColumns {
        use arrow::datatypes::{DataType, Field, Schema};
        let positions =
            wanted.fields().iter().map(|field| names.iter().position(|name| name == field.name())).collect();
        let field = |name: &String| match wanted.field_with_name(name) {
            Ok(field) => field.clone(),
            Err(_) => Field::new(name, DataType::Utf8View, true),
        };
        FileColumns { schema: Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>())), positions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_gets_a_unique_name() {
        let names = |text: &str| column_names(&CsvFormat::default(), text.as_bytes()).unwrap();
        assert_eq!(names("a,\"b\nc\",,a\n1,2,3,4\n"), ["a", "b\nc", "column_3", "a_1"]);
        assert!(names(" \n\n").is_empty());
        assert!(names("").is_empty());
        let lines = ["sep=;\na;b\n", "sep=,\r\na,b\r\n", "sep=\n\na\n", "sep=;;\n", "a\nsep=;\n", "sep=;"];
        assert_eq!(lines.map(|text| separator_line(text.as_bytes())), [6, 7, 0, 0, 0, 0]);
        let bare = CsvFormat { header: false, comment: Some(b'#'), ..CsvFormat::default() };
        assert_eq!(column_names(&bare, b"# note\n\n7,8").unwrap(), ["column_1", "column_2"]);
    }
}
