//! Keeps the rows of an answer until they are complete: in memory, then in a temporary file. So nothing is printed of a
//! query that fails.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result, human_bytes};
use parking_lot::Mutex;

/// Bytes of rows that are kept in memory.
const MEMORY_BYTES: usize = 128 << 20;

/// Takes the rows of an answer while it is computed.
#[async_trait]
pub trait RowSink: Send {
    /// Begins an answer with `schema`. If called again, the rows so far are dropped: the query is run once more.
    ///
    /// # Errors
    /// If the rows cannot be kept.
    fn start(&mut self, schema: SchemaRef) -> Result<()>;

    /// Waits until the sink takes a batch. A query calls it before each [`RowSink::write`], so that rows do not come faster
    /// than they are taken.
    ///
    /// # Errors
    /// If the rows cannot be kept.
    async fn ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// Adds rows.
    ///
    /// # Errors
    /// If the rows cannot be kept.
    fn write(&mut self, batch: RecordBatch) -> Result<()>;
}

/// A sink that an engine takes once, for the rows of one question.
#[derive(Clone)]
pub struct SinkOnce(Arc<Mutex<Option<Box<dyn RowSink>>>>);

impl std::fmt::Debug for SinkOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SinkOnce")
    }
}

impl SinkOnce {
    /// Makes a sink that can be taken.
    pub fn new(sink: impl RowSink + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(sink)))))
    }

    /// Returns the sink, or `None` if it was taken before.
    pub fn take(&self) -> Option<Box<dyn RowSink>> {
        self.0.lock().take()
    }
}

/// Bytes of the rows of a result, and their maximum.
#[derive(Debug, Clone, Copy)]
pub struct ResultBytes {
    bytes: u64,
    bytes_max: u64,
}

impl ResultBytes {
    /// Makes the count of a result without rows that may have `bytes_max`, the option `max_result_bytes`.
    pub fn at_most(bytes_max: u64) -> Self {
        Self { bytes: 0, bytes_max }
    }

    /// Returns the bytes so far.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Returns the count of another result without rows, of the same maximum.
    #[must_use]
    pub fn again(self) -> Self {
        Self::at_most(self.bytes_max)
    }

    /// Adds `batch`.
    ///
    /// # Errors
    /// `Limit`, naming the option, if the rows have more bytes than they may.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let size = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default() as u64;
        self.bytes += batch.columns().iter().map(size).sum::<u64>();
        if self.bytes > self.bytes_max {
            return Err(QueryError::limit(format!(
                "the result has more than {}; select less, or raise the option `max_result_bytes`",
                human_bytes(self.bytes_max)
            )));
        }
        Ok(())
    }
}

/// Rows of an answer, in memory and beyond 128 MiB in a temporary file.
pub struct Rows {
    schema: SchemaRef,
    memory: Vec<RecordBatch>,
    memory_bytes: usize,
    memory_bytes_max: usize,
    /// Bytes of all rows, wherever they are kept.
    size: ResultBytes,
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
    /// Makes an empty set of rows.
    pub fn new() -> Self {
        Self::with_memory(MEMORY_BYTES)
    }

    /// Makes an empty set of rows that keeps `memory_bytes_max` in memory and the rest in a file.
    pub fn with_memory(memory_bytes_max: usize) -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            memory: Vec::new(),
            memory_bytes: 0,
            memory_bytes_max,
            size: ResultBytes::at_most(u64::MAX),
            spilled: None,
        }
    }

    /// Limits all rows to `bytes_max`, the option `max_result_bytes`.
    #[must_use]
    pub fn at_most(self, bytes_max: u64) -> Self {
        Self { size: ResultBytes::at_most(bytes_max), ..self }
    }

    /// Returns the columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Returns the bytes of all rows as arrays, wherever they are kept.
    pub fn bytes(&self) -> u64 {
        self.size.bytes()
    }

    /// Returns the rows, in their order. They can be read any number of times.
    ///
    /// # Errors
    /// `Limit` if the temporary file cannot be read back.
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

/// Batches in order.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// Reads a file from its start without moving the position at which it is written.
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
    QueryError::not_spilled("the result cannot be kept", None, &error)
}

impl RowSink for Rows {
    fn start(&mut self, schema: SchemaRef) -> Result<()> {
        *self = Self { size: self.size.again(), ..Self::with_memory(self.memory_bytes_max) };
        self.schema = schema;
        Ok(())
    }

    fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.size.add(&batch)?;
        if self.spilled.is_none() {
            self.memory_bytes += batch.get_array_memory_size();
            if self.memory_bytes <= self.memory_bytes_max {
                self.memory.push(batch);
                return Ok(());
            }
            let file = tempfile::tempfile().map_err(not_kept)?;
            self.spilled = Some(StreamWriter::try_new(file, &batch.schema())?);
        }
        let writer = self.spilled.as_mut().expect("it was made just now or before");
        writer.write(&batch).map_err(|error| match error {
            ArrowError::IoError(_, error) => not_kept(error),
            error => QueryError::limit(format!("the result cannot be kept: {error}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field};
    use buzz_protocol::ErrorKind;

    use super::*;

    fn batch(values: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(values))]).unwrap()
    }

    #[test]
    fn rows_beyond_the_limit_of_the_result_are_an_error() {
        let mut rows = Rows::new().at_most(1000);
        rows.start(batch(0..1).schema()).unwrap();
        rows.write(batch(0..100)).unwrap();
        let error = rows.write(batch(0..100)).unwrap_err();
        assert!(error.kind == ErrorKind::Limit && error.message.contains("`max_result_bytes`"), "{error}");
        rows.start(batch(0..1).schema()).unwrap();
        rows.write(batch(0..100)).unwrap();
        assert!(rows.write(batch(0..100)).is_err(), "another run has the same limit");
    }

    #[test]
    fn rows_beyond_memory_are_read_back_in_order() {
        let mut rows = Rows::with_memory(1000);
        rows.start(batch(0..1).schema()).unwrap();
        rows.write(batch(90..99)).unwrap();
        rows.start(batch(0..1).schema()).unwrap();
        for start in [0, 100, 200, 300] {
            rows.write(batch(start..start + 100)).unwrap();
        }
        assert!(rows.spilled.is_some());
        assert_eq!(rows.bytes(), 4 * 800);
        let expected = [0, 100, 200, 300].map(|start| batch(start..start + 100));
        for _ in 0..2 {
            let batches: Vec<RecordBatch> = rows.batches().unwrap().collect::<Result<_>>().unwrap();
            assert_eq!(batches, expected);
        }
    }
}
