//! The bound of one record of text. A decoder keeps the whole record, for example after a quote that is not closed.

use arrow::error::ArrowError;
use buzz_protocol::QueryError;

/// Maximum size of one record of text.
pub(super) const RECORD_BYTES_MAX: usize = 64 << 20;

/// The error of a record that is larger than [`RECORD_BYTES_MAX`].
pub(super) fn record_too_long() -> QueryError {
    QueryError::limit(format!(
        "a record has more than {} MiB; check that each quote is closed, or set `quote` in the catalog entry",
        RECORD_BYTES_MAX >> 20
    ))
}

/// The bytes of the record that a decoder has not completed.
#[derive(Debug, Default)]
pub(super) struct OpenRecord {
    bytes: usize,
    /// A count that changed with the last complete record; `None` after the records were taken.
    records: Option<usize>,
}

impl OpenRecord {
    /// Adds `bytes` that were decoded. `records` changes with each record that is complete.
    ///
    /// # Errors
    /// `Limit` if the record is larger than [`RECORD_BYTES_MAX`].
    pub(super) fn add(&mut self, bytes: usize, records: usize) -> Result<(), ArrowError> {
        if Some(records) != self.records {
            *self = Self { bytes: 0, records: Some(records) };
            return Ok(());
        }
        self.bytes += bytes;
        match self.bytes > RECORD_BYTES_MAX {
            true => Err(ArrowError::ExternalError(Box::new(record_too_long()))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use super::*;

    #[test]
    fn record_without_end_is_a_limit() {
        let mut open = OpenRecord::default();
        for records in 1..100 {
            open.add(RECORD_BYTES_MAX / 2, records).unwrap();
        }
        open.add(RECORD_BYTES_MAX, 99).unwrap();
        let error = QueryError::from(open.add(1, 99).unwrap_err());
        assert!(error.kind == ErrorKind::Limit && error.message.contains("a record has more than 64 MiB"), "{error}");
    }
}
