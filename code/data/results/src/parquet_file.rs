//! Rows as a Parquet file, whose columns are encoded by several threads.

use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use buzz_engine::Batches;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use crate::columns::{parquet_batch, parquet_column};
use crate::format::WriteError;
use crate::parallel::{for_each, threads};

/// Rows that are encoded at once: enough that starting the threads costs little.
const SLAB_ROWS: usize = 65_536;

/// Bytes of rows in memory that are encoded at once.
const SLAB_BYTES: usize = 32 << 20;

/// Rows up to which one thread encodes them.
const FEW_ROWS: usize = 8192;

/// Encoded bytes of a row group in memory, beyond which it ends early.
const GROUP_BYTES_MAX: usize = 512 << 20;

/// Writes a Parquet file, compressed by zstd.
pub(crate) fn parquet_file(schema: &SchemaRef, batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    let mut file = ParquetFile::new(schema, out)?;
    for batch in batches {
        file.add(batch?)?;
    }
    file.finish()
}

/// A file that is being written. Its bytes are those of [`ArrowWriter`].
struct ParquetFile<'a> {
    out: &'a mut dyn Write,
    /// Columns as they are stored.
    schema: SchemaRef,
    /// Writes to a buffer, which is emptied into `out`: the lock of standard output cannot be sent to other threads.
    writer: SerializedFileWriter<Vec<u8>>,
    factory: ArrowRowGroupWriterFactory,
    group_rows_max: usize,
    /// Columns of the row group that is being written, and its rows.
    group: Option<(Vec<Vec<ArrowColumnWriter>>, usize)>,
    /// Rows that are encoded next, and their number and bytes.
    slab: Vec<RecordBatch>,
    slab_rows: usize,
    slab_bytes: usize,
}

impl<'a> ParquetFile<'a> {
    fn new(schema: &SchemaRef, out: &'a mut dyn Write) -> Result<Self, WriteError> {
        let schema = parquet_batch(&RecordBatch::new_empty(Arc::clone(schema)))?.schema();
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let group_rows_max = properties.max_row_group_row_count().unwrap_or(usize::MAX).max(1);
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))?;
        let (writer, factory) = writer.into_serialized_writer()?;
        let (slab, slab_rows, slab_bytes) = (Vec::new(), 0, 0);
        Ok(Self { out, schema, writer, factory, group_rows_max, group: None, slab, slab_rows, slab_bytes })
    }

    /// Adds a batch, whose rows may belong to several row groups.
    fn add(&mut self, batch: RecordBatch) -> Result<(), WriteError> {
        let mut start = 0;
        while start < batch.num_rows() {
            let group_rows = self.group.as_ref().map_or(0, |(_, rows)| *rows) + self.slab_rows;
            let rows = (batch.num_rows() - start).min(self.group_rows_max - group_rows);
            let part = batch.slice(start, rows);
            start += rows;
            self.slab_rows += rows;
            self.slab_bytes += part.columns().iter().map(|column| slice_bytes(column.as_ref())).sum::<usize>();
            self.slab.push(part);
            let group_is_full = group_rows + rows == self.group_rows_max;
            if group_is_full || self.slab_rows >= SLAB_ROWS || self.slab_bytes >= SLAB_BYTES {
                let bytes = self.encode()?;
                if group_is_full || bytes >= GROUP_BYTES_MAX {
                    self.end_group()?;
                }
            }
        }
        Ok(())
    }

    /// Encodes the slab into the row group. Returns the bytes of the row group in memory.
    fn encode(&mut self) -> Result<usize, WriteError> {
        let (slab, added) = (std::mem::take(&mut self.slab), std::mem::take(&mut self.slab_rows));
        self.slab_bytes = 0;
        if added == 0 {
            return Ok(0);
        }
        if self.group.is_none() {
            self.group = Some((self.columns()?, 0));
        }
        let Some((columns, rows)) = &mut self.group else { return Ok(0) };
        *rows += added;
        let threads = if added > FEW_ROWS { threads() } else { 1 };
        let schema = &self.schema;
        let encode = |(number, writers): (usize, &mut Vec<ArrowColumnWriter>)| -> Result<usize, WriteError> {
            for batch in &slab {
                let column = parquet_column(batch.column(number))?;
                for (writer, leaf) in writers.iter_mut().zip(compute_leaves(schema.field(number), &column)?) {
                    writer.write(&leaf)?;
                }
            }
            Ok(writers.iter().map(ArrowColumnWriter::memory_size).sum())
        };
        Ok(for_each(columns.iter_mut().enumerate().collect(), threads, &encode)?.into_iter().sum())
    }

    /// Makes the writers of a new row group: for each column, those of its leaves.
    fn columns(&self) -> Result<Vec<Vec<ArrowColumnWriter>>, WriteError> {
        let mut columns: Vec<Vec<ArrowColumnWriter>> = self.schema.fields().iter().map(|_| Vec::new()).collect();
        let writers = self.factory.create_column_writers(self.writer.flushed_row_groups().len())?;
        for (leaf, writer) in writers.into_iter().enumerate() {
            columns[self.writer.schema_descr().get_column_root_idx(leaf)].push(writer);
        }
        Ok(columns)
    }

    /// Writes the row group, if there is one.
    fn end_group(&mut self) -> Result<(), WriteError> {
        let Some((columns, rows)) = self.group.take() else { return Ok(()) };
        let threads = if rows > FEW_ROWS { threads() } else { 1 };
        let close = |writers: Vec<ArrowColumnWriter>| -> Result<Vec<ArrowColumnChunk>, WriteError> {
            Ok(writers.into_iter().map(ArrowColumnWriter::close).collect::<Result<_, _>>()?)
        };
        let chunks = for_each(columns, threads, &close)?;
        let mut group = self.writer.next_row_group()?;
        for chunk in chunks.into_iter().flatten() {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        self.pass_on()
    }

    /// Empties the buffer into the output.
    fn pass_on(&mut self) -> Result<(), WriteError> {
        self.writer.flush()?;
        let written = self.writer.inner_mut();
        self.out.write_all(written)?;
        written.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), WriteError> {
        self.encode()?;
        self.end_group()?;
        self.writer.finish()?;
        self.pass_on()
    }
}

/// Returns the bytes of the rows of `array`, without the rest of the buffers that it is a part of.
fn slice_bytes(array: &dyn arrow::array::Array) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field};

    use super::*;

    /// Returns rows `from..to` of a table with plain and nested columns.
    fn batch(from: i64, to: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter((from..to).map(|row| (row % 7 != 0).then_some(row))));
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter_values((from..to).map(|row| format!("text {}", row % 9))));
        let halves: ArrayRef = Arc::new(Float64Array::from_iter_values((from..to).map(|row| row as f64 / 2.0)));
        let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
        let within: ArrayRef = Arc::new(StructArray::from(vec![
            (field("a", &numbers), Arc::clone(&numbers)),
            (field("b", &texts), Arc::clone(&texts)),
        ]));
        let lengths = (from..to).map(|_| 1);
        let item = Arc::new(Field::new_list_field(DataType::Float64, true));
        let lists: ArrayRef =
            Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::clone(&halves), None));
        let columns = [("n", numbers), ("s", within), ("t", texts), ("l", lists), ("h", halves)];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn bytes_are_those_of_one_thread() {
        let schema = batch(0, 1).schema();
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let group = i64::try_from(properties.max_row_group_row_count().unwrap()).unwrap();
        for ends in
            [vec![], vec![3], vec![5, 5, 8_000, 70_000, 150_001], vec![10, group - 1, group + 5, group + 90_000]]
        {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let batches: Vec<RecordBatch> =
                starts.zip(ends.iter().copied()).map(|(from, to)| batch(from, to)).collect();
            let mut expected = Vec::new();
            let mut writer =
                ArrowWriter::try_new(&mut expected, Arc::clone(&schema), Some(properties.clone())).unwrap();
            batches.iter().for_each(|batch| writer.write(batch).unwrap());
            writer.close().unwrap();
            let mut written = Vec::new();
            parquet_file(&schema, Box::new(batches.into_iter().map(Ok)), &mut written).unwrap();
            assert!(written == expected, "{} bytes instead of {}: {ends:?}", written.len(), expected.len());
        }
    }
}
