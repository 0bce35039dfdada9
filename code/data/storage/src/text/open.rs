//! Opens one CSV or JSON file, or a segment of a stream: fetches, decompresses and decodes it, and names the file in errors.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use buzz_protocol::{
    Compression, CsvFormat, ErrorKind, FileFormat, JsonFormat, Place, QueryError, Result, names_in_table,
};
use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::physical_plan::metrics::Count;
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use datafusion_datasource::decoder::{Decoder, DecoderDeserializer, deserialize_stream};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};

use super::compression::{MAGIC_BYTES, check_start, compression_of, decompressed};
use super::csv::{
    column_names, first_record_end, first_record_start, is_blank, separator_line, without_separator_line,
};
use super::csv_decoder::CsvDecoder;
use super::encoding::{Pieces, as_utf8, encoding, peeked};
use super::json_array::without_brackets;
use super::json_decoder::JsonDecoder;
use super::quotes::lines_in;
use super::record::{RECORD_BYTES_MAX, record_too_long};
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

/// The mark with which some programs begin a file in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) type Batches = BoxStream<'static, DataFusionResult<RecordBatch>>;

impl TextOpener {
    async fn open_file(self, file: PartitionedFile) -> Result<Batches> {
        if let FileFormat::Segments(segments) = self.format {
            return self.segment(segments, &file).await;
        }
        let planned = file.object_meta.clone();
        let store: Arc<dyn ObjectStore> = Arc::new(UnchangedStore::new(Arc::clone(&self.store), planned.clone()));
        if planned.size == 0 {
            return Ok(futures::stream::empty().boxed());
        }
        let counted = self.bytes_scanned.clone();
        let counting = move |bytes: &Bytes| counted.add(bytes.len());
        let Some(range) = file.range.as_ref().map(|range| (offset(range.start), offset(range.end))) else {
            let bytes = store.get_opts(&planned.location, GetOptions::default()).await?.into_stream();
            let bytes = bytes.inspect_ok(counting).map_err(DataFusionError::from).boxed();
            let text = text_of(bytes, &self.format, planned.location.as_ref()).await?.text;
            return match &self.format {
                FileFormat::Csv(csv) => {
                    let (lines, text) = without_separator_line(text).await?;
                    self.whole_csv(csv, text, lines).await
                }
                FileFormat::Json(json) => self.json_batches(json, without_brackets(text).await?.1, false),
                FileFormat::Parquet | FileFormat::Segments(_) => {
                    Err(QueryError::internal("a scan of text is of Parquet files"))
                }
            };
        };
        let location = planned.location.clone();
        let lines =
            AlignedBoundaryStream::new(Arc::clone(&store), location, range.0, range.1, planned.size, b'\n').await?;
        let mut text = lines.boxed().inspect_ok(counting).map_err(DataFusionError::from).boxed();
        if range.0 == 0 {
            text = as_utf8(text, None).await?.1;
        }
        match &self.format {
            FileFormat::Csv(csv) => {
                let raw = head_of(store.as_ref(), &planned, csv).await?;
                let mark = if raw.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
                let (is_decoded, head) = as_utf8(once(raw), None).await?;
                if is_decoded {
                    return Err(QueryError::data(
                        "the file is in UTF-16, so a part of it cannot be read; set `newlines_in_values` in the catalog entry \
                         to true",
                    ));
                }
                let head = head.try_collect::<Vec<_>>().await?.concat();
                let separator = separator_line(&head);
                let head = &head[separator..];
                let mut lines = 0;
                if range.0 == 0 {
                    (lines, text) = without_separator_line(text).await?;
                }
                // Comments before the header may move it out of the first part.
                let header_at = (mark + separator + first_record_start(csv, head)) as u64;
                let skip_header = csv.header && (range.0..range.1).contains(&header_at);
                self.csv_batches(csv, head, skip_header, text, lines).await
            }
            FileFormat::Json(json) => self.json_batches(json, text, range.0 > 0),
            FileFormat::Parquet | FileFormat::Segments(_) => {
                Err(QueryError::internal("a scan of text is of Parquet files"))
            }
        }
    }

    /// Decodes `text`, a whole file without its first `lines` lines.
    pub(super) async fn whole_csv(&self, csv: &CsvFormat, text: Pieces, lines: usize) -> Result<Batches> {
        let (head, text) = with_records(csv, text, 1).await?;
        if is_blank(csv, &head) {
            return Ok(futures::stream::empty().boxed());
        }
        self.csv_batches(csv, &head, csv.header, text, lines).await
    }

    /// Decodes `text`, which follows the first `lines` lines of a file. Its columns are those of `head`, which has the first
    /// record of the file at least.
    async fn csv_batches(
        &self,
        csv: &CsvFormat,
        head: &[u8],
        skip_header: bool,
        text: Pieces,
        lines: usize,
    ) -> Result<Batches> {
        let mut names = column_names(csv, head)?;
        let columns = self.columns.fields();
        if csv.header {
            let table: Vec<&str> = columns.iter().map(|column| column.name().as_str()).collect();
            names = names_in_table(&names.iter().map(String::as_str).collect::<Vec<_>>(), &table);
            if !names.iter().any(|name| table.contains(&name.as_str())) && !columns.is_empty() {
                return Err(QueryError::data(format!(
                    "its first line has no column of the table but {}; set `header` in the catalog entry to false if the \
                     files have no header, and make files with and without a header two tables",
                    listed(&names)
                )));
            }
        } else if names.len() > columns.len() {
            return Err(QueryError::data(format!(
                "not readable CSV: its first record has {} values, but the table has {} columns; set `schema` in the \
                 catalog entry",
                names.len(),
                columns.len()
            )));
        } else {
            names = columns.iter().take(names.len()).map(|field| field.name().clone()).collect();
        }
        let (mut lines, mut text) = (lines, text);
        if skip_header {
            let (head, all) = with_records(csv, text, 1).await?;
            let end = first_record_end(csv, &head).unwrap_or(head.len());
            lines += lines_in(&head[..end]);
            text = futures::stream::iter([Ok(head.slice(end..))]).chain(all.skip(1)).boxed();
        }
        Ok(batches(text, CsvDecoder::new(csv, &names, &self.wanted, self.batch_size, lines)))
    }

    pub(super) fn json_batches(&self, json: &JsonFormat, text: Pieces, is_part: bool) -> Result<Batches> {
        Ok(batches(text, JsonDecoder::new(json, &self.wanted, self.batch_size, is_part)?))
    }
}

fn batches(text: Pieces, decoder: impl Decoder + 'static) -> Batches {
    let batches = deserialize_stream(text.fuse(), DecoderDeserializer::new(decoder));
    batches.map_err(|error| QueryError::from(error).into_datafusion()).boxed()
}

fn listed(names: &[String]) -> String {
    let few = names.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{few} and {} more", names.len() - 5) } else { few }
}

fn offset(at: i64) -> u64 {
    u64::try_from(at).unwrap_or_default()
}

pub(super) fn once(bytes: Bytes) -> Pieces {
    futures::stream::iter([Ok(bytes)]).boxed()
}

/// The text of a file.
pub(super) struct Text {
    pub(super) text: Pieces,
    /// True if the text is stored as it is, so that a part of the file is a part of the text.
    pub(super) is_plain: bool,
}

/// The mark in the header of a tar archive, and its place.
const TAR_MAGIC: &[u8] = b"ustar";
const TAR_MAGIC_AT: usize = 257;

/// Decompresses and decodes the `bytes` of a whole file. Detects its compression if the name does not tell it.
pub(super) async fn text_of(mut bytes: Pieces, format: &FileFormat, path: &str) -> Result<Text> {
    let mut compression = format.compression(path);
    if compression != Compression::None || format.detects_compression() {
        let (head, again) = peeked(bytes, MAGIC_BYTES).await?;
        bytes = again;
        match compression {
            Compression::None => compression = compression_of(&head),
            named => check_start(named, &head)?,
        }
    }
    let given = format.encoding().map(encoding).transpose()?.flatten();
    let (head, text) = peeked(decompressed(compression, bytes), TAR_MAGIC_AT + TAR_MAGIC.len()).await?;
    if head.get(TAR_MAGIC_AT..).is_some_and(|magic| magic.starts_with(TAR_MAGIC)) {
        return Err(QueryError::data("it is a tar archive; unpack it, and read its files"));
    }
    let (is_decoded, text) = as_utf8(text, given).await?;
    Ok(Text { text, is_plain: compression == Compression::None && !is_decoded })
}

/// Returns the start of `text` with its first `count` records at least, and a stream of the whole text, whose first
/// piece is that start.
pub(super) async fn with_records(csv: &CsvFormat, text: Pieces, count: usize) -> Result<(Bytes, Pieces)> {
    let (mut length, mut text) = (1, text);
    loop {
        let (head, again) = peeked(text, length).await?;
        text = again;
        if head.len() < length || has_records(csv, &head, count) {
            return Ok((head, text));
        }
        if head.len() / count > RECORD_BYTES_MAX {
            return Err(record_too_long());
        }
        length = head.len() * 2;
    }
}

/// Returns whether `text` has `count` complete records, without comments and empty lines.
pub(super) fn has_records(csv: &CsvFormat, text: &[u8], count: usize) -> bool {
    let mut rest = text;
    (0..count).all(|_| match first_record_end(csv, rest) {
        Some(end) => {
            rest = &rest[end..];
            true
        }
        None => false,
    })
}

/// Reads the start of an uncompressed file, up to the end of its first record at least.
async fn head_of(store: &dyn ObjectStore, file: &ObjectMeta, csv: &CsvFormat) -> Result<Bytes> {
    let mut length = HEAD_BYTES;
    loop {
        let head = first_bytes(store, file, length).await?;
        let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head[..]);
        if first_record_end(csv, &text[separator_line(text)..]).is_some() || length >= file.size {
            return Ok(head);
        }
        if head.len() > RECORD_BYTES_MAX {
            return Err(record_too_long());
        }
        length *= 8;
    }
}

pub(super) async fn first_bytes(store: &dyn ObjectStore, file: &ObjectMeta, length: u64) -> Result<Bytes> {
    if file.size == 0 {
        return Ok(Bytes::new());
    }
    let range = Some(GetRange::Bounded(0..length.min(file.size)));
    let options = GetOptions { range, ..GetOptions::default() };
    Ok(store.get_opts(&file.location, options).await?.bytes().await?)
}
