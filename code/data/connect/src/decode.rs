//! Decoding of files: lines of JSON or CSV, Parquet and Arrow.

use std::io::{BufRead, Cursor};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::csv::ReaderBuilder as CsvReaderBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::json::ReaderBuilder as JsonReaderBuilder;
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::source::{BadData, BadRow};

/// The format of rows in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json {
        /// The only column holds the line as text.
        unstructured: bool,
    },
    /// CSV.
    Csv {
        /// The first line has the names of the columns.
        header: bool,
        /// The character between two fields.
        delimiter: u8,
    },
    /// One text per line, in a column `value`.
    RawString,
    /// Parquet.
    Parquet,
    /// An Arrow IPC stream or file.
    Arrow,
}

impl Format {
    /// Returns true for formats in which a file can be divided at line ends.
    pub(crate) fn has_lines(&self) -> bool {
        matches!(self, Self::Json { .. } | Self::Csv { .. } | Self::RawString)
    }
}

/// Lines of a file of which at least one must have a column of the table.
const FOREIGN_LINES: usize = 100;

/// Rows of a piece of a file.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) bad: Vec<BadRow>,
}

/// Returns the names in the first line of a CSV file.
pub(crate) fn csv_names(head: &[u8], delimiter: u8) -> Result<Vec<String>> {
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let schema = Arc::new(Schema::empty());
    let format = arrow::csv::reader::Format::default().with_header(true).with_delimiter(delimiter);
    let (schema, _) = format.infer_schema(Cursor::new(line), Some(0)).unwrap_or_else(|_| (schema.as_ref().clone(), 0));
    Ok(schema.fields().iter().map(|field| field.name().clone()).collect())
}

/// Decodes whole lines. `names` are the columns of a CSV file.
pub(crate) fn decode_lines(
    format: &Format,
    schema: &SchemaRef,
    names: &[String],
    lines: &[u8],
    bad_data: BadData,
) -> Result<Decoded> {
    // Arrow's decoder would read 3.9 as 3 in an integer column.
    let decode = |lines: &[u8]| {
        if *format == (Format::Json { unstructured: false }) && may_have_fractions(lines) {
            check_integers(schema, lines)?;
        }
        decode_all(format, schema, names, lines)
    };
    match decode(lines) {
        Ok(batches) => Ok(Decoded { batches, bad: Vec::new() }),
        Err(error) => {
            // The decoder names no line, so each line is decoded alone.
            let mut decoded = Decoded::default();
            let mut good: Vec<u8> = Vec::with_capacity(lines.len());
            for line in lines.split(|&byte| byte == b'\n') {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                match decode(line) {
                    Ok(_) => {
                        good.extend_from_slice(line);
                        good.push(b'\n');
                    }
                    Err(error) => decoded
                        .bad
                        .push(BadRow { text: String::from_utf8_lossy(line).into_owned(), reason: error.to_string() }),
                }
            }
            if decoded.bad.is_empty() {
                return Err(error);
            }
            if bad_data == BadData::Fail {
                let BadRow { text, reason } = &decoded.bad[0];
                let text: String = text.chars().take(200).collect();
                return Err(QueryError::data(format!(
                    "row `{text}` cannot be decoded: {reason}; repair it, or set bad_data = 'drop'"
                )));
            }
            decoded.batches = decode_all(format, schema, names, &good)?;
            Ok(decoded)
        }
    }
}

/// Returns the keys of the first rows of a JSON file if none of these rows has a column of `own`: every value would be
/// null. Lines that are no objects are left to the decoder.
pub(crate) fn foreign_keys(own: &Schema, bytes: &[u8]) -> Option<String> {
    let mut keys: Vec<String> = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n').take(FOREIGN_LINES) {
        let Ok(Value::Object(row)) = serde_json::from_slice(line) else { continue };
        if own.fields().is_empty() || row.keys().any(|key| own.field_with_name(key).is_ok()) {
            return None;
        }
        keys.extend(row.keys().filter(|key| !keys.contains(key)).cloned().collect::<Vec<_>>());
    }
    let known: Vec<String> = keys.iter().take(8).map(|key| format!("`{key}`")).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// Returns true if a number with a fraction may stand outside of a text. Times such as `"12:30:00.5"` do not count.
fn may_have_fractions(lines: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = lines[from..].iter().position(|&byte| byte == b'.') {
        let point = from + at;
        from = point + 1;
        let digits = lines[..point].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let is_digit = |at: usize| lines.get(at).is_some_and(u8::is_ascii_digit);
        if digits == 0 || !is_digit(point + 1) {
            continue;
        }
        let before = &lines[..point - digits];
        let before = before.strip_suffix(b"-").unwrap_or(before);
        match before {
            [.., b'"' | b' ', b':'] | [.., b' ' | b'[' | b',' | b'\t'] => return true,
            _ => {}
        }
    }
    false
}

/// Fails if a line has a number with a fraction where `schema` has an integer.
fn check_integers(schema: &SchemaRef, lines: &[u8]) -> Result<()> {
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)) {
        let row: Value = serde_json::from_slice(line).map_err(|error| QueryError::data(error.to_string()))?;
        for field in schema.fields() {
            if row.get(field.name()).is_some_and(|value| has_fraction(value, field.data_type())) {
                return Err(QueryError::data(format!(
                    "column `{}` is {}, but the value is {}",
                    field.name(),
                    field.data_type(),
                    row[field.name()]
                )));
            }
        }
    }
    Ok(())
}

fn has_fraction(value: &Value, data_type: &DataType) -> bool {
    match (value, data_type) {
        (Value::Number(number), integer) if integer.is_integer() => {
            number.as_f64().is_some_and(|number| number.fract() != 0.0)
        }
        (Value::Object(object), DataType::Struct(fields)) => fields
            .iter()
            .any(|field| object.get(field.name()).is_some_and(|value| has_fraction(value, field.data_type()))),
        (Value::Array(values), DataType::List(item) | DataType::LargeList(item)) => {
            values.iter().any(|value| has_fraction(value, item.data_type()))
        }
        _ => false,
    }
}

fn decode_all(format: &Format, schema: &SchemaRef, names: &[String], lines: &[u8]) -> Result<Vec<RecordBatch>> {
    match format {
        Format::Json { unstructured: true } | Format::RawString => {
            let texts: Vec<&str> = lines
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(std::str::from_utf8)
                .collect::<Result<_, _>>()
                .map_err(|error| QueryError::data(format!("a line is not UTF-8: {error}")))?;
            let column: ArrayRef = Arc::new(StringArray::from(texts));
            let column = cast(&column, schema.field(0).data_type())?;
            Ok(vec![RecordBatch::try_new(Arc::clone(schema), vec![column])?])
        }
        Format::Json { unstructured: false } => {
            let reader = JsonReaderBuilder::new(Arc::clone(schema)).with_batch_size(8192).build(Cursor::new(lines))?;
            Ok(reader.collect::<Result<_, _>>()?)
        }
        Format::Csv { delimiter, .. } => {
            // Columns are found by name; those that the table does not have are read as texts.
            let fields: Vec<Field> = names
                .iter()
                .map(|name| match schema.field_with_name(name) {
                    Ok(field) => field.clone().with_nullable(true),
                    Err(_) => Field::new(name, DataType::Utf8, true),
                })
                .collect();
            let file = Arc::new(Schema::new(fields));
            let reader = CsvReaderBuilder::new(file).with_delimiter(*delimiter).with_batch_size(8192);
            let reader = reader.build(Cursor::new(lines))?;
            reader.map(|batch| as_schema(&batch?, schema)).collect()
        }
        Format::Parquet | Format::Arrow => Err(QueryError::internal("a binary format has no lines")),
    }
}

/// Decodes a whole file.
pub(crate) fn decode_file(format: &Format, schema: &SchemaRef, bytes: Bytes) -> Result<Vec<RecordBatch>> {
    let batches: Vec<RecordBatch> = match format {
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(parquet_error)?;
            builder.with_batch_size(8192).build().map_err(parquet_error)?.collect::<Result<_, _>>()?
        }
        Format::Arrow if bytes.starts_with(b"ARROW1") => {
            FileReader::try_new(Cursor::new(bytes), None)?.collect::<Result<_, _>>()?
        }
        Format::Arrow => StreamReader::try_new(Cursor::new(bytes), None)?.collect::<Result<_, _>>()?,
        _ => return Err(QueryError::internal("a text format is decoded by lines")),
    };
    if let Some(first) = batches.first() {
        let file = first.schema();
        let names: Vec<&str> = file.fields().iter().map(|field| field.name().as_str()).collect();
        if !schema.fields().is_empty() && !names.iter().any(|name| schema.field_with_name(name).is_ok()) {
            // Every value would be null.
            let names = names.join("`, `");
            return Err(QueryError::data(format!("the file has none of the table's columns; it has `{names}`")));
        }
    }
    batches.iter().map(|batch| as_schema(batch, schema)).collect()
}

/// Returns the columns of a Parquet or Arrow file.
pub(crate) fn file_schema(format: &Format, bytes: Bytes) -> Result<SchemaRef> {
    match format {
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(parquet_error)?;
            Ok(Arc::clone(builder.schema()))
        }
        Format::Arrow if bytes.starts_with(b"ARROW1") => Ok(FileReader::try_new(Cursor::new(bytes), None)?.schema()),
        Format::Arrow => Ok(StreamReader::try_new(Cursor::new(bytes), None)?.schema()),
        _ => Err(QueryError::internal("a text file has no schema")),
    }
}

fn parquet_error(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::data(format!("the Parquet file is not readable: {error}"))
}

/// Casts a column of a file to the type of `field`.
///
/// # Errors
/// `Data` if a value has no equal in that type: 3.9 is no integer, and 300 no TINYINT.
fn whole(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let (from, to) = (column.data_type(), field.data_type());
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let lossy = |reason: &str| {
        QueryError::data(format!(
            "column `{}` has type {from} in the file and {to} in the table, and {reason}; declare the type of the file",
            field.name()
        ))
    };
    let made = cast_with_options(column, to, &strict).map_err(|error| lossy(&error.to_string()))?;
    if from.is_numeric() && to.is_numeric() && cast(&made, from)?.as_ref() != column.as_ref() {
        return Err(lossy("a value would change"));
    }
    Ok(made)
}

/// Returns the columns of `schema` by name, cast to its types. A column that the file lacks is null.
fn as_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
            Some(column) => whole(column, field)?,
            None => new_null_array(field.data_type(), batch.num_rows()),
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// Divides whole lines into pieces of about `size` bytes.
pub(crate) fn pieces(bytes: &Bytes, size: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        let wanted = (from + size).min(bytes.len());
        let rest = Cursor::new(&bytes[wanted..]);
        let line = if wanted < bytes.len() { rest.skip_line() } else { 0 };
        let until = wanted + line;
        pieces.push(bytes.slice(from..until));
        from = until;
    }
    pieces
}

trait SkipLine {
    /// Returns the number of bytes up to the end of the line.
    fn skip_line(self) -> usize;
}

impl<R: BufRead> SkipLine for R {
    fn skip_line(mut self) -> usize {
        let mut line = Vec::new();
        // Reading from memory does not fail.
        self.read_until(b'\n', &mut line).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(lines: &str, bad_data: BadData) -> Result<Decoded> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("t", DataType::Utf8, true),
        ]));
        decode_lines(&Format::Json { unstructured: false }, &schema, &[], lines.as_bytes(), bad_data)
    }

    #[test]
    fn fraction_in_an_integer_column_is_a_bad_row() {
        let lines = "{\"n\":1,\"f\":1.5}\n{\"n\":3.9}\n{\"n\":2}\n";
        let good = decoded(lines, BadData::Drop).expect("bad rows are dropped");
        assert_eq!(good.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        assert!(good.bad[0].reason.contains("column `n` is Int64, but the value is 3.9"), "{:?}", good.bad);
        assert!(decoded(lines, BadData::Fail).expect_err("bad rows fail").message.contains("3.9"));
    }

    #[test]
    fn times_are_not_taken_for_fractions() {
        assert!(!may_have_fractions(b"{\"t\":\"2024-01-01T12:30:00.5\",\"n\":1}"));
        for line in ["{\"n\":1.5}", "{\"n\": -1.5}", "{\"n\":[1, 2.5]}", "{\"n\":[0.1]}"] {
            assert!(may_have_fractions(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn pieces_end_with_lines() {
        let bytes = Bytes::from_static(b"aaa\nbb\nc\ndddddd");
        let pieces: Vec<Bytes> = pieces(&bytes, 2);
        assert_eq!(pieces, ["aaa\n", "bb\n", "c\ndddddd"]);
    }
}
