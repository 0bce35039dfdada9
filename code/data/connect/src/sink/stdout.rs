//! Standard output as a sink.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};

use super::encode::check_format;
use super::{Sink, TakesChanges, WriteFormat, Written, encode_lines};

/// Prints rows on standard output: at least once, since a terminal has no marker.
#[derive(Debug)]
pub struct Stdout {
    format: WriteFormat,
    /// Rows have been printed.
    begun: AtomicBool,
}

impl Stdout {
    /// Prints rows as `format`, which is JSON or CSV.
    pub fn new(format: WriteFormat) -> Self {
        Self { format, begun: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Sink for Stdout {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: u64, rows: &[RecordBatch]) -> Result<Written> {
        if rows.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(Written::Done);
        }
        let bytes = encode_lines(self.format, !self.begun.swap(true, Ordering::Relaxed), rows)?;
        let mut out = std::io::stdout().lock();
        match out.write_all(&bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Written::Closed),
            Err(error) => Err(QueryError::data(format!("standard output is not writable: {error}"))),
            Ok(()) => Ok(Written::Done),
        }
    }

    fn check(&self, columns: &Schema) -> Result<()> {
        check_format(self.format, columns)
    }

    fn takes_changes(&self) -> TakesChanges {
        TakesChanges::Too
    }
}
