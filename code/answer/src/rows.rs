//! Collects a result until it is complete, in memory and then in a temporary file. A query that fails prints no rows.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use buzz_fuse::ResultSink;
use buzz_protocol::{QueryError, Result};

/// Maximum bytes of rows in memory; further rows spill to a file.
const MEMORY_BYTES: usize = 128 << 20;

/// The rows of a result, collected batch by batch.
pub struct Rows {
    schema: SchemaRef,
    memory: Vec<RecordBatch>,
    memory_bytes: usize,
    memory_bytes_max: usize,
    spilled: Option<StreamWriter<File>>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("memory_bytes", &self.memory_bytes).finish_non_exhaustive()
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::new()
    }
}

impl Rows {
    /// Creates an empty result.
    pub fn new() -> Self {
        Self::with_memory(MEMORY_BYTES)
    }

    /// Creates an empty result that spills rows to a file above `memory_bytes_max`.
    pub fn with_memory(memory_bytes_max: usize) -> Self {
        Self { schema: Arc::new(Schema::empty()), memory: Vec::new(), memory_bytes: 0, memory_bytes_max, spilled: None }
    }

    /// Returns the columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Returns the rows in their original order. They can be read any number of times.
    ///
    /// # Errors
    /// `Limit` if the temporary file cannot be opened again.
    pub fn batches(&self) -> Result<Batches> {
        let memory = self.memory.clone().into_iter().map(Ok);
        let Some(writer) = &self.spilled else {
            return Ok(Box::new(memory));
        };
        let file = ReadAt { file: writer.get_ref().try_clone().map_err(not_kept)?, offset: 0 };
        let spilled = StreamReader::try_new(BufReader::new(file), None)?;
        Ok(Box::new(memory.chain(spilled.map(|batch| batch.map_err(QueryError::from)))))
    }
}

/// The batches of a result, in order.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch>>>;

/// Reads a file from its start without moving its write position.
struct ReadAt {
    file: File,
    offset: u64,
}

impl Read for ReadAt {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn not_kept(error: std::io::Error) -> QueryError {
    QueryError::limit(format!("the result cannot be kept in a temporary file: {error}"))
}

impl ResultSink for Rows {
    fn start(&mut self, schema: SchemaRef) -> Result<()> {
        *self = Self::with_memory(self.memory_bytes_max);
        self.schema = schema;
        Ok(())
    }

    fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if self.spilled.is_none() {
            self.memory_bytes += batch.get_array_memory_size();
            if self.memory_bytes <= self.memory_bytes_max {
                self.memory.push(batch);
                return Ok(());
            }
            let file = tempfile::tempfile().map_err(not_kept)?;
            self.spilled = Some(StreamWriter::try_new(file, &batch.schema())?);
        }
        let writer = self.spilled.as_mut().expect("the writer exists from here on");
        writer
            .write(&batch)
            .map_err(|error| QueryError::limit(format!("the result cannot be kept in a temporary file: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn batch(values: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(values))]).unwrap()
    }

    #[test]
    fn rows_beyond_memory_come_back_in_order() {
        let mut rows = Rows::with_memory(1000);
        rows.start(batch(0..1).schema()).unwrap();
        rows.write(batch(90..99)).unwrap();
        rows.start(batch(0..1).schema()).unwrap();
        for start in [0, 100, 200, 300] {
            rows.write(batch(start..start + 100)).unwrap();
        }
        assert!(rows.spilled.is_some());
        let expected = [0, 100, 200, 300].map(|start| batch(start..start + 100));
        for _ in 0..2 {
            let batches: Vec<RecordBatch> = rows.batches().unwrap().collect::<Result<_>>().unwrap();
            assert_eq!(batches, expected);
        }
    }
}
