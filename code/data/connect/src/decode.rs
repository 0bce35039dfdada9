//! Decoding of files: records of JSON or CSV, Parquet and Arrow.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::csv::ReaderBuilder as CsvReaderBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::json::ReaderBuilder as JsonReaderBuilder;
use buzz_protocol::{QueryError, Result};
use buzz_storage::lossless;
use buzz_storage::text::{Syntax, as_texts, check_capitals, exact_batch, has_infinity};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::records::{Record, records};
use crate::source::{BadData, BadRow};
use crate::{avro, debezium};

/// The format of rows in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// JSON objects, of which each begins a line.
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
    /// JSON objects as in `Json`, of which each is a change of a row.
    DebeziumJson,
    /// One text per line, in a column `value`.
    RawString,
    /// Parquet.
    Parquet,
    /// An Arrow IPC stream or file.
    Arrow,
    /// An object container file of Avro.
    Avro,
}

impl Format {
    /// Returns true for formats whose records are JSON objects, which may span lines.
    pub(crate) fn has_objects(&self) -> bool {
        matches!(self, Self::Json { unstructured: false } | Self::DebeziumJson)
    }

    /// Returns true for formats in which a file can be divided at the ends of records.
    pub(crate) fn has_lines(&self) -> bool {
        matches!(self, Self::Json { .. } | Self::DebeziumJson | Self::Csv { .. } | Self::RawString)
    }
}

/// Rows of a file of which at least one must have a column of the table.
const FOREIGN_ROWS: usize = 100;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// Rows of a piece of a file.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) bad: Vec<BadRow>,
}

/// Returns the names in the header of a CSV file.
pub(crate) fn csv_names(header: &[u8], delimiter: u8) -> Vec<String> {
    let format = arrow::csv::reader::Format::default().with_header(true).with_delimiter(delimiter);
    let schema = format.infer_schema(Cursor::new(header), Some(0));
    schema.map_or_else(|_| Vec::new(), |(schema, _)| schema.fields().iter().map(|field| field.name().clone()).collect())
}

/// Rows of a file, and how they are decoded.
struct Rows<'a> {
    format: &'a Format,
    schema: &'a SchemaRef,
    /// The columns of a CSV file.
    names: &'a [String],
}

/// Decodes whole records. `names` are the columns of a CSV file.
pub(crate) fn decode_lines(
    format: &Format,
    schema: &SchemaRef,
    names: &[String],
    lines: &[u8],
    bad_data: BadData,
) -> Result<Decoded> {
    if *format == Format::DebeziumJson {
        let decoded = debezium::decode_records(schema, lines)?;
        return if bad_data == BadData::Fail { debezium::all_good(decoded) } else { Ok(decoded) };
    }
    let rows = Rows { format, schema, names };
    // Only quotes make a fault that the decoder does not find.
    let is_quoted = matches!(format, Format::Csv { .. }) && lines.contains(&b'"');
    let is_faulty = is_quoted && records(format, lines).any(|record| record.fault.is_some());
    if !is_faulty && let Ok(batches) = rows.decode(lines) {
        return Ok(Decoded { batches, bad: Vec::new() });
    }
    // The decoder names no record, so the bad ones are searched.
    let mut decoded = Decoded::default();
    rows.sift(&records(format, lines).collect::<Vec<_>>(), &mut decoded);
    match decoded.bad.first() {
        Some(BadRow { text, reason }) if bad_data == BadData::Fail => {
            let text: String = text.chars().take(200).collect();
            Err(QueryError::data(format!(
                "row `{text}` cannot be decoded: {reason}; repair it, or set bad_data = 'drop'"
            )))
        }
        _ => Ok(decoded),
    }
}

impl Rows<'_> {
    /// Decodes the good ones of `records` and notes the reasons of the others.
    fn sift(&self, records: &[Record<'_>], decoded: &mut Decoded) {
        let record = match records {
            [] => return,
            [record] => record,
            _ => {
                let apart = records.iter().any(|record| record.fault.is_some() || record.alone);
                let whole = || {
                    let mut text = Vec::with_capacity(records.iter().map(|record| record.text.len() + 1).sum());
                    for record in records {
                        text.extend_from_slice(record.text);
                        if !record.text.ends_with(b"\n") {
                            text.push(b'\n');
                        }
                    }
                    text
                };
                if !apart && let Ok(batches) = self.decode(&whole()) {
                    decoded.batches.extend(batches);
                    return;
                }
                let (first, second) = records.split_at(records.len() / 2);
                self.sift(first, decoded);
                self.sift(second, decoded);
                return;
            }
        };
        let batches = match record.fault {
            Some(fault) => Err(fault.to_string()),
            None => self.decode(record.text).map_err(|error| row_fault(self.format, self.schema, record.text, &error)),
        };
        match batches {
            Ok(batches) => decoded.batches.extend(batches),
            Err(reason) => decoded.bad.push(BadRow { text: record.row(), reason }),
        }
    }

    fn decode(&self, lines: &[u8]) -> Result<Vec<RecordBatch>> {
        match self.format {
            Format::Json { unstructured: true } | Format::RawString => {
                let texts: Vec<&str> = lines
                    .split(|&byte| byte == b'\n')
                    .filter(|line| !line.is_empty())
                    .map(std::str::from_utf8)
                    .collect::<Result<_, _>>()
                    .map_err(|error| QueryError::data(format!("a line is not UTF-8: {error}")))?;
                let column: ArrayRef = Arc::new(StringArray::from(texts));
                let column = cast(&column, self.schema.field(0).data_type())?;
                Ok(vec![RecordBatch::try_new(Arc::clone(self.schema), vec![column])?])
            }
            Format::Json { unstructured: false } => decode_json(self.schema, lines),
            Format::Csv { delimiter, .. } => decode_csv(self.schema, self.names, *delimiter, lines),
            Format::DebeziumJson => Err(QueryError::internal("changes are decoded by themselves")),
            Format::Parquet | Format::Arrow | Format::Avro => Err(QueryError::internal("a binary format has no lines")),
        }
    }
}

/// Returns the reason why `record`, for which the decoder had `error`, is bad.
pub(crate) fn row_fault(format: &Format, schema: &Schema, record: &[u8], error: &QueryError) -> String {
    number_as_time(format, schema, record).unwrap_or_else(|| reason_of(error))
}

/// Returns the reason for which a row is bad: the decoder's message, without the number that the line has in the part that was decoded.
fn reason_of(error: &QueryError) -> String {
    let text = error.to_string();
    let counts = text.strip_prefix("Csv error: incorrect number of fields for line ");
    let counts = counts.and_then(|rest| rest.split_once(", expected ")?.1.split_once(" got "));
    match counts {
        Some((wanted, found)) => format!("it has {found} values, but there are {wanted} columns"),
        None => text.strip_prefix("Json error: ").map(str::to_string).unwrap_or(text),
    }
}

/// Returns the keys of the first rows of a JSON file if none of these rows has a column of `own`: every value would be
/// null. Records that are not objects are left to the decoder.
pub(crate) fn foreign_keys(own: &Schema, bytes: &[u8]) -> Option<String> {
    let mut keys: Vec<String> = Vec::new();
    for record in records(&Format::Json { unstructured: false }, bytes).take(FOREIGN_ROWS) {
        let Ok(Value::Object(row)) = serde_json::from_slice(record.text) else { continue };
        if own.fields().is_empty() || row.keys().any(|key| own.field_with_name(key).is_ok()) {
            return None;
        }
        keys.extend(row.keys().filter(|key| !keys.contains(key)).cloned().collect::<Vec<_>>());
    }
    let known: Vec<String> = keys.iter().take(8).map(|key| format!("`{key}`")).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// Returns true if a number with a fraction or an exponent may stand outside of a text. Times such as `"12:30:00.5"` do
/// not count.
fn may_have_fractions(lines: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = lines[from..].iter().position(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        let mark = from + at;
        from = mark + 1;
        let digits = lines[..mark].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let goes_on = match lines.get(mark + 1) {
            Some(b'+' | b'-') => lines[mark] != b'.',
            next => next.is_some_and(u8::is_ascii_digit),
        };
        if digits == 0 || !goes_on {
            continue;
        }
        let before = &lines[..mark - digits];
        match before.strip_suffix(b"-").unwrap_or(before) {
            // The minutes of a time: a key ends with a quote.
            [.., before, b':'] if before.is_ascii_digit() => {}
            [.., b':' | b' ' | b'[' | b',' | b'\t' | b'\n' | b'\r'] => return true,
            _ => {}
        }
    }
    false
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_))
}

fn is_whole_or_decimal(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_decimal()
}

fn is_float_or_decimal(data_type: &DataType) -> bool {
    data_type.is_floating() || data_type.is_decimal()
}

/// Returns the reason why a JSON record is bad if a number stands where `schema` has a timestamp.
fn number_as_time(format: &Format, schema: &Schema, record: &[u8]) -> Option<String> {
    fn holds_number(value: &Value, data_type: &DataType) -> bool {
        match (value, data_type) {
            (Value::Number(_), DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_)) => true,
            (Value::Object(object), DataType::Struct(fields)) => fields
                .iter()
                .any(|field| object.get(field.name()).is_some_and(|value| holds_number(value, field.data_type()))),
            (Value::Array(values), DataType::List(item) | DataType::LargeList(item)) => {
                values.iter().any(|value| holds_number(value, item.data_type()))
            }
            _ => false,
        }
    }
    if *format != (Format::Json { unstructured: false }) {
        return None;
    }
    let row: Value = serde_json::from_slice(record).ok()?;
    let holds =
        |value: Option<&Value>, field: &Field| value.is_some_and(|value| holds_number(value, field.data_type()));
    let field = schema.fields().iter().find(|field| holds(row.get(field.name()), field))?;
    let name = field.name();
    Some(format!(
        "column `{name}` has a time, but the value is a number, {}, whose unit is not known; declare the number as \
         BIGINT and compute the time, as in `at TIMESTAMP AS to_timestamp_millis({name})`",
        row[name.as_str()]
    ))
}

/// Decodes JSON objects. Arrow's decoder cuts the fractions of numbers in columns of integers and decimals, takes a number
/// that is too large for infinity, and takes a number in a column of timestamps for nanoseconds. So timestamps are decoded
/// as texts, and columns with doubtful numbers are decoded a second time.
pub(crate) fn decode_json(schema: &SchemaRef, lines: &[u8]) -> Result<Vec<RecordBatch>> {
    let reader = JsonReaderBuilder::new(as_texts(schema, is_time)).with_batch_size(BATCH_ROWS);
    let read = reader.build(Cursor::new(lines))?.collect::<Result<Vec<RecordBatch>, ArrowError>>()?;
    let has_integers = as_texts(schema, DataType::is_integer) != *schema;
    let is_exact: fn(&DataType) -> bool = match (read.iter().any(has_infinity), has_integers) {
        (true, _) => DataType::is_numeric,
        (false, true) if may_have_fractions(lines) => is_whole_or_decimal,
        _ => DataType::is_decimal,
    };
    let mut batches = read.iter().map(|batch| with_times(batch, schema)).collect::<Result<Vec<RecordBatch>>>()?;
    let texts = as_texts(schema, is_exact);
    let exact: Vec<usize> = (0..schema.fields().len()).filter(|&at| texts.field(at) != schema.field(at)).collect();
    if exact.is_empty() {
        return Ok(batches);
    }
    let wanted: SchemaRef = Arc::new(schema.project(&exact)?);
    let again = JsonReaderBuilder::new(Arc::new(texts.project(&exact)?)).with_batch_size(BATCH_ROWS);
    let again = again.with_coerce_primitive(true).build(Cursor::new(lines))?;
    for (batch, texts) in batches.iter_mut().zip(again) {
        let numbers = exact_batch(&texts?, &wanted, Syntax::Json).map_err(inexact)?;
        let mut columns = batch.columns().to_vec();
        for (&at, column) in exact.iter().zip(numbers.columns()) {
            columns[at] = Arc::clone(column);
        }
        *batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
    }
    Ok(batches)
}

/// Casts the columns of `batch` that have texts instead of timestamps.
fn with_times(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        columns.push(if column.data_type() == field.data_type() {
            Arc::clone(column)
        } else {
            cast_with_options(column, field.data_type(), &strict)
                .map_err(|error| QueryError::data(format!("column `{}`: {error}", field.name())))?
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

fn inexact(error: ArrowError) -> QueryError {
    match error {
        ArrowError::ParseError(text) => QueryError::data(text),
        error => error.into(),
    }
}

/// Decodes records of CSV. Columns are found by name; those that the table does not have are read as texts. Arrow's decoder
/// cuts the digits that a decimal cannot hold, and takes a number that is too large for infinity, so such columns are
/// decoded as texts.
fn decode_csv(schema: &SchemaRef, names: &[String], delimiter: u8, lines: &[u8]) -> Result<Vec<RecordBatch>> {
    let field = |name: &String| match schema.field_with_name(name) {
        Ok(field) => field.clone().with_nullable(true),
        Err(_) => Field::new(name, DataType::Utf8, true),
    };
    let file: SchemaRef = Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()));
    let read = |is_exact: fn(&DataType) -> bool| -> Result<Vec<RecordBatch>> {
        let reader = CsvReaderBuilder::new(as_texts(&file, is_exact)).with_delimiter(delimiter);
        let reader = reader.with_batch_size(BATCH_ROWS).build(Cursor::new(lines))?;
        reader.map(|batch| exact_batch(&batch?, &file, Syntax::Csv).map_err(inexact)).collect()
    };
    let mut batches = read(DataType::is_decimal)?;
    if batches.iter().any(has_infinity) {
        batches = read(is_float_or_decimal)?;
    }
    batches.iter().map(|batch| as_schema(batch, schema)).collect()
}

/// Decodes a whole file.
pub(crate) fn decode_file(format: &Format, schema: &SchemaRef, bytes: Bytes) -> Result<Vec<RecordBatch>> {
    let batches: Vec<RecordBatch> = match format {
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(parquet_error)?;
            builder.with_batch_size(BATCH_ROWS).build().map_err(parquet_error)?.collect::<Result<_, _>>()?
        }
        Format::Arrow if bytes.starts_with(b"ARROW1") => {
            FileReader::try_new(Cursor::new(bytes), None)?.collect::<Result<_, _>>()?
        }
        Format::Arrow => StreamReader::try_new(Cursor::new(bytes), None)?.collect::<Result<_, _>>()?,
        Format::Avro => avro::file_batches(&bytes)?,
        _ => return Err(QueryError::internal("a text format is decoded by lines")),
    };
    if let Some(first) = batches.first() {
        check_fits(&first.schema(), schema, "the file")?;
    }
    batches.iter().map(|batch| as_schema(batch, schema)).collect()
}

/// Checks that the columns of `what` are among those of the table: otherwise every value would be null.
fn check_fits(own: &Schema, schema: &Schema, what: &str) -> Result<()> {
    let names: Vec<&str> = own.fields().iter().map(|field| field.name().as_str()).collect();
    check_capitals(schema, names.iter().copied())?;
    if !schema.fields().is_empty() && !names.iter().any(|name| schema.field_with_name(name).is_ok()) {
        let names = names.join("`, `");
        return Err(QueryError::data(format!("{what} has none of the table's columns; it has `{names}`")));
    }
    Ok(())
}

/// Returns the rows of messages with the columns of `schema`, by name.
///
/// # Errors
/// `Data` if none of the columns is there, or a value does not fit.
#[cfg(any(feature = "kafka", test))]
pub(crate) fn fitted(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    check_fits(&rows.schema(), schema, "the message")?;
    as_schema(rows, schema)
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
        Format::Avro => avro::file_schema(&bytes),
        _ => Err(QueryError::internal("a text file has no schema")),
    }
}

fn parquet_error(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::data(format!("the Parquet file is not readable: {error}"))
}

/// Returns the columns of `schema` by name, cast to its types. A column that the file lacks is null.
fn as_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match batch.column_by_name(field.name()) {
            Some(column) => lossless(column, field)?,
            None => new_null_array(field.data_type(), batch.num_rows()),
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Decimal128Type, Int64Type, TimeUnit, TimestampNanosecondType};

    use super::*;

    const JSON: Format = Format::Json { unstructured: false };
    const CSV: Format = Format::Csv { header: true, delimiter: b',' };

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("t", DataType::Utf8, true),
            Field::new("d", DataType::Decimal128(6, 1), true),
            Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
        ]))
    }

    fn decoded(lines: &str, bad_data: BadData) -> Result<Decoded> {
        decode_lines(&JSON, &schema(), &[], lines.as_bytes(), bad_data)
    }

    fn csv(names: &[&str], lines: &str) -> Decoded {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        decode_lines(&CSV, &schema(), &names, lines.as_bytes(), BadData::Drop).expect("bad rows are dropped")
    }

    fn integers(decoded: &Decoded) -> Vec<Option<i64>> {
        let columns = decoded.batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().iter());
        columns.flatten().collect()
    }

    fn texts(decoded: &Decoded) -> Vec<&str> {
        decoded.batches.iter().flat_map(|batch| batch.column(2).as_string::<i32>().iter().flatten()).collect()
    }

    fn bad(decoded: &Decoded) -> Vec<&str> {
        decoded.bad.iter().map(|row| row.text.as_str()).collect()
    }

    #[test]
    fn number_that_is_not_whole_is_bad_in_an_integer_column() {
        let lines = "{\"n\":1,\"f\":1.5}\n{\"n\":3.9}\n{\"n\":39e-1}\n{\"n\":-7E-1}\n{\"n\":2}\n{\"n\": 30e-1}\n{\"n\":1e2}\n\
                     {\"n\":9007199254740993.0}\n";
        let good = decoded(lines, BadData::Drop).expect("bad rows are dropped");
        assert_eq!(integers(&good), [1, 2, 3, 100, 9_007_199_254_740_993].map(Some));
        assert_eq!(bad(&good), ["{\"n\":3.9}", "{\"n\":39e-1}", "{\"n\":-7E-1}"]);
        assert!(good.bad[0].reason.contains("column `n`: `3.9` is not Int64"), "{:?}", good.bad);
        assert!(decoded(lines, BadData::Fail).expect_err("bad rows fail").message.contains("3.9"));
        let good = csv(&["n"], "1\n3.9\n39e-1\n2\n");
        assert_eq!((integers(&good), bad(&good)), (vec![Some(1), Some(2)], vec!["3.9", "39e-1"]));
    }

    #[test]
    fn decimal_that_its_type_cannot_hold_is_bad() {
        let decimals = |decoded: &Decoded| -> Vec<Option<i128>> {
            let columns = decoded.batches.iter().map(|batch| batch.column(3).as_primitive::<Decimal128Type>().iter());
            columns.flatten().collect()
        };
        let good = decoded("{\"d\":0.1}\n{\"d\":0.16}\n{\"d\":\"0.20\"}\n{\"d\":null}\n", BadData::Drop);
        let good = good.expect("bad rows are dropped");
        assert_eq!((decimals(&good), bad(&good)), (vec![Some(1), Some(2), None], vec!["{\"d\":0.16}"]));
        let good = csv(&["d", "n"], "0.1,1\n0.16,2\n0.20,3\n,4\n");
        assert_eq!((decimals(&good), bad(&good)), (vec![Some(1), Some(2), None], vec!["0.16,2"]));
    }

    #[test]
    fn number_that_is_too_large_is_bad_only_in_a_column() {
        let lines = "{\"n\":1,\"other\":1e400,\"f\":1.5}\n{\"n\":2,\"f\":1e400}\n";
        let good = decoded(lines, BadData::Drop).expect("bad rows are dropped");
        assert_eq!((integers(&good), bad(&good)), (vec![Some(1)], vec!["{\"n\":2,\"f\":1e400}"]));
        let good = csv(&["n", "f", "other"], "1,1.5,1e400\n2,1e400,1\n");
        assert_eq!((integers(&good), bad(&good)), (vec![Some(1)], vec!["2,1e400,1"]));
    }

    #[test]
    fn number_is_no_timestamp() {
        let lines =
            "{\"n\":1,\"at\":\"2024-01-01T00:00:00Z\"}\n{\"n\":2,\"at\":1704067200000}\n{\"n\":3,\"at\":null}\n";
        let good = decoded(lines, BadData::Drop).expect("bad rows are dropped");
        assert_eq!(integers(&good), [Some(1), Some(3)]);
        let times = good.batches[0].column(4).as_primitive::<TimestampNanosecondType>();
        assert_eq!(times.value(0), 1_704_067_200_000_000_000);
        assert!(good.bad[0].reason.contains("AS to_timestamp_millis(at)"), "{:?}", good.bad);
    }

    #[test]
    fn csv_row_with_line_breaks_stays_one_row() {
        let good = csv(&["n", "t"], "1,\"a\nb\"\n2,\"c\nd\"\nx,bad\n3,plain\n4,\"never\n5,e\n");
        assert_eq!(integers(&good), [1, 2, 3, 5].map(Some));
        assert_eq!(texts(&good), ["a\nb", "c\nd", "plain", "e"]);
        assert_eq!(bad(&good), ["x,bad", "4,\"never"]);
        assert!(good.bad[1].reason.contains("is never closed"), "{:?}", good.bad);
    }

    #[test]
    fn json_object_of_several_lines_is_one_row() {
        let lines =
            "{\n  \"n\": 1,\n  \"f\": 1.5\n}\n{\n  \"n\": 2.5\n}\n{\"n\": 3} {\"n\": 4}\n{\"n\": 5,\n{\"n\": 6}\n";
        let good = decoded(lines, BadData::Drop).expect("bad rows are dropped");
        assert_eq!(integers(&good), [1, 3, 4, 6].map(Some));
        assert_eq!(bad(&good), ["{\n  \"n\": 2.5\n}", "{\"n\": 5,"]);
    }

    #[test]
    fn times_are_not_taken_for_fractions() {
        assert!(!may_have_fractions(b"{\"t\":\"2024-01-01T12:30:00.5\",\"n\":1,\"u\":\"7e5\"}"));
        for line in
            ["{\"n\":1.5}", "{\"n\": -1.5}", "{\"n\":[1, 2.5]}", "{\"n\":[0.1]}", "{\"n\"\t:39e-1}", "{\"n\":\n1E2}"]
        {
            assert!(may_have_fractions(line.as_bytes()), "{line}");
        }
    }
}
