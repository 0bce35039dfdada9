//! Answers that are kept: the rows as an Arrow stream, behind a head of JSON.

use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use buzz_engine::{RowSink, Rows};
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The rows of an answer, and its warnings.
#[derive(Debug)]
pub(crate) struct CachedAnswer {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
    head: Head,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    rows: u64,
    warnings: Vec<String>,
}

impl CachedAnswer {
    /// Makes the answer of `rows`.
    ///
    /// # Errors
    /// `Limit` if the rows cannot be read back.
    pub(crate) fn of(rows: &Rows, warnings: Vec<String>) -> Result<Self> {
        let batches = rows.batches()?.collect::<Result<Vec<_>>>()?;
        let rows_count = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        Ok(Self { schema: rows.schema(), batches, head: Head { rows: rows_count, warnings } })
    }

    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.head.rows
    }

    /// Returns the warnings of the run that computed the answer.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.head.warnings
    }

    /// Passes the rows to `sink`.
    ///
    /// # Errors
    /// The errors of `sink`.
    pub(crate) async fn pass_to(&self, sink: &mut dyn RowSink) -> Result<()> {
        sink.start(SchemaRef::clone(&self.schema))?;
        for batch in &self.batches {
            sink.ready().await?;
            sink.write(batch.clone())?;
        }
        Ok(())
    }

    /// Returns the bytes of the answer.
    ///
    /// # Errors
    /// `Internal` if a type of Arrow has no encoding.
    pub(crate) fn encoded(&self) -> Result<Vec<u8>> {
        let head = serde_json::to_vec(&self.head)
            .map_err(|error| QueryError::internal(format!("the head of an answer has no JSON: {error}")))?;
        let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
        bytes.extend(head);
        let mut writer = StreamWriter::try_new(&mut bytes, &self.schema)?;
        for batch in &self.batches {
            // Batches with equal schemas may hold them as different objects.
            writer.write(&batch.clone().with_schema(SchemaRef::clone(&self.schema))?)?;
        }
        writer.finish()?;
        drop(writer);
        Ok(bytes)
    }

    /// Returns the answer that has these bytes, or `None` if they are none.
    pub(crate) fn decoded(bytes: &Bytes) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (head, rows) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let head: Head = serde_json::from_slice(head).ok()?;
        let stream = StreamReader::try_new(Cursor::new(rows), None).ok()?;
        let schema = stream.schema();
        let batches: Vec<RecordBatch> = stream.collect::<Result<_, _>>().ok()?;
        let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        (rows == head.rows).then_some(Self { schema, batches, head })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringViewArray};

    use super::*;

    #[test]
    fn answers_survive_their_bytes() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["a text of more than twelve bytes", ""]));
        let batch = RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true)]).unwrap();
        for batches in [vec![], vec![batch.clone()], vec![batch.clone(), batch.slice(1, 1)]] {
            let mut rows = Rows::new();
            rows.start(batch.schema()).unwrap();
            batches.iter().for_each(|batch| rows.write(batch.clone()).unwrap());
            let answer = CachedAnswer::of(&rows, vec!["a warning".to_string()]).unwrap();
            let bytes = answer.encoded().unwrap();
            let again = CachedAnswer::decoded(&Bytes::from(bytes.clone())).unwrap();
            assert_eq!((again.schema, again.batches), (batch.schema(), batches));
            assert_eq!((again.head.rows, again.head.warnings.len()), (answer.rows(), 1));
            assert!(CachedAnswer::decoded(&Bytes::from(bytes[..7].to_vec())).is_none());
        }
    }
}
