//! The trait of sources.

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_protocol::Result;
use serde_json::Value;

/// Reads rows, and can read them again.
#[async_trait]
pub trait Source: fmt::Debug + Send {
    /// Returns the columns of its batches.
    fn schema(&self) -> SchemaRef;

    /// Reads what there is now, about `rows` rows at most. `now` is the time in nanoseconds since 1970. A source without
    /// new rows returns at once.
    ///
    /// # Errors
    /// `Data` if rows cannot be decoded, `Unavailable` if the store does not answer.
    async fn read(&mut self, rows: usize, now: i64) -> Result<SourceBatch>;

    /// Returns the position after the rows that were read. A source that is opened with it goes on there.
    fn offset(&self) -> Value;

    /// Returns when the rows end if the source is read until its end.
    fn end(&self) -> End {
        End::Reached
    }

    /// Returns true if the first read begins behind the rows that exist, so that its position is part of the answer.
    fn starts_at_newest(&self) -> bool {
        false
    }

    /// Notes that `reader` needs the rows after `offset`, or all rows if it is null; `None`: it reads no more. Rows before may be
    /// deleted, at once if no one else reads them. Does nothing for sources that keep no rows.
    ///
    /// # Errors
    /// Errors of the store.
    async fn note_reader(&mut self, _reader: &str, _offset: Option<&Value>) -> Result<()> {
        Ok(())
    }
}

/// The end of a source's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is reached.
    Reached,
    /// There is none, unless an option sets it; such an option, as written in `WITH (…)`.
    Option(&'static str),
    /// There is none.
    Never,
}

/// Rows of one read.
#[derive(Debug, Default)]
pub struct SourceBatch {
    /// Rows by partition. Each partition of the source is named in each read.
    pub partitions: Vec<(String, Vec<RecordBatch>)>,
    /// No rows follow.
    pub ended: bool,
    /// More rows can be read at once.
    pub more: bool,
    /// Bytes that were read from a store.
    pub bytes: u64,
    /// Rows that could not be decoded, with the reason.
    pub bad: Vec<BadRow>,
    /// Rows that are not read yet, if the source knows their number.
    pub lag: Option<u64>,
    /// Notes for the user, such as the folder that the source waits for. Repeated while they are true.
    pub notes: Vec<String>,
}

/// A row that could not be decoded.
#[derive(Debug, Clone)]
pub struct BadRow {
    /// The row as it came.
    pub text: String,
    /// The reason.
    pub reason: String,
}

/// Treatment of rows that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadData {
    /// Stop the pipeline.
    Fail,
    /// Count the row and leave it out.
    Drop,
    /// Count the row, leave it out, and make it readable as a table of its own.
    Side,
}
