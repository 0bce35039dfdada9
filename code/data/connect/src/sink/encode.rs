//! Rows as bytes of a file.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvWriterBuilder;
use arrow::datatypes::SchemaRef;
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
