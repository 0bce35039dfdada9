//! Rows as Arrow and Parquet files.

use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::FileWriter;
use buzz_engine::Batches;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::columns::{parquet_batch, plain_batch};
use crate::format::WriteError;

/// Writes an Arrow IPC file.
pub(crate) fn arrow_file(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let schema = plain_batch(&RecordBatch::new_empty(Arc::clone(schema)))?.schema();
    let mut writer = FileWriter::try_new(&mut *out, &schema)?;
    for batch in batches {
        writer.write(&plain_batch(&batch?)?)?;
    }
    Ok(writer.finish()?)
}

/// Writes a Parquet file, compressed by zstd.
pub(crate) fn parquet_file(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let schema = parquet_batch(&RecordBatch::new_empty(Arc::clone(schema)))?.schema();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    // `ArrowWriter` requires an output that is `Send`; the lock of standard output is not.
    let mut buffer = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut buffer, schema, Some(properties))?;
    for batch in batches {
        writer.write(&parquet_batch(&batch?)?)?;
        let written = writer.inner_mut();
        out.write_all(written)?;
        written.clear();
    }
    writer.close()?;
    Ok(out.write_all(&buffer)?)
}
