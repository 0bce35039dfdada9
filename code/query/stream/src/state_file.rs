//! State rows as bytes: Parquet, or Arrow IPC for types that Parquet lacks.

use std::collections::HashMap;
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
        // Parquet lacks some of these types and returns others as different types.
        DataType::Interval(_) | DataType::Duration(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            needs_ipc(field.data_type())
        }
        DataType::Struct(fields) => fields.is_empty() || fields.iter().any(|field| needs_ipc(field.data_type())),
        DataType::Map(field, _) => needs_ipc(field.data_type()),
        _ => false,
    }
}

/// The key of the watermark in the metadata of a state file.
const BEFORE: &str = "buzz.before";

/// Encodes state rows. `before` is the watermark, in nanoseconds, that was valid before the rows were added.
///
/// # Errors
/// `Internal` if the rows cannot be encoded.
pub fn encode(schema: &SchemaRef, before: i64, batches: &[RecordBatch]) -> Result<Bytes> {
    let metadata = HashMap::from([(BEFORE.to_string(), before.to_string())]);
    let schema = &Arc::new(schema.as_ref().clone().with_metadata(metadata));
    let batches = batches.iter().map(|batch| batch.clone().with_schema(Arc::clone(schema)));
    let batches = &batches.collect::<Result<Vec<_>, _>>()?;
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
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(level)).set_dictionary_enabled(false).build();
        let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(schema), Some(properties)).map_err(failed)?;
        for batch in batches {
            writer.write(batch).map_err(failed)?;
        }
        writer.close().map_err(failed)?;
    }
    Ok(Bytes::from(bytes))
}

/// Decodes state rows, and the watermark that was valid before they were added.
///
/// # Errors
/// `Data` if the bytes are not such a file.
pub fn decode(schema: &SchemaRef, bytes: Bytes) -> Result<(i64, Vec<RecordBatch>)> {
    let stored: SchemaRef;
    let batches: Vec<RecordBatch> = if extension(schema) == "arrow" {
        let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
        stored = reader.schema();
        reader.collect::<Result<_, _>>()?
    } else {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(broken)?;
        stored = Arc::clone(builder.schema());
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
    let before = stored.metadata().get(BEFORE).and_then(|text| text.parse().ok());
    let before = before.ok_or_else(|| QueryError::data("a state file has no watermark; it was not written by Buzz"))?;
    Ok((before, batches))
}

fn failed(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::internal(format!("state cannot be encoded: {error}"))
}

fn broken(error: parquet::errors::ParquetError) -> QueryError {
    QueryError::data(format!("a state file is not readable: {error}"))
}
