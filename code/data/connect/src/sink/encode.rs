//! Rows as bytes of a file.

use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::csv::WriterBuilder as CsvWriterBuilder;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::WriterBuilder as JsonWriterBuilder;
use arrow::json::writer::LineDelimited;
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// The format of written rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFormat {
    /// One JSON object per line.
    Json,
    /// CSV.
    Csv {
        /// The first line of a file has the names of the columns.
        header: bool,
    },
    /// Parquet.
    Parquet,
    /// Arrow IPC streams.
    Arrow,
}

impl WriteFormat {
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv { .. } => "csv",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }
}

/// Checks that `format` has a representation of each column, by writing a row of nulls.
///
/// # Errors
/// `Invalid`, with the column.
pub(super) fn check_format(format: WriteFormat, columns: &Schema) -> Result<()> {
    for field in columns.fields() {
        let alone = Arc::new(Schema::new(vec![field.as_ref().clone().with_nullable(true)]));
        let row = RecordBatch::try_new(Arc::clone(&alone), vec![new_null_array(field.data_type(), 1)])?;
        encode(format, &alone, &[row]).map_err(|error| {
            QueryError::invalid(format!(
                "column `{}` of type {} cannot be written as {}: {}; select its fields, cast it, or use another format",
                field.name(),
                field.data_type(),
                format.extension(),
                error.message
            ))
        })?;
    }
    Ok(())
}

/// Encodes rows as text. `first` is true for the first rows of a file.
///
/// # Errors
/// `Invalid` if a column has no representation in the format.
pub fn encode_lines(format: WriteFormat, first: bool, rows: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match format {
        WriteFormat::Json => {
            let mut writer = JsonWriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut bytes);
            for batch in rows {
                writer.write(batch)?;
            }
            writer.finish()?;
        }
        WriteFormat::Csv { header } => {
            let mut writer = CsvWriterBuilder::new().with_header(header && first).build(&mut bytes);
            for batch in rows {
                writer.write(batch)?;
            }
        }
        WriteFormat::Parquet | WriteFormat::Arrow => return Err(QueryError::internal("the format is not text")),
    }
    Ok(bytes)
}

/// Encodes rows with `schema` as one file.
pub(super) fn encode(format: WriteFormat, schema: &SchemaRef, rows: &[RecordBatch]) -> Result<Bytes> {
    if format == WriteFormat::Arrow {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, schema)?;
        for batch in rows {
            writer.write(batch)?;
        }
        writer.finish()?;
        drop(writer);
        return Ok(bytes.into());
    }
    if format != WriteFormat::Parquet {
        return Ok(encode_lines(format, true, rows)?.into());
    }
    let failed = |error: parquet::errors::ParquetError| QueryError::invalid(format!("rows cannot be written: {error}"));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(schema), Some(properties)).map_err(failed)?;
    for batch in rows {
        writer.write(batch).map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

    use super::*;

    #[test]
    fn format_without_a_type_names_the_column() {
        let parts = Fields::from(vec![Field::new("start", DataType::Int64, false)]);
        let columns = Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("t", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
            Field::new("w", DataType::Struct(parts), false),
        ]);
        for format in [WriteFormat::Json, WriteFormat::Parquet, WriteFormat::Arrow] {
            check_format(format, &columns).expect("it has all types");
        }
        let error = check_format(WriteFormat::Csv { header: true }, &columns).expect_err("CSV has no structs");
        assert!(error.message.starts_with("column `w` of type Struct"), "{error}");
        assert!(error.message.contains("cannot be written as csv"), "{error}");
    }
}
