//! Sinks: where rows go. Each takes the rows of an epoch, and takes them again with the same result.

mod encode;
mod folder;
mod single_file;
mod stdout;

use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_protocol::Result;

pub use self::encode::{WriteFormat, encode_lines};
pub use self::folder::{Files, Folder};
pub use self::single_file::SingleFile;
pub use self::stdout::Stdout;

/// Takes the rows of epochs.
#[async_trait]
pub trait Sink: fmt::Debug + Send + Sync {
    /// Returns the last epoch that is complete in the target, or `None` if the target has no marker.
    ///
    /// # Errors
    /// Errors of the target.
    async fn marker(&self) -> Result<Option<u64>>;

    /// Adds the rows of `epoch`. A repetition with the same rows changes nothing, except for standard output.
    ///
    /// # Errors
    /// Errors of the target. The rows may have been added nevertheless.
    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written>;

    /// Returns the length of the spans of time whose epochs are written together; `None` if each epoch is written alone.
    fn roll(&self) -> Option<Duration> {
        None
    }
}

/// The result of [`Sink::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The target has the rows.
    Done,
    /// The reader of the target has ended.
    Closed,
}

/// Discards rows.
#[derive(Debug)]
pub struct Blackhole;

#[async_trait]
impl Sink for Blackhole {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: u64, _: &[RecordBatch]) -> Result<Written> {
        Ok(Written::Done)
    }
}
