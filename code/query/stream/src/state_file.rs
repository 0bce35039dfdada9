//! State rows as bytes: Parquet, or Arrow IPC for types that Parquet lacks.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// Returns the file extension for state rows with `schema`.
pub fn extension(schema: &SchemaRef) -> &'static str {
    if schema.fields().iter().any(|field| needs_ipc(field.data_type())) { "arrow" } else { "parquet" }
}

fn needs_ipc(data_type: &DataType) -> bool {
    match data_type {
        // Parquet has no such interval, and it would return other types for these.
        DataType::Interval(_) | DataType::Duration(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            needs_ipc(field.data_type())
        }
        DataType::Struct(fields) => fields.is_empty() || fields.iter().any(|field| needs_ipc(field.data_type())),
        DataType::Map(field, _) => needs_ipc(field.data_type()),
        _ => false,
    }
}

/// Encodes state rows.
///
/// # Errors
/// `Internal` if the rows cannot be encoded.
pub fn encode(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Bytes> {
    let mut bytes = Vec::new();
    if extension(schema) == "arrow" {
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
        let mut writer = StreamWriter::try_new_with_options(&mut bytes, schema, options)?;
        for batch in batches {
            writer.write(batch)?;
        }
        writer.finish()?;
        drop(writer);
    } else {
        // Without dictionaries, files of many groups are five times smaller and faster to read.
        let level = ZstdLevel::try_new(1).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_dictionary_enabled(false)
            .build();
        let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(schema), Some(properties)).map_err(failed)?;
        for batch in batches {
            writer.write(batch).map_err(failed)?;
        }
        writer.close().map_err(failed)?;
    }
    Ok(Bytes::from(bytes))
}

/// Decodes state rows.
///
/// # Errors
/// `Data` if the bytes are not such a file.
pub fn decode(schema: &SchemaRef, bytes: Bytes) -> Result<Vec<RecordBatch>> {
    let batches: Vec<RecordBatch> = if extension(schema) == "arrow" {
        let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
        reader.collect::<Result<_, _>>()?
    } else {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(broken)?;
        builder.build().map_err(broken)?.collect::<Result<_, _>>()?
    };
    for batch in &batches {
        let types = |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        if types(&batch.schema()) != types(schema) {
            return Err(QueryError::data(
                "a state file has other columns than the script needs; it was written by another script or build",
            ));
        }
    }
    Ok(batches)
}

fn failed(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::internal(format!("state cannot be encoded: {error}"))
}

fn broken(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::data(format!("a state file is not readable: {error}"))
}
