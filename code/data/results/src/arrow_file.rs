//! Rows as an Arrow file.

use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::FileWriter;
use buzz_engine::Batches;

use crate::columns::plain_batch;
use crate::format::WriteError;
use crate::parallel::{in_order, threads};

/// Writes an Arrow IPC file. Several threads convert the columns.
pub(crate) fn arrow_file(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let schema = plain_batch(&RecordBatch::new_empty(Arc::clone(schema)))?.schema();
    let mut writer = FileWriter::try_new(&mut *out, &schema)?;
    let convert = |batch: RecordBatch| Ok(plain_batch(&batch)?);
    in_order(batches, usize::MAX, threads(), &convert, &mut |batch| Ok(writer.write(&batch)?))?;
    Ok(writer.finish()?)
}
