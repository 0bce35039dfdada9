//! Writes a result in one of several formats.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray, RecordBatch,
    RecordBatchOptions, StringArray,
};
use arrow::compute::cast;
use arrow::csv::WriterBuilder as CsvWriterBuilder;
use arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use arrow::json::writer::NullableEncoder;
use arrow::json::writer::{JsonArray, LineDelimited};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions, WriterBuilder as JsonWriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_schema;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buzz_protocol::{QueryError, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::rows::{Batches, Rows};

/// Formats of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for reading in a terminal.
    Table,
    /// An array of objects.
    Json,
    /// One object per line.
    Ndjson,
    /// Comma-separated values with a header.
    Csv,
    /// An Arrow IPC file.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Every format and its description, for `--help`.
pub const FORMATS: [(Format, &str); 6] = [
    (Format::Table, "A table for reading in a terminal"),
    (Format::Json, "An array of objects"),
    (Format::Ndjson, "One object per line"),
    (Format::Csv, "Comma-separated values with a header"),
    (Format::Arrow, "An Arrow IPC file"),
    (Format::Parquet, "A Parquet file"),
];

impl Format {
    /// Returns the name used on the command line and in events.
    pub fn name(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Json => "json",
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Arrow => "arrow",
            Format::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self> {
        let found = FORMATS.iter().find(|(format, _)| format.name() == text);
        found.map(|(format, _)| *format).ok_or_else(|| {
            let all = FORMATS.map(|(format, _)| format.name()).join(", ");
            QueryError::invalid(format!("format `{text}` does not exist; use one of {all}"))
        })
    }
}

/// An error of writing: in the output or in the rows.
#[derive(Debug)]
pub enum WriteError {
    /// The output is not writable.
    Io(io::Error),
    /// The rows cannot be read, or do not fit the format.
    Rows(QueryError),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<QueryError> for WriteError {
    fn from(error: QueryError) -> Self {
        Self::Rows(error)
    }
}

impl From<ArrowError> for WriteError {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::IoError(_, source) => Self::Io(source),
            other => Self::Rows(other.into()),
        }
    }
}

impl From<parquet::errors::ParquetError> for WriteError {
    fn from(error: parquet::errors::ParquetError) -> Self {
        use parquet::errors::ParquetError;
        match error {
            ParquetError::External(source) => match source.downcast::<io::Error>() {
                Ok(source) => Self::Io(*source),
                Err(source) => Self::Rows(QueryError::invalid(source.to_string())),
            },
            other => Self::Rows(QueryError::invalid(format!("the result cannot be written as Parquet: {other}"))),
        }
    }
}

/// Checks that a result with `schema` can be written as `format`, before the query runs.
///
/// # Errors
/// `Invalid` if two columns of a JSON object would have the same name.
pub fn check(schema: &Schema, format: Format) -> Result<()> {
    match format {
        Format::Json | Format::Ndjson => check_unique(schema),
        _ => Ok(()),
    }
}

/// Writes `rows` to `out`.
///
/// # Errors
/// `Io` if `out` is not writable, `Rows` if the rows cannot be read or do not fit the format.
pub fn write(rows: &Rows, format: Format, out: &mut dyn Write) -> Result<(), WriteError> {
    let schema = rows.schema();
    check(&schema, format)?;
    let batches = rows.batches()?;
    let mut out = Watched { out, failed: None };
    let written = match format {
        Format::Table => table(schema, batches, &mut out),
        Format::Json => json::<JsonArray>(batches, &mut out, b"[]\n", b"\n"),
        Format::Ndjson => json::<LineDelimited>(batches, &mut out, b"", b""),
        Format::Csv => csv(&schema, batches, &mut out),
        Format::Arrow => arrow_file(&schema, batches, &mut out),
        Format::Parquet => parquet_file(&schema, batches, &mut out),
    };
    match (written, out.failed) {
        (Err(_), Some(error)) => Err(WriteError::Io(error)),
        (written, _) => written,
    }
}

/// Returns the operating system's error without the path, which may be that of a temporary file.
pub fn plain(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error)
}

/// An output that records its last error: some writers return it only as text, like an error in the rows.
struct Watched<'a> {
    out: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Watched<'_> {
    fn noted<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(plain(error));
            }
        })
    }
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.out.write(bytes);
        self.noted(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.out.flush();
        self.noted(done)
    }
}

fn check_unique(schema: &Schema) -> Result<()> {
    let mut names = HashSet::new();
    match schema.fields().iter().find(|field| !names.insert(field.name())) {
        Some(twice) => Err(QueryError::invalid(format!(
            "two columns are called `{}`, which a JSON object cannot contain; rename one: \"SELECT … AS other_name\"",
            twice.name()
        ))),
        None => Ok(()),
    }
}

fn table(schema: SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let text = pretty_format_batches_with_schema(schema, &batches)?;
    Ok(writeln!(out, "{text}")?)
}

fn json<F: arrow::json::writer::JsonFormat>(
    batches: Batches,
    out: &mut dyn Write,
    when_empty: &[u8],
    end: &[u8],
) -> Result<(), WriteError> {
    let mut batches = batches.filter(|batch| batch.as_ref().map_or(true, |batch| batch.num_rows() > 0)).peekable();
    if batches.peek().is_none() {
        return Ok(out.write_all(when_empty)?);
    }
    let builder = JsonWriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(ExactValues));
    let mut writer = builder.build::<_, F>(&mut *out);
    for batch in batches {
        writer.write(&json_batch(&batch?)?)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(out.write_all(end)?)
}

/// Converts the keys of maps to text, which JSON requires.
fn json_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    replace_columns(batch, |array| match array.data_type() {
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 && fields[0].data_type() != &DataType::Utf8 => {
                let key = fields[0].as_ref().clone().with_data_type(DataType::Utf8);
                let pair = DataType::Struct(vec![Arc::new(key), Arc::clone(&fields[1])].into());
                let entries = entries.as_ref().clone().with_data_type(pair);
                cast(array, &DataType::Map(Arc::new(entries), *sorted))
            }
            _ => Ok(Arc::clone(array)),
        },
        _ => Ok(Arc::clone(array)),
    })
}

/// Encodes values that JSON cannot represent or that arrow's writer would lose. NaN and infinities become strings,
/// binary becomes base64. Integers and decimals keep every digit.
#[derive(Debug)]
struct ExactValues;

impl EncoderFactory for ExactValues {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let nulls = array.nulls().cloned();
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => {
                let values = array.as_primitive::<Float16Type>();
                Box::new(Floats(Box::new(move |index| f64::from(values.value(index)).to_text())))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                Box::new(Floats(Box::new(move |index| values.value(index).to_text())))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                Box::new(Floats(Box::new(move |index| values.value(index).to_text())))
            }
            DataType::Binary => bytes_of(array.as_any().downcast_ref::<BinaryArray>().map(|a| a as _))?,
            DataType::LargeBinary => bytes_of(array.as_any().downcast_ref::<LargeBinaryArray>().map(|a| a as _))?,
            DataType::BinaryView => bytes_of(array.as_any().downcast_ref::<BinaryViewArray>().map(|a| a as _))?,
            DataType::FixedSizeBinary(_) => {
                bytes_of(array.as_any().downcast_ref::<FixedSizeBinaryArray>().map(|a| a as _))?
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, nulls)))
    }
}

/// Formats a float as JSON: the shortest text that parses to the same value.
trait ToText {
    fn to_text(self) -> String;
}

macro_rules! float_to_text {
    ($float:ty) => {
        impl ToText for $float {
            fn to_text(self) -> String {
                match self {
                    value if value.is_nan() => "\"NaN\"".to_string(),
                    <$float>::INFINITY => "\"Infinity\"".to_string(),
                    <$float>::NEG_INFINITY => "\"-Infinity\"".to_string(),
                    value => format!("{value:?}"),
                }
            }
        }
    };
}

float_to_text!(f32);
float_to_text!(f64);

struct Floats<'a>(Box<dyn Fn(usize) -> String + 'a>);

impl Encoder for Floats<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.extend_from_slice((self.0)(index).as_bytes());
    }
}

trait Bytes {
    fn bytes(&self, index: usize) -> &[u8];
}

macro_rules! bytes_by_value {
    ($($array:ty),*) => {
        $(impl Bytes for $array {
            fn bytes(&self, index: usize) -> &[u8] {
                self.value(index)
            }
        })*
    };
}

bytes_by_value!(BinaryArray, LargeBinaryArray, BinaryViewArray, FixedSizeBinaryArray);

struct Base64<'a>(&'a dyn Bytes);

impl Encoder for Base64<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(self.0.bytes(index)).as_bytes());
        out.push(b'"');
    }
}

fn bytes_of<'a>(array: Option<&'a dyn Bytes>) -> Result<Box<dyn Encoder + 'a>, ArrowError> {
    let array = array.ok_or_else(|| ArrowError::CastError("an array has another type than it declares".to_string()))?;
    Ok(Box::new(Base64(array)))
}

fn csv(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let mut writer = CsvWriterBuilder::new().with_header(true).build(&mut *out);
    writer.write(&csv_batch(&RecordBatch::new_empty(Arc::clone(schema)))?)?;
    for batch in batches {
        writer.write(&csv_batch(&batch?)?)?;
    }
    Ok(())
}

/// Converts nested and binary values to text, which CSV requires.
fn csv_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    replace_columns(batch, |array| match array.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            as_text(array)
        }
        other if other.is_nested() => as_text(array),
        _ => Ok(Arc::clone(array)),
    })
}

fn as_text(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default())?;
    let texts: Vec<Option<String>> =
        (0..array.len()).map(|index| array.is_valid(index).then(|| formatter.value(index).to_string())).collect();
    Ok(Arc::new(StringArray::from(texts)))
}

fn arrow_file(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let schema = plain_batch(&RecordBatch::new_empty(Arc::clone(schema)))?.schema();
    let mut writer = FileWriter::try_new(&mut *out, &schema)?;
    for batch in batches {
        writer.write(&plain_batch(&batch?)?)?;
    }
    Ok(writer.finish()?)
}

fn parquet_file(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let schema = plain_batch(&RecordBatch::new_empty(Arc::clone(schema)))?.schema();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    // `ArrowWriter` requires an output that is `Send`; the lock of standard output is not.
    let mut buffer = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut buffer, schema, Some(properties))?;
    for batch in batches {
        writer.write(&plain_batch(&batch?)?)?;
        let written = writer.inner_mut();
        out.write_all(written)?;
        written.clear();
    }
    writer.close()?;
    Ok(out.write_all(&buffer)?)
}

/// Converts views and dictionaries to plain types, which every reader of Arrow and Parquet files supports. Batches of
/// several files may also have different dictionaries, but an Arrow file has one per column.
fn plain_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    replace_columns(batch, |array| match plain_type(array.data_type()) {
        same if same == *array.data_type() => Ok(Arc::clone(array)),
        plain => cast(array, &plain),
    })
}

fn plain_type(data_type: &DataType) -> DataType {
    let plain = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        DataType::List(item) => DataType::List(plain(item)),
        DataType::LargeList(item) => DataType::LargeList(plain(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(plain(entries), *sorted),
        other => other.clone(),
    }
}

fn replace_columns(
    batch: &RecordBatch,
    replace: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(replace).collect::<Result<Vec<_>, _>>()?;
    let schema = batch.schema();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

#[cfg(test)]
mod tests {
    use buzz_fuse::ResultSink;

    use super::*;

    #[test]
    fn batches_with_different_dictionaries_are_written() {
        let batch = |text: &str| {
            let texts: ArrayRef =
                Arc::new([Some(text), None].into_iter().collect::<arrow::array::DictionaryArray<_>>()
                    as arrow::array::DictionaryArray<arrow::datatypes::Int32Type>);
            let field = Field::new("d", texts.data_type().clone(), true);
            let within: ArrayRef =
                Arc::new(arrow::array::StructArray::from(vec![(Arc::new(field), Arc::clone(&texts))]));
            RecordBatch::try_from_iter([("d", texts), ("s", within)]).unwrap()
        };
        let mut rows = Rows::new();
        rows.start(batch("a").schema()).unwrap();
        rows.write(batch("a")).unwrap();
        rows.write(batch("b")).unwrap();
        for format in [Format::Arrow, Format::Parquet] {
            let mut file = Vec::new();
            write(&rows, format, &mut file).unwrap();
            assert!(!file.is_empty());
        }
        let plain = plain_batch(&batch("a")).unwrap();
        assert_eq!(plain.column(0).data_type(), &DataType::Utf8);
        assert_eq!(plain.column(1).data_type(), &plain_type(plain.column(1).data_type()));
    }

    /// A disk with `left` free bytes.
    struct Full {
        left: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_disk_is_an_io_error_in_every_format() {
        let mut rows = Rows::new();
        let values: arrow::array::ArrayRef = std::sync::Arc::new(arrow::array::Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("a", values)]).unwrap();
        ResultSink::start(&mut rows, batch.schema()).unwrap();
        ResultSink::write(&mut rows, batch).unwrap();
        for format in [Format::Table, Format::Json, Format::Ndjson, Format::Csv, Format::Arrow, Format::Parquet] {
            match write(&rows, format, &mut Full { left: 10 }) {
                Err(WriteError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
                other => panic!("{}: {other:?}", format.name()),
            }
        }
    }
}
