//! Writes rows into a file while they come.
//!
//! [`written`] makes two ends: [`Incoming`] takes the rows of a query, [`Written`] waits until they are in the file. A thread
//! between them encodes; it holds up the query when it is slower. Who made the file decides if it is kept: until then it has
//! a part of the rows, or those of a run that was repeated.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_engine::{Batches, RowSink};
use buzz_protocol::{Format, QueryError, Result};
use parking_lot::Mutex;
use tokio::sync::mpsc::{OwnedPermit, Sender, channel};
use tokio::task::JoinHandle;

use crate::format::{WriteError, plain, write_once};

/// Batches that wait for the thread that encodes. The query waits while there are as many.
const BATCHES_WAITING: usize = 8;

/// Makes the two ends of a `file` in a `format`, which is any but a table. Errors call it `place`. The file is emptied first,
/// and its position moves: other handles of it must not be used until [`Written::end`] has returned.
pub fn written(file: File, format: Format, place: &Path) -> (Incoming, Written) {
    let ends = Ends { encoding: Arc::default(), place: place.into() };
    let incoming = Incoming { file: Arc::new(file), format, ends: ends.clone(), sender: None, permit: None };
    (incoming, Written { ends })
}

/// Returns the error of an output that is not writable, and why.
pub fn not_writable(place: &Path, why: &dyn std::fmt::Display) -> QueryError {
    QueryError::invalid(format!("output `{}` is not writable: {why}", place.display()))
}

/// The thread that encodes; `None` before the first row, and once its end was reported.
type Encoding = Arc<Mutex<Option<JoinHandle<Result<(), WriteError>>>>>;

/// The part that both ends have.
#[derive(Debug, Clone)]
struct Ends {
    encoding: Encoding,
    place: Arc<Path>,
}

impl Ends {
    /// Waits for the end of the thread and returns its error.
    async fn ended(&self) -> Result<()> {
        let running = self.encoding.lock().take();
        match running.ok_or_else(not_started)?.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WriteError::Rows(error))) => Err(error),
            Ok(Err(WriteError::Io(error))) => Err(not_writable(&self.place, &plain(&error))),
            Err(stopped) => Err(match stopped.try_into_panic() {
                Ok(panic) => QueryError::panicked(panic.as_ref()),
                Err(_) => ended(),
            }),
        }
    }
}

/// Takes the rows of a query and passes them to the thread that encodes them.
#[derive(Debug)]
pub struct Incoming {
    file: Arc<File>,
    format: Format,
    ends: Ends,
    sender: Option<Sender<Result<RecordBatch>>>,
    permit: Option<OwnedPermit<Result<RecordBatch>>>,
}

#[async_trait]
impl RowSink for Incoming {
    fn start(&mut self, schema: SchemaRef) -> Result<()> {
        self.permit = None;
        let (sender, mut receiver) = channel(BATCHES_WAITING);
        // The thread of an earlier run ends without an error if its rows end, but only the last run counts.
        self.sender = Some(sender);
        let (file, format, earlier) = (Arc::clone(&self.file), self.format, self.ends.encoding.lock().take());
        let runtime = tokio::runtime::Handle::current();
        let encode = move || {
            if let Some(earlier) = earlier {
                // Two threads must not write to the file at once. A failure of the earlier one does not matter.
                drop(runtime.block_on(earlier));
            }
            let batches: Batches = Box::new(std::iter::from_fn(move || receiver.blocking_recv()));
            encoded(&file, &schema, batches, format)
        };
        *self.ends.encoding.lock() = Some(tokio::task::spawn_blocking(encode));
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        if self.permit.is_some() {
            return Ok(());
        }
        let Some(sender) = &self.sender else { return Err(not_started()) };
        match sender.clone().reserve_owned().await {
            Ok(permit) => self.permit = Some(permit),
            // The thread has ended, which it does before the rows end only if it fails.
            Err(_) => return Err(self.ends.ended().await.err().unwrap_or_else(|| ended())),
        }
        Ok(())
    }

    fn write(&mut self, batch: RecordBatch) -> Result<()> {
        match (self.permit.take(), &self.sender) {
            (Some(permit), _) => drop(permit.send(Ok(batch))),
            (None, Some(sender)) => sender.try_send(Ok(batch)).map_err(|_| {
                QueryError::internal("rows were written although their output was not ready or has ended")
            })?,
            (None, None) => return Err(not_started()),
        }
        Ok(())
    }
}

/// The file with the rows that [`Incoming`] took.
#[derive(Debug)]
pub struct Written {
    ends: Ends,
}

impl Written {
    /// Waits until all rows are written. The other end must have been dropped, since only then the rows end.
    ///
    /// # Errors
    /// `Invalid` if the file is not writable or the rows do not fit the format; `Internal` if no rows were started.
    pub async fn end(self) -> Result<()> {
        self.ends.ended().await
    }
}

fn not_started() -> QueryError {
    QueryError::internal("rows are written before their columns are known")
}

fn ended() -> QueryError {
    QueryError::internal("the thread that writes the rows has ended")
}

/// Empties `file` and writes `batches`.
fn encoded(file: &File, schema: &SchemaRef, batches: Batches, format: Format) -> Result<(), WriteError> {
    let mut start = file;
    start.set_len(0)?;
    start.seek(SeekFrom::Start(0))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    write_once(schema, batches, format, &mut out)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Date32Array, Int64Array, StringArray};
    use buzz_engine::Rows;
    use buzz_protocol::ErrorKind;

    use super::*;
    use crate::format::write;

    const FORMATS: [Format; 5] = [Format::Json, Format::Ndjson, Format::Csv, Format::Arrow, Format::Parquet];

    fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("a,\"{row}"))));
        let days: ArrayRef = Arc::new(Date32Array::from_iter_values(rows.clone().map(|row| row as i32)));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter(rows.map(|row| (row % 3 > 0).then_some(row))));
        RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true), ("d", days, true)]).unwrap()
    }

    async fn sent(sink: &mut Incoming, batches: &[RecordBatch]) -> Result<()> {
        for batch in batches {
            sink.ready().await?;
            sink.write(batch.clone())?;
        }
        Ok(())
    }

    fn read(file: &tempfile::NamedTempFile) -> Vec<u8> {
        std::fs::read(file.path()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_come_have_the_bytes_of_rows_that_are_kept() {
        let batches: Vec<RecordBatch> = (0..40).map(|part| batch(part * 1000..(part + 1) * 1000)).collect();
        for batches in [&batches[..], &batches[..1], &[]] {
            let mut rows = Rows::new();
            rows.start(batch(0..1).schema()).unwrap();
            batches.iter().for_each(|batch| rows.write(batch.clone()).unwrap());
            for format in FORMATS {
                let mut expected = Vec::new();
                write(&rows, format, &mut expected).unwrap();
                let file = tempfile::NamedTempFile::new().unwrap();
                let (mut sink, written) = written(file.reopen().unwrap(), format, file.path());
                sink.start(batch(0..1).schema()).unwrap();
                sent(&mut sink, batches).await.unwrap();
                drop(sink);
                written.end().await.unwrap();
                assert!(read(&file) == expected, "{format} of {} batches", batches.len());
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_of_the_last_run_replace_those_before() {
        for format in FORMATS {
            let file = tempfile::NamedTempFile::new().unwrap();
            let (mut sink, end) = written(file.reopen().unwrap(), format, file.path());
            sink.start(batch(0..1).schema()).unwrap();
            sent(&mut sink, &(0..30).map(|_| batch(0..5000)).collect::<Vec<_>>()).await.unwrap();
            sink.start(batch(0..1).schema()).unwrap();
            sent(&mut sink, &[batch(7..9)]).await.unwrap();
            drop(sink);
            end.end().await.unwrap();
            let mut rows = Rows::new();
            rows.start(batch(0..1).schema()).unwrap();
            rows.write(batch(7..9)).unwrap();
            let mut expected = Vec::new();
            write(&rows, format, &mut expected).unwrap();
            assert!(read(&file) == expected, "{format}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn failed_encoder_fails_the_query_and_its_end() {
        let late: ArrayRef = Arc::new(Date32Array::from(vec![i32::MAX]));
        let late = RecordBatch::try_from_iter_with_nullable([("d", late, true)]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut sink, end) = written(file.reopen().unwrap(), Format::Csv, file.path());
        sink.start(late.schema()).unwrap();
        let batches: Vec<RecordBatch> = (0..100).map(|_| late.clone()).collect();
        let error = sent(&mut sink, &batches).await.unwrap_err();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains("without a text"), "{error}");
        drop(sink);
        assert!(end.end().await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn file_that_is_not_writable_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut sink, end) = written(File::open(file.path()).unwrap(), Format::Csv, file.path());
        sink.start(batch(0..1).schema()).unwrap();
        drop(sink);
        let error = end.end().await.unwrap_err();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains("not writable"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn query_waits_for_an_output_that_stands_still() {
        let (sender, receiver) = channel(BATCHES_WAITING);
        let (mut sink, _end) = written(tempfile::tempfile().unwrap(), Format::Csv, Path::new("out"));
        // No thread reads.
        sink.sender = Some(sender);
        for _ in 0..BATCHES_WAITING {
            sink.ready().await.unwrap();
            sink.write(batch(0..1)).unwrap();
        }
        assert!(futures_are_pending(sink.ready()).await, "more batches wait than allowed");
        assert_eq!(sink.write(batch(0..1)).unwrap_err().kind, ErrorKind::Internal);
        drop(receiver);
    }

    /// Returns true if `waiting` does not end at once.
    async fn futures_are_pending(waiting: impl Future<Output = Result<()>>) -> bool {
        tokio::select! {
            biased;
            _ = waiting => false,
            () = std::future::ready(()) => true,
        }
    }
}
