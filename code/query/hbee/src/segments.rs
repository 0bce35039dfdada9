//! Segments of streams: the rows of a file that count, as the log of its stream says.

use buzz_epoch::Segment;
use buzz_protocol::{QueryError, Result, TaskFile};
use buzz_storage::text::{CountedRows, RowFormat, RowsOfRequest};
use bytes::Bytes;
use object_store::path::Path;

/// The rows of a segment that count.
#[derive(Debug)]
pub(crate) struct SegmentRows {
    /// The segment, with its runs.
    pub(crate) file: TaskFile,
}

impl CountedRows for SegmentRows {
    fn of(&self, object: Bytes) -> Result<Vec<RowsOfRequest>> {
        let path = Path::parse(&self.file.path)
            .map_err(|error| QueryError::data(format!("`{}` is not a valid path: {error}", self.file.path)))?;
        let runs = Segment::runs(&path, &object, &self.file.runs)?;
        let rows = runs.into_iter().map(|(part, bytes)| {
            Ok(RowsOfRequest { format: RowFormat::of(part.format.as_deref())?, bytes, rows: part.rows })
        });
        rows.collect()
    }
}
