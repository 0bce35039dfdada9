//! Segments of streams: the rows of requests, each in a format of its own, in one object.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use buzz_protocol::{CsvFormat, ErrorKind, JsonFormat, QueryError, Result, SegmentsFormat};
use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde_json::value::RawValue;

use super::csv::first_record_end;
use super::keys::foreign_row;
use super::open::{Batches, TextOpener, once};
use crate::lossless;

/// The format of the rows of a request, which are kept as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// JSON objects, of which each begins a line.
    Json,
    /// CSV, with or without the names of its columns in the first line.
    Csv {
        /// The first line has the names.
        header: bool,
    },
    /// An Arrow IPC stream.
    Arrow,
}

impl RowFormat {
    /// Returns the name under which a log keeps the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv { header: true } => "csv",
            Self::Csv { header: false } => "csv_without_header",
            Self::Arrow => "arrow",
        }
    }

    /// Returns the format that a log keeps under `name`; JSON without one.
    ///
    /// # Errors
    /// `Data` if it is unknown.
    pub fn of(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else {
            return Ok(Self::Json);
        };
        let known = [Self::Json, Self::Csv { header: true }, Self::Csv { header: false }, Self::Arrow];
        known.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            QueryError::data(format!(
                "rows are kept in format `{name}`, which this version does not know; use a newer one"
            ))
        })
    }
}

/// The rows of one request.
#[derive(Debug, Clone)]
pub struct RowsOfRequest {
    /// Their format.
    pub format: RowFormat,
    /// The rows, as they were kept.
    pub bytes: Bytes,
    /// Number of rows, with those that do not fit the columns.
    pub rows: u64,
}

/// Finds the rows of a segment that count. It is an extension of the [`PartitionedFile`] of a segment, as
/// `Arc<dyn CountedRows>`.
pub trait CountedRows: fmt::Debug + Send + Sync {
    /// Returns the rows of `object`, the whole segment, that count.
    ///
    /// # Errors
    /// `Data` if the segment is damaged.
    fn of(&self, object: Bytes) -> Result<Vec<RowsOfRequest>>;
}

impl TextOpener {
    /// Opens a segment.
    pub(super) async fn segment(self, format: SegmentsFormat, file: &PartitionedFile) -> Result<Batches> {
        let counted = file.extension::<Arc<dyn CountedRows>>();
        let counted = counted.ok_or_else(|| QueryError::internal("a segment has no list of its rows that count"))?;
        let object = self.store.get(&file.object_meta.location).await?.bytes().await?;
        self.bytes_scanned.add(object.len());
        let requests = counted.of(object)?;
        let batches = futures::stream::iter(requests).then(move |rows| {
            let opener = self.clone();
            async move {
                let decoded = opener.request(&rows, format).await.map_err(QueryError::into_datafusion)?;
                Ok::<_, DataFusionError>(futures::stream::iter(decoded.into_iter().map(Ok)))
            }
        });
        Ok(batches.try_flatten().boxed())
    }

    /// Decodes the rows of one request.
    async fn request(&self, rows: &RowsOfRequest, format: SegmentsFormat) -> Result<Vec<RecordBatch>> {
        let found = |batches: &[RecordBatch]| batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        if !format.leaves_out_bad {
            let batches = self.decoded(rows.format, rows.bytes.clone()).await?;
            let found = found(&batches);
            if found != rows.rows {
                return Err(QueryError::data(format!(
                    "a request of the segment has {found} rows, but the log names {}; restore it",
                    rows.rows
                )));
            }
            return Ok(batches);
        }
        // A row is bad whichever of its columns are wanted.
        let all = TextOpener { wanted: Arc::clone(&self.columns), ..self.clone() };
        let fitting = match rows.format {
            RowFormat::Json => all.with_columns(&rows.bytes),
            RowFormat::Csv { .. } | RowFormat::Arrow => rows.bytes.clone(),
        };
        if fitting.is_empty() {
            return Ok(Vec::new());
        }
        let batches = all.good_rows(&RowsOfRequest { bytes: fitting, ..rows.clone() }).await?;
        let wanted = batches.iter().map(|batch| by_name(batch, &self.wanted));
        wanted.collect()
    }

    /// Returns the JSON rows that have columns of the table.
    fn with_columns(&self, rows: &Bytes) -> Bytes {
        let (_, records) = records(RowFormat::Json, rows);
        let known: usize = records.iter().map(Bytes::len).sum();
        let mut records: Vec<Bytes> = records;
        // The decoder judges what is not JSON.
        records.push(rows.slice(known..));
        records.retain(|record| foreign_row(&self.columns, record).is_none());
        records.concat().into()
    }

    /// Decodes the rows that fit the columns.
    async fn good_rows(&self, rows: &RowsOfRequest) -> Result<Vec<RecordBatch>> {
        let whole = self.decoded(rows.format, rows.bytes.clone()).await;
        let is_bad = |error: &QueryError| matches!(error.kind, ErrorKind::Data | ErrorKind::Invalid);
        match whole {
            Err(error) if is_bad(&error) => {}
            whole => return whole,
        }
        let (head, records) = records(rows.format, &rows.bytes);
        let mut batches = Vec::new();
        // Runs of records, the next one last.
        let mut open = vec![records.as_slice()];
        while let Some(run) = open.pop().filter(|run| !run.is_empty()) {
            let text: Vec<u8> = std::iter::once(&head).chain(run).flat_map(lined).collect();
            match self.decoded(rows.format, text.into()).await {
                Ok(decoded) => batches.extend(decoded),
                Err(error) if is_bad(&error) && run.len() > 1 => {
                    let (first, second) = run.split_at(run.len() / 2);
                    open.extend([second, first]);
                }
                Err(error) if is_bad(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(batches)
    }

    /// Decodes whole rows of `format`, all of them.
    async fn decoded(&self, format: RowFormat, bytes: Bytes) -> Result<Vec<RecordBatch>> {
        let batches = match format {
            RowFormat::Json => self.json_batches(&JsonFormat::default(), once(bytes), false)?,
            RowFormat::Csv { header } => {
                let csv = CsvFormat { header, ..CsvFormat::default() };
                self.clone().whole_csv(&csv, once(bytes), 0).await?
            }
            RowFormat::Arrow => {
                let batches = StreamReader::try_new(Cursor::new(bytes), None)?.collect::<Result<Vec<_>, _>>()?;
                return batches.iter().map(|batch| by_name(batch, &self.wanted)).collect();
            }
        };
        batches.map_err(QueryError::from).try_collect().await
    }
}

/// Divides rows into records. The first text, which may be empty, is the header.
fn records(format: RowFormat, bytes: &Bytes) -> (Bytes, Vec<Bytes>) {
    match format {
        RowFormat::Json => {
            let mut objects = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
            let mut records = Vec::new();
            let mut start = 0;
            while let Some(Ok(_)) = objects.next() {
                records.push(bytes.slice(start..objects.byte_offset()));
                start = objects.byte_offset();
            }
            (Bytes::new(), records)
        }
        RowFormat::Csv { header } => {
            let csv = CsvFormat { header, ..CsvFormat::default() };
            let mut records = Vec::new();
            let mut rest = bytes.clone();
            while !rest.is_empty() {
                let end = first_record_end(&csv, &rest).unwrap_or(rest.len());
                records.push(rest.split_to(end));
            }
            let head = if header && !records.is_empty() { records.remove(0) } else { Bytes::new() };
            (head, records)
        }
        // Its rows were checked when they came.
        RowFormat::Arrow => (Bytes::new(), vec![bytes.clone()]),
    }
}

/// Returns a record with a line break at its end.
fn lined(record: &Bytes) -> impl Iterator<Item = u8> {
    let ends = record.is_empty() || record.ends_with(b"\n");
    record.clone().into_iter().chain((!ends).then_some(b'\n'))
}

/// Returns the columns of `wanted` by name, in its types. A column that the batch lacks is null.
///
/// # Errors
/// `Data` if a value has no equal in that type.
fn by_name(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch> {
    let columns = wanted.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => lossless(column, field),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_in_each_format() {
        let found = |format, text: &'static str| {
            let (head, records) = records(format, &Bytes::from_static(text.as_bytes()));
            let texts = [head].into_iter().chain(records);
            texts.map(|text| String::from_utf8_lossy(&text).trim().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(RowFormat::Json, "{\"a\":\n1}\n{\"a\":\"}\"}\n"), ["", "{\"a\":\n1}", "{\"a\":\"}\"}"]);
        assert_eq!(found(RowFormat::Csv { header: true }, "a\n1\n\"2\n3\"\n4"), ["a", "1", "\"2\n3\"", "4"]);
        assert_eq!(found(RowFormat::Csv { header: false }, "1\n2\n"), ["", "1", "2"]);
    }

    #[test]
    fn unknown_formats_are_named() {
        assert_eq!(RowFormat::of(None).expect("it is known"), RowFormat::Json);
        for format in
            [RowFormat::Json, RowFormat::Csv { header: true }, RowFormat::Csv { header: false }, RowFormat::Arrow]
        {
            assert_eq!(RowFormat::of(Some(format.name())).expect("the name is known"), format);
        }
        assert!(RowFormat::of(Some("avro")).expect_err("it is not known").message.contains("`avro`"));
    }
}
