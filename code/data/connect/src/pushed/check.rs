//! Checks the rows of a request before they are kept: their syntax, and their columns if the stream declares some.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use buzz_protocol::{QueryError, Result, nullable};
use buzz_storage::text::{RowFormat, check_capitals};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::format::decoder;
use super::frames::check_frames;
use crate::decode::{Decoded, csv_names, decode_file, decode_lines, foreign_keys};
use crate::names::first_keys;
use crate::records::{csv_header_end, csv_start, records};
use crate::source::BadData;

/// Maximum number of characters of a row in a message.
const SHOWN_MAX: usize = 200;

/// Maximum number of values of a request, counting NULL in columns that its rows leave out.
const VALUES_MAX: u64 = 16 << 20;

/// Checks that `rows` rows with all of `columns` fit into memory.
fn check_values(rows: u64, columns: &Schema) -> Result<()> {
    let width = columns.flattened_fields().len() as u64;
    if rows.saturating_mul(width) <= VALUES_MAX {
        return Ok(());
    }
    Err(QueryError::data(format!(
        "{rows} rows with the {width} columns of the stream have more than {VALUES_MAX} values; send fewer rows at once"
    )))
}

/// Rows of a request that can be kept.
#[derive(Debug, Clone)]
pub struct CheckedRows {
    /// The rows, each JSON object in a line of its own, and others as they came.
    pub bytes: Bytes,
    /// Number of rows.
    pub rows: u64,
    /// Number of rows that do not fit the declared columns. They are kept too, so that each reader treats them as it
    /// declares.
    pub bad: u64,
    /// The place of the first bad row, and the reason.
    pub first_bad: Option<String>,
}

/// Checks the rows of `body`. `columns` are those that the stream declares. With [`BadData::Fail`], a row that does not fit
/// them is an error; otherwise it is counted.
///
/// # Errors
/// `Data`, with the line and the reason.
pub fn check_rows(
    body: &Bytes,
    format: RowFormat,
    columns: Option<&SchemaRef>,
    bad_data: BadData,
) -> Result<CheckedRows> {
    let body = body.slice(csv_start(body)..);
    match format {
        RowFormat::Json => json(&body, columns, bad_data),
        RowFormat::Csv { header } => csv(&body, header, columns, bad_data),
        RowFormat::Arrow => arrow(&body, columns),
    }
}

/// Returns the number of the line of `text` that has the byte at `offset`, from 1.
fn line_of(text: &[u8], offset: usize) -> usize {
    text.iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
}

/// Returns the place of `part`, which is a slice of `whole`.
fn offset_of(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

fn json(body: &[u8], columns: Option<&SchemaRef>, bad_data: BadData) -> Result<CheckedRows> {
    let objects = objects(body)?;
    let mut bytes = Vec::with_capacity(body.len() + objects.len());
    for object in &objects {
        bytes.extend_from_slice(object.as_bytes());
        bytes.push(b'\n');
    }
    let mut checked = CheckedRows { bytes: bytes.into(), rows: objects.len() as u64, bad: 0, first_bad: None };
    let Some(columns) = columns.filter(|_| !objects.is_empty()) else { return Ok(checked) };
    check_values(checked.rows, columns)?;
    check_capitals(columns, first_keys(&checked.bytes).iter().map(String::as_str))?;
    if let Some(keys) = foreign_keys(columns, &checked.bytes) {
        return Err(QueryError::data(format!("no row has one of the stream's columns; they have {keys}")));
    }
    let decoded = decode_lines(&decoder(RowFormat::Json), &nullable(columns), &[], &checked.bytes, BadData::Drop)?;
    let place = |text: &str| {
        let object = objects.iter().find(|object| **object == text);
        object.map(|object| line_of(body, offset_of(body, object.as_bytes())))
    };
    let row_line = |row: usize| objects.get(row).map(|object| line_of(body, offset_of(body, object.as_bytes())));
    checked.note(&decoded, columns, bad_data, place, row_line)?;
    Ok(checked)
}

/// Returns the objects of a text of JSON values, which are objects or arrays of objects.
///
/// # Errors
/// `Data`, with the line, if the text is not JSON, or a value is not an object.
pub(crate) fn objects(body: &[u8]) -> Result<Vec<&str>> {
    let wrong = |error: &serde_json::Error, before: usize| {
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        QueryError::data(format!(
            "line {}: the text is not JSON: {reason} at column {}; send one object per line, or an array of objects",
            before + error.line(),
            error.column()
        ))
    };
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
        let value = value.map_err(|error| wrong(&error, 0))?;
        if value.get().starts_with('[') {
            let before = line_of(body, offset_of(body, value.get().as_bytes())) - 1;
            let rows: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(|error| wrong(&error, before))?;
            for row in rows {
                found.push(object(row, body)?);
            }
        } else {
            found.push(object(value, body)?);
        }
    }
    Ok(found)
}

/// Returns the text of `value`, a part of `body`, if it is an object.
fn object<'a>(value: &'a RawValue, body: &[u8]) -> Result<&'a str> {
    let text = value.get();
    if text.starts_with('{') {
        return Ok(text);
    }
    Err(QueryError::data(format!(
        "line {}: `{}` is not a JSON object; a row is an object with its columns as keys",
        line_of(body, offset_of(body, text.as_bytes())),
        shown(text)
    )))
}

fn csv(body: &Bytes, header: bool, columns: Option<&SchemaRef>, bad_data: BadData) -> Result<CheckedRows> {
    let format = RowFormat::Csv { header };
    let (start, names) = match (header, columns) {
        (true, _) => csv_header(body)?,
        (false, Some(columns)) => (0, columns.fields().iter().map(|field| field.name().clone()).collect()),
        (false, None) => {
            return Err(QueryError::data(
                "CSV without a header has no names of columns, and the stream declares none; send the names in the first \
                 line, without `header=absent`, or declare the stream's columns",
            ));
        }
    };
    if let Some(columns) = columns.filter(|_| header) {
        check_header(&names, columns)?;
    }
    // A stream without columns has texts in all of them.
    let texts = || Schema::new(names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect::<Vec<_>>());
    let schema = columns.cloned().unwrap_or_else(|| Arc::new(texts()));
    let lines = body.slice(start..);
    let decoder = decoder(format);
    let rows = records(&decoder, &lines).count() as u64;
    check_values(rows, &schema)?;
    let decoded = decode_lines(&decoder, &nullable(&schema), &names, &lines, BadData::Drop)?;
    let mut checked = CheckedRows { bytes: body.clone(), rows, bad: 0, first_bad: None };
    let line = |text: &[u8]| line_of(body, offset_of(body, text));
    let place =
        |text: &str| records(&decoder, &lines).find(|record| record.row() == text).map(|record| line(record.text));
    let row_line = |row: usize| records(&decoder, &lines).nth(row).map(|record| line(record.text));
    // Without columns, a row is bad because its syntax is.
    let bad_data = if columns.is_some() { bad_data } else { BadData::Fail };
    checked.note(&decoded, &schema, bad_data, place, row_line)?;
    Ok(checked)
}

/// Returns where the rows of a CSV text begin, and the names of its columns.
///
/// # Errors
/// `Data` if the first line has no names, or one of them twice.
pub(super) fn csv_header(text: &[u8]) -> Result<(usize, Vec<String>)> {
    let start = csv_header_end(text, b',')
        .map_err(|reason| QueryError::data(format!("line 1: the header is not readable: {reason}")))?;
    let names = csv_names(&text[..start], b',');
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(QueryError::data(format!("line 1: the header has the column `{twice}` twice; rename one"))),
        None => Ok((start, names)),
    }
}

/// Checks that the header of a CSV text names a column, and none with other capital letters: otherwise values would be NULL.
pub(super) fn check_header(names: &[String], columns: &Schema) -> Result<()> {
    check_capitals(columns, names.iter().map(String::as_str))?;
    if names.is_empty() || names.iter().any(|name| columns.field_with_name(name).is_ok()) {
        return Ok(());
    }
    Err(QueryError::data(format!(
        "line 1: `{}` has none of the stream's columns; send their names in the first line, or send \
         `Content-Type: text/csv; header=absent` if there is no header",
        shown(&names.join(","))
    )))
}

fn arrow(body: &Bytes, columns: Option<&SchemaRef>) -> Result<CheckedRows> {
    check_frames(body)?;
    let named =
        |error: &dyn std::fmt::Display| QueryError::data(format!("the Arrow IPC stream is not readable: {error}"));
    let mut rows = 0_u64;
    for batch in StreamReader::try_new(Cursor::new(body.as_ref()), None).map_err(|error| named(&error))? {
        rows += batch.map_err(|error| named(&error))?.num_rows() as u64;
    }
    let checked = CheckedRows { bytes: body.clone(), rows, bad: 0, first_bad: None };
    if let Some(columns) = columns {
        check_values(rows, columns)?;
        let batches = decode_file(&decoder(RowFormat::Arrow), &nullable(columns), body.clone())?;
        if let Some((row, name)) = first_null(&batches, columns) {
            return Err(QueryError::data(format!("row {}: {}", row + 1, missing(&name))));
        }
    }
    Ok(checked)
}

fn missing(name: &str) -> String {
    format!("column `{name}` is NULL, but declared as NOT NULL")
}

/// Returns the first row with NULL in a column that must have none, and the column.
fn first_null(batches: &[RecordBatch], columns: &Schema) -> Option<(usize, String)> {
    let mut before = 0;
    for batch in batches {
        let nulls = columns.fields().iter().zip(batch.columns()).filter(|(field, _)| !field.is_nullable());
        let first = nulls.filter_map(|(field, column)| {
            let nulls = column.logical_nulls()?;
            (0..column.len()).find(|row| nulls.is_null(*row)).map(|row| (before + row, field.name().clone()))
        });
        if let Some(first) = first.min() {
            return Some(first);
        }
        before += batch.num_rows();
    }
    None
}

impl CheckedRows {
    /// Notes the rows that do not fit `columns`. `place` returns the line of a row by its text, `row_line` by its number.
    ///
    /// # Errors
    /// `Data`, with the first one, if `bad_data` says so.
    fn note(
        &mut self,
        decoded: &Decoded,
        columns: &Schema,
        bad_data: BadData,
        place: impl Fn(&str) -> Option<usize>,
        row_line: impl Fn(usize) -> Option<usize>,
    ) -> Result<()> {
        let at = |line: Option<usize>| line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let first = decoded
            .bad
            .first()
            .map(|bad| format!("{}row `{}` does not fit: {}", at(place(&bad.text)), shown(&bad.text), bad.reason));
        let null = first_null(&decoded.batches, columns).filter(|_| first.is_none());
        let first = first.or_else(|| null.map(|(row, name)| format!("{}{}", at(row_line(row)), missing(&name))));
        let good: u64 = decoded.batches.iter().map(|batch| complete_rows(batch, columns)).sum();
        self.bad = self.rows.saturating_sub(good);
        match first {
            Some(first) if bad_data == BadData::Fail => Err(QueryError::data(first)),
            first => {
                self.first_bad = first;
                Ok(())
            }
        }
    }
}

/// Returns the number of rows without NULL in a column that must have none.
fn complete_rows(batch: &RecordBatch, columns: &Schema) -> u64 {
    let required = columns.fields().iter().zip(batch.columns()).filter(|(field, _)| !field.is_nullable());
    let nulls: Vec<_> = required.filter_map(|(_, column)| column.logical_nulls()).collect();
    if nulls.is_empty() {
        return batch.num_rows() as u64;
    }
    (0..batch.num_rows()).filter(|row| nulls.iter().all(|nulls| nulls.is_valid(*row))).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]))
    }

    fn checked(body: &'static str, format: RowFormat, declared: bool, bad_data: BadData) -> Result<CheckedRows> {
        let columns = columns();
        check_rows(&Bytes::from_static(body.as_bytes()), format, declared.then_some(&columns), bad_data)
    }

    fn error(body: &'static str, format: RowFormat, declared: bool) -> String {
        checked(body, format, declared, BadData::Fail).expect_err("the rows are refused").message
    }

    #[test]
    fn json_rows_are_put_into_lines() {
        let bodies = [
            "{\"id\":1}\n{\"id\":2}",
            "[{\"id\":1},\n {\"id\":2}]",
            "\u{feff}{\"id\":1} {\"id\":2}\n\n",
            "[{\"id\":1}] {\"id\":2}",
        ];
        for body in bodies {
            let rows = checked(body, RowFormat::Json, true, BadData::Fail).expect("the rows fit");
            assert_eq!((&rows.bytes[..], rows.rows, rows.bad), (&b"{\"id\":1}\n{\"id\":2}\n"[..], 2, 0), "{body}");
        }
        let object = checked("{\n \"id\": 1\n}", RowFormat::Json, true, BadData::Fail).expect("it fits");
        assert_eq!((&object.bytes[..], object.rows), (&b"{\n \"id\": 1\n}\n"[..], 1));
        assert_eq!(checked("[]\n", RowFormat::Json, true, BadData::Fail).expect("no rows").rows, 0);
    }

    #[test]
    fn line_of_a_bad_json_row_is_told() {
        let cases = [
            ("{\"id\":1}\n{\"id\":}\n", false, "line 2: the text is not JSON"),
            ("{\"id\":1}\n5\n", false, "line 2: `5` is not a JSON object"),
            ("[{\"id\":1},\n7]", false, "line 2: `7` is not a JSON object"),
            ("{\"id\":1},{\"id\":2}", false, "line 1: the text is not JSON"),
            ("{\"id\":1}\n{\"id\":2.5}\n", true, "line 2: row `{\"id\":2.5}` does not fit"),
            ("[{\"id\":1},\n{\"id\":\"x\"}]", true, "line 2: row `{\"id\":\"x\"}` does not fit"),
            ("{\"id\":1}\n\n{\"name\":\"a\"}\n", true, "line 3: column `id` is NULL"),
            ("{\"ID\":1}\n", true, "column `id` of the table is `ID`"),
            ("{\"user\":1}\n", true, "they have `user`"),
        ];
        for (body, declared, message) in cases {
            let error = error(body, RowFormat::Json, declared);
            assert!(error.contains(message), "{body}: {error}");
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_counted_where_readers_treat_them() {
        let body = "{\"id\":1}\n{\"id\":2.5}\n{\"name\":\"a\"}\n";
        for bad_data in [BadData::Drop, BadData::Side] {
            let rows = checked(body, RowFormat::Json, true, bad_data).expect("they are kept");
            assert_eq!((rows.rows, rows.bad, &rows.bytes[..]), (3, 2, body.as_bytes()));
            assert!(rows.first_bad.expect("one is named").starts_with("line 2: "));
        }
    }

    #[test]
    fn csv_rows_are_kept_as_they_came() {
        let (with, without) = (RowFormat::Csv { header: true }, RowFormat::Csv { header: false });
        let body = "id,name\r\n1,a\r\n2,\"b\nc\"\r\n";
        for declared in [true, false] {
            let rows = checked(body, with, declared, BadData::Fail).expect("the rows fit");
            assert_eq!((rows.rows, rows.bad, &rows.bytes[..]), (2, 0, body.as_bytes()));
        }
        assert_eq!(checked("1,a\n2,b\n", without, true, BadData::Fail).expect("the rows fit").rows, 2);
        let cases = [
            ("id,name\n1,a\nx,b\n", with, true, "line 3: row `x,b` does not fit"),
            (
                "id,name\n1,\"a\nb\"\n1,2,3\n",
                with,
                false,
                "line 4: row `1,2,3` does not fit: it has 3 values, but there are 2 columns",
            ),
            ("id,name\n1,a\n,b\n", with, true, "line 3: column `id` is NULL"),
            ("id,id\n1,2\n", with, false, "column `id` twice"),
            ("1,a\n2,b\n", with, true, "header=absent"),
            ("1,a\n", without, false, "without a header"),
        ];
        for (body, format, declared, message) in cases {
            let error = error(body, format, declared);
            assert!(error.contains(message), "{body}: {error}");
        }
    }
}
