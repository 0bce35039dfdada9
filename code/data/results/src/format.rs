//! Writes a result in one of several formats.

use std::io::{self, Write};

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use buzz_engine::{Batches, Rows};
use buzz_protocol::{Format, QueryError, Result};

use crate::arrow_file::arrow_file;
pub use crate::check::check;
use crate::csv::csv;
use crate::json::{json_array, json_lines};
use crate::parquet_file::parquet_file;
use crate::table::{Cut, Layout, table};
use crate::times::{check_times, checked_times};

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

/// Writes `rows` to `out`. A table has any width and all rows.
///
/// # Errors
/// `Io` if `out` is not writable, `Rows` if the rows cannot be read or do not fit the format.
pub fn write(rows: &Rows, format: Format, out: &mut dyn Write) -> Result<(), WriteError> {
    write_within(rows, format, &Layout::default(), out).map(|_| ())
}

/// Writes `rows` to `out`. A table has the given layout; returns the parts that it does not have.
///
/// # Errors
/// As [`write()`].
pub fn write_within(rows: &Rows, format: Format, layout: &Layout, out: &mut dyn Write) -> Result<Cut, WriteError> {
    let schema = rows.schema();
    check(&schema, format)?;
    let mut out = Watched { out, failed: None };
    let written = write_batches(&schema, &|| rows.batches(), format, layout, &mut out);
    match (written, out.failed) {
        (Err(_), Some(error)) => Err(WriteError::Io(error)),
        (written, _) => written,
    }
}

/// Writes the batches that `read` returns, each time from the first.
pub(crate) fn write_batches(
    schema: &SchemaRef,
    read: &dyn Fn() -> Result<Batches>,
    format: Format,
    layout: &Layout,
    out: &mut dyn Write,
) -> Result<Cut, WriteError> {
    if has_text(format) {
        check_times(schema, read)?;
    }
    match format {
        Format::Table => table(schema, read, layout, out),
        other => encode(schema, read()?, other, out).map(|()| Cut::default()),
    }
}

/// Writes batches that are read once, while they come. If it fails, `out` has a part of them.
///
/// # Errors
/// `Invalid` for a table, which reads its rows twice; otherwise as [`write()`].
pub(crate) fn write_once(
    schema: &SchemaRef,
    batches: Batches,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    check(schema, format)?;
    let batches = if has_text(format) { checked_times(schema, batches) } else { batches };
    let mut out = Watched { out, failed: None };
    match (encode(schema, batches, format, &mut out), out.failed) {
        (Err(_), Some(error)) => Err(WriteError::Io(error)),
        (written, _) => written,
    }
}

/// Returns true if dates and times are written as text.
fn has_text(format: Format) -> bool {
    matches!(format, Format::Json | Format::Ndjson | Format::Csv)
}

fn encode(schema: &SchemaRef, batches: Batches, format: Format, out: &mut dyn Write) -> Result<(), WriteError> {
    match format {
        Format::Table => Err(QueryError::invalid("a table cannot be written while its rows come").into()),
        Format::Json => json_array(batches, out),
        Format::Ndjson => json_lines(batches, out),
        Format::Csv => csv(schema, batches, out),
        Format::Arrow => arrow_file(schema, batches, out),
        Format::Parquet => parquet_file(schema, batches, out),
    }
}

/// Returns the operating system's error without the path, which may be that of a temporary file.
pub fn plain(error: &io::Error) -> io::Error {
    match (error.raw_os_error(), error.kind()) {
        (Some(code), _) => io::Error::from_raw_os_error(code),
        // It has nothing but its message.
        (None, io::ErrorKind::Other) => io::Error::other(error.to_string()),
        (None, kind) => io::Error::from(kind),
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, RecordBatch};
    use arrow::datatypes::{DataType, Field};
    use buzz_engine::RowSink;

    use super::*;
    use crate::columns::{plain_batch, plain_type};

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
        buzz_engine::RowSink::start(&mut rows, batch.schema()).unwrap();
        buzz_engine::RowSink::write(&mut rows, batch).unwrap();
        for format in [Format::Table, Format::Json, Format::Ndjson, Format::Csv, Format::Arrow, Format::Parquet] {
            match write(&rows, format, &mut Full { left: 10 }) {
                Err(WriteError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
                other => panic!("{}: {other:?}", format.name()),
            }
        }
    }
}
