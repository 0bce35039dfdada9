//! Opens one CSV or JSON file: fetches, decompresses and decodes it, and names the file in errors.

use std::io;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::{csv, json};
use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use buzz_protocol::{Compression, CsvFormat, ErrorKind, FileFormat, Place, QueryError, Result};
use bytes::{Bytes, BytesMut};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::physical_plan::metrics::Count;
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use datafusion_datasource::decoder::{Decoder, DecoderDeserializer, deserialize_stream};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use tokio_util::io::{ReaderStream, StreamReader};

use super::csv::{FileColumns, arrow_format, column_names, first_record_end, first_record_start};
use super::exact::{as_texts, exact_batch};
use crate::UnchangedStore;

/// Bytes fetched to find a file's header when a later part of the file is read.
const HEAD_BYTES: u64 = 64 << 10;

/// Opens files for one partition of a scan.
#[derive(Debug, Clone)]
pub(super) struct TextOpener {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) format: FileFormat,
    /// All columns of the table that are stored in its files.
    pub(super) columns: SchemaRef,
    /// The columns that the scan returns.
    pub(super) wanted: SchemaRef,
    pub(super) batch_size: usize,
    pub(super) bytes_scanned: Count,
}

impl FileOpener for TextOpener {
    fn open(&self, file: PartitionedFile) -> DataFusionResult<FileOpenFuture> {
        let opener = self.clone();
        let path = file.object_meta.location.to_string();
        let named = move |error: DataFusionError| {
            let error = QueryError::from(error);
            let known = error.kind != ErrorKind::Data || error.file().is_some();
            let file = || Place::File { path: path.clone(), table: None };
            if known { error } else { error.at(file()) }.into_datafusion()
        };
        Ok(async move {
            match opener.open_file(file).await {
                Ok(batches) => Ok(batches.map_err(named).boxed()),
                Err(error) => Err(named(error.into_datafusion())),
            }
        }
        .boxed())
    }
}

type Batches = BoxStream<'static, DataFusionResult<RecordBatch>>;

impl TextOpener {
    async fn open_file(self, file: PartitionedFile) -> Result<Batches> {
        let planned = file.object_meta.clone();
        let store: Arc<dyn ObjectStore> = Arc::new(UnchangedStore::new(Arc::clone(&self.store), planned.clone()));
        let range = file.range.as_ref().map(|range| (offset(range.start), offset(range.end)));
        let bytes = match range {
            None => store.get_opts(&planned.location, GetOptions::default()).await?.into_stream(),
            Some((start, end)) => {
                let location = planned.location.clone();
                AlignedBoundaryStream::new(Arc::clone(&store), location, start, end, planned.size, b'\n').await?.boxed()
            }
        };
        let counted = self.bytes_scanned.clone();
        let bytes = bytes.inspect_ok(move |bytes| counted.add(bytes.len())).map_err(DataFusionError::from).boxed();
        let mut bytes = decompressed(self.format.compression(planned.location.as_ref()), bytes);

        match &self.format {
            FileFormat::Csv(csv) => {
                let (names, skip_header) = match (csv.header, range) {
                    (false, _) => (self.columns.fields().iter().map(|field| field.name().clone()).collect(), false),
                    (true, None) => {
                        let head;
                        (head, bytes) = with_first_record(csv, bytes).await?;
                        (column_names(csv, &head)?, true)
                    }
                    (true, Some((start, end))) => {
                        let head = head_of(store.as_ref(), &planned, csv).await?;
                        // Comments before the header may move it out of the first part.
                        let header_at = first_record_start(csv, &head) as u64;
                        (column_names(csv, &head)?, (start..end).contains(&header_at))
                    }
                };
                Ok(self.csv_batches(csv, names, skip_header, bytes))
            }
            _ if range.is_none_or(|(start, _)| start == 0) => self.json_batches(without_mark(bytes).await?),
            _ => self.json_batches(bytes),
        }
    }

    fn csv_batches(
        &self,
        csv: &CsvFormat,
        names: Vec<String>,
        skip_header: bool,
        bytes: BoxStream<'static, DataFusionResult<Bytes>>,
    ) -> Batches {
        // Arrow's CSV decoder already parses integers exactly.
        let read_as = as_texts(&self.wanted, |exact| exact.is_decimal() || *exact == DataType::Date32);
        let FileColumns { schema, positions } = FileColumns::find(names, &read_as);
        let decoder = csv::ReaderBuilder::new(schema)
            .with_format(arrow_format(csv).with_header(skip_header))
            .with_batch_size(self.batch_size)
            .with_projection(positions.iter().flatten().copied().collect())
            .build_decoder();
        let wanted = Arc::clone(&self.wanted);
        let batches = deserialize_stream(
            bytes.fuse(),
            DecoderDeserializer::new(CsvDecoder { decoder, open: OpenRecord::default() }),
        );
        batches
            .map(move |batch| match batch {
                Ok(batch) => with_absent_columns(&batch, &positions, &read_as)
                    .and_then(|batch| exact_batch(&batch, &wanted))
                    .map_err(|error| not_readable("CSV", error).into_datafusion()),
                Err(error) => Err(not_readable("CSV", error).into_datafusion()),
            })
            .boxed()
    }

    fn json_batches(&self, bytes: BoxStream<'static, DataFusionResult<Bytes>>) -> Result<Batches> {
        let is_exact = |exact: &DataType| exact.is_integer() || exact.is_decimal() || *exact == DataType::Date32;
        let read_as = as_texts(&self.wanted, is_exact);
        let decoder = json::ReaderBuilder::new(read_as)
            .with_batch_size(self.batch_size)
            .with_coerce_primitive(true)
            .build_decoder()?;
        let batches = deserialize_stream(
            bytes.fuse(),
            DecoderDeserializer::new(JsonDecoder { decoder, open: OpenRecord::default() }),
        );
        let wanted = Arc::clone(&self.wanted);
        Ok(batches
            .map(move |batch| exact_batch(&batch?, &wanted))
            .map_err(|error| not_readable("JSON lines", error).into_datafusion())
            .boxed())
    }
}

fn offset(at: i64) -> u64 {
    u64::try_from(at).unwrap_or_default()
}

/// Converts an error of a decoder. Errors of the store and of the decompression keep their kind.
fn not_readable(what: &str, error: ArrowError) -> QueryError {
    match error {
        ArrowError::ExternalError(_) | ArrowError::IoError(_, _) => QueryError::from(error),
        ArrowError::CsvError(text) | ArrowError::JsonError(text) | ArrowError::ParseError(text) => QueryError::data(
            format!("not readable {what}: {text}; set `schema` in the catalog entry to replace the inferred types"),
        ),
        error => QueryError::data(format!("not readable {what}: {error}")),
    }
}

/// Adds the wanted columns that the file lacks to `batch`, as nulls.
fn with_absent_columns(
    batch: &RecordBatch,
    positions: &[Option<usize>],
    wanted: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let mut present = batch.columns().iter();
    let column = |(position, field): (&Option<usize>, &arrow::datatypes::FieldRef)| -> ArrayRef {
        match position.and_then(|_| present.next()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        }
    };
    let columns = positions.iter().zip(wanted.fields()).map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)
}

/// Removes the UTF-8 byte order mark, which some programs write, from the start of `bytes`.
async fn without_mark(
    mut bytes: BoxStream<'static, DataFusionResult<Bytes>>,
) -> Result<BoxStream<'static, DataFusionResult<Bytes>>> {
    let mut head = BytesMut::new();
    while head.len() < MARK.len() {
        match bytes.try_next().await? {
            Some(more) => head.extend_from_slice(&more),
            None => break,
        }
    }
    let head = head.freeze();
    let head = if head.starts_with(MARK) { head.slice(MARK.len()..) } else { head };
    Ok(futures::stream::iter([Ok(head)]).chain(bytes).boxed())
}

/// The UTF-8 byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the start of `bytes` up to the end of its first record at least, and a stream of all bytes.
async fn with_first_record(
    csv: &CsvFormat,
    mut bytes: BoxStream<'static, DataFusionResult<Bytes>>,
) -> Result<(Bytes, BoxStream<'static, DataFusionResult<Bytes>>)> {
    let mut head = BytesMut::new();
    while first_record_end(csv, &head).is_none() {
        match bytes.try_next().await? {
            Some(more) => head.extend_from_slice(&more),
            None => break,
        }
        if head.len() > RECORD_BYTES_MAX {
            return Err(record_too_long());
        }
    }
    let head = head.freeze();
    let again = futures::stream::iter([Ok(head.clone())]).chain(bytes);
    Ok((head, again.boxed()))
}

/// Reads the start of an uncompressed file, up to the end of its first record at least.
async fn head_of(store: &dyn ObjectStore, file: &ObjectMeta, csv: &CsvFormat) -> Result<Bytes> {
    let mut length = HEAD_BYTES;
    loop {
        let head = first_bytes(store, file, length).await?;
        if first_record_end(csv, &head).is_some() || length >= file.size {
            return Ok(head);
        }
        if head.len() > RECORD_BYTES_MAX {
            return Err(record_too_long());
        }
        length *= 8;
    }
}

async fn first_bytes(store: &dyn ObjectStore, file: &ObjectMeta, length: u64) -> Result<Bytes> {
    if file.size == 0 {
        return Ok(Bytes::new());
    }
    let range = Some(GetRange::Bounded(0..length.min(file.size)));
    let options = GetOptions { range, ..GetOptions::default() };
    Ok(store.get_opts(&file.location, options).await?.bytes().await?)
}

/// Decompresses `bytes`. A file may consist of several concatenated compressed streams, as parallel compressors write
/// them.
fn decompressed(
    compression: Compression,
    bytes: BoxStream<'static, DataFusionResult<Bytes>>,
) -> BoxStream<'static, DataFusionResult<Bytes>> {
    macro_rules! all_streams {
        ($decoder:ident) => {{
            let mut decoder = $decoder::new(StreamReader::new(bytes.map_err(io::Error::from)));
            decoder.multiple_members(true);
            let text = ReaderStream::with_capacity(decoder, TEXT_BYTES_AT_ONCE);
            text.map_err(move |error| not_decompressed(compression, error)).boxed()
        }};
    }
    match compression {
        Compression::None => bytes,
        Compression::Gzip => all_streams!(GzipDecoder),
        Compression::Zstd => all_streams!(ZstdDecoder),
        Compression::Bzip2 => all_streams!(BzDecoder),
        Compression::Xz => all_streams!(XzDecoder),
    }
}

/// Converts an error of decompression: the store's own error, or an error in the compressed bytes.
fn not_decompressed(compression: Compression, error: io::Error) -> DataFusionError {
    if error.get_ref().is_some_and(|inner| inner.is::<DataFusionError>()) {
        return DataFusionError::from(error);
    }
    let why = match error.to_string() {
        // The xz decoder reports a truncated file as "out of memory".
        text if text == "out of memory" => "the file is truncated".to_string(),
        text => text,
    };
    QueryError::data(format!("not readable {compression}: {why}")).into_datafusion()
}

/// Buffer size of the decompression, in bytes of text.
const TEXT_BYTES_AT_ONCE: usize = 64 << 10;

/// Reads the first `bytes_max` bytes of the text in `file`. A longer text is cut after a line.
///
/// # Errors
/// `Data` if the file does not exist or has another compression than `format`, `Unavailable` if the store does not
/// respond.
pub async fn sample(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    format: &FileFormat,
    bytes_max: usize,
) -> Result<Bytes> {
    let compression = format.compression(file.location.as_ref());
    if compression == Compression::None {
        let head = first_bytes(store.as_ref(), file, bytes_max as u64).await?;
        return Ok(if (head.len() as u64) < file.size { whole_lines(head) } else { head });
    }
    let bytes = store.get_opts(&file.location, GetOptions::default()).await?.into_stream();
    let mut text = decompressed(compression, bytes.map_err(DataFusionError::from).boxed());
    let mut head = BytesMut::new();
    while let Some(more) = text.try_next().await? {
        head.extend_from_slice(&more);
        if head.len() > bytes_max {
            return Ok(whole_lines(head.freeze()));
        }
    }
    Ok(head.freeze())
}

/// Maximum size of one record of text. A decoder keeps the whole record, for example after a quote that is not closed.
const RECORD_BYTES_MAX: usize = 64 << 20;

fn record_too_long() -> QueryError {
    QueryError::limit(format!(
        "a record has more than {} MiB; check that each quote is closed, or set `quote` in the catalog entry",
        RECORD_BYTES_MAX >> 20
    ))
}

/// The bytes of the record that a decoder has not completed.
#[derive(Debug, Default)]
struct OpenRecord {
    bytes: usize,
    /// A count that changed with the last complete record; `None` after the records were taken.
    records: Option<usize>,
}

impl OpenRecord {
    /// Adds `bytes` that were decoded. `records` changes with each record that is complete.
    fn add(&mut self, bytes: usize, records: usize) -> Result<(), ArrowError> {
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

    /// Returns `taken`, the complete records of a decoder.
    fn flushed(&mut self, taken: Result<Option<RecordBatch>, ArrowError>) -> Result<Option<RecordBatch>, ArrowError> {
        if matches!(taken, Ok(Some(_))) {
            *self = Self::default();
        }
        taken
    }
}

fn whole_lines(text: Bytes) -> Bytes {
    match text.iter().rposition(|&byte| byte == b'\n') {
        Some(last) => text.slice(..=last),
        None => text,
    }
}

#[derive(Debug)]
struct CsvDecoder {
    decoder: csv::reader::Decoder,
    open: OpenRecord,
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, buf: &[u8]) -> Result<usize, ArrowError> {
        let bytes = self.decoder.decode(buf)?;
        self.open.add(bytes, self.decoder.capacity())?;
        Ok(bytes)
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        self.open.flushed(self.decoder.flush())
    }

    fn can_flush_early(&self) -> bool {
        self.decoder.capacity() == 0
    }
}

#[derive(Debug)]
struct JsonDecoder {
    decoder: json::reader::Decoder,
    open: OpenRecord,
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, buf: &[u8]) -> Result<usize, ArrowError> {
        let bytes = self.decoder.decode(buf)?;
        self.open.add(bytes, self.decoder.len())?;
        Ok(bytes)
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        self.open.flushed(self.decoder.flush())
    }

    fn can_flush_early(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::{BzEncoder, GzipEncoder, XzEncoder, ZstdEncoder};
    use tokio::io::AsyncWriteExt;

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

    #[tokio::test]
    async fn all_streams_of_a_compressed_file_are_read() {
        macro_rules! twice {
            ($encoder:ident) => {{
                let mut file = Vec::new();
                for text in ["a\n", "b\n"] {
                    let mut encoder = $encoder::new(Vec::new());
                    encoder.write_all(text.as_bytes()).await.unwrap();
                    encoder.shutdown().await.unwrap();
                    file.extend(encoder.into_inner());
                }
                file
            }};
        }
        for (compression, file) in [
            (Compression::Gzip, twice!(GzipEncoder)),
            (Compression::Zstd, twice!(ZstdEncoder)),
            (Compression::Bzip2, twice!(BzEncoder)),
            (Compression::Xz, twice!(XzEncoder)),
        ] {
            let bytes =
                futures::stream::iter(file.chunks(7).map(|part| Ok(Bytes::copy_from_slice(part))).collect::<Vec<_>>());
            let text: Vec<Bytes> = decompressed(compression, bytes.boxed()).try_collect().await.unwrap();
            assert_eq!(text.concat(), b"a\nb\n", "{compression:?}");
            let cut = futures::stream::iter([Ok(Bytes::copy_from_slice(&file[..file.len() - 9]))]);
            let error = decompressed(compression, cut.boxed()).try_collect::<Vec<_>>().await.unwrap_err();
            let error = QueryError::from(error);
            assert_eq!(error.kind, ErrorKind::Data, "{error}");
            assert!(error.message.starts_with(&format!("not readable {compression}: ")), "{error}");
            assert!(!error.message.contains("out of memory"), "{error}");
        }
    }
}
