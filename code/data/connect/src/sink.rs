//! Sinks: where rows go. Each takes the rows of an epoch, and takes them again with the same result.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::csv::WriterBuilder as CsvWriterBuilder;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::WriterBuilder as JsonWriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

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
    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<()>;
}

/// The format of written rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFormat {
    /// One JSON object per line.
    Json,
    /// CSV without a header.
    Csv,
    /// Parquet.
    Parquet,
    /// Arrow IPC streams.
    Arrow,
}

impl WriteFormat {
    fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }
}

/// Encodes rows as text.
///
/// # Errors
/// `Invalid` if a column has no representation in the format.
pub fn encode_lines(format: WriteFormat, rows: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match format {
        WriteFormat::Json => {
            let mut writer = JsonWriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut bytes);
            for batch in rows {
                writer.write(batch)?;
            }
            writer.finish()?;
        }
        WriteFormat::Csv => {
            let mut writer = CsvWriterBuilder::new().with_header(false).build(&mut bytes);
            for batch in rows {
                writer.write(batch)?;
            }
        }
        WriteFormat::Parquet | WriteFormat::Arrow => return Err(QueryError::internal("the format is not text")),
    }
    Ok(bytes)
}

fn encode(format: WriteFormat, schema: &SchemaRef, rows: &[RecordBatch]) -> Result<Bytes> {
    if format == WriteFormat::Arrow {
        let mut bytes = Vec::new();
        let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut bytes, schema)?;
        for batch in rows {
            writer.write(batch)?;
        }
        writer.finish()?;
        drop(writer);
        return Ok(bytes.into());
    }
    if format != WriteFormat::Parquet {
        return Ok(encode_lines(format, rows)?.into());
    }
    let failed = |error: parquet::errors::ParquetError| QueryError::invalid(format!("rows cannot be written: {error}"));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(schema), Some(properties)).map_err(failed)?;
    for batch in rows {
        writer.write(batch).map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    Ok(bytes.into())
}

/// Discards rows.
#[derive(Debug)]
pub struct Blackhole;

#[async_trait]
impl Sink for Blackhole {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: u64, _: &[RecordBatch]) -> Result<()> {
        Ok(())
    }
}

/// Prints rows on standard output: at least once, since a terminal has no marker.
#[derive(Debug)]
pub struct Stdout {
    /// JSON or CSV.
    pub format: WriteFormat,
}

#[async_trait]
impl Sink for Stdout {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: u64, rows: &[RecordBatch]) -> Result<()> {
        let bytes = encode_lines(self.format, rows)?;
        let mut out = std::io::stdout().lock();
        match out.write_all(&bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(QueryError::cancelled("standard output was closed"))
            }
            Err(error) => Err(QueryError::data(format!("standard output is not writable: {error}"))),
            Ok(()) => Ok(()),
        }
    }
}

/// Appends rows to one local file. A file beside it, `.<name>.buzz`, has the last complete epoch and the length of the
/// file after it; what lies behind that length was not completed and is cut off.
#[derive(Debug)]
pub struct SingleFile {
    /// The file.
    pub path: PathBuf,
    /// JSON or CSV.
    pub format: WriteFormat,
    /// Identifies the pipeline. A file of another pipeline is replaced.
    pub pipeline: String,
}

#[derive(Debug, Default)]
struct Progress {
    epoch: u64,
    length: u64,
}

impl SingleFile {
    fn marker_path(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.buzz"))
    }

    fn progress(&self) -> Result<Option<Progress>> {
        let path = self.marker_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&error)),
        };
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| QueryError::data(format!("`{}` is not readable: {error}; delete it", path.display())))?;
        if value["pipeline"] != json!(self.pipeline) {
            return Ok(None);
        }
        let number = |key: &str| value[key].as_u64().unwrap_or_default();
        Ok(Some(Progress { epoch: number("epoch"), length: number("length") }))
    }

    fn failed(&self, error: &std::io::Error) -> QueryError {
        QueryError::data(format!("file `{}` is not writable: {error}", self.path.display()))
    }

    fn append(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        let failed = |error: std::io::Error| self.failed(&error);
        let before = self.progress()?.unwrap_or_default();
        if before.epoch >= epoch {
            return Ok(());
        }
        let mut file =
            std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&self.path).map_err(failed)?;
        file.set_len(before.length).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        let length = before.length + bytes.len() as u64;
        let marker = json!({"pipeline": self.pipeline, "epoch": epoch, "length": length}).to_string();
        // The new marker takes the place of the old one in one step.
        let path = self.marker_path();
        let staged = path.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&staged, marker).map_err(failed)?;
        std::fs::rename(&staged, &path).map_err(failed)
    }
}

#[async_trait]
impl Sink for SingleFile {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(self.progress()?.map(|progress| progress.epoch))
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<()> {
        self.append(epoch, &encode_lines(self.format, rows)?)
    }
}

/// Writes files into a folder. Their names contain the pipeline, the epoch and a number, so a repetition writes the same
/// files.
#[derive(Debug)]
pub struct Folder {
    /// The store of the folder.
    pub store: Arc<dyn ObjectStore>,
    /// The folder.
    pub path: Path,
    /// The format of the files.
    pub format: WriteFormat,
    /// Columns whose values become folders, as `column=value`. They are left out of the files.
    pub partition_by: Vec<String>,
    /// Rows after which a new file begins.
    pub rows_per_file: usize,
    /// Identifies the pipeline.
    pub pipeline: String,
}

impl Folder {
    /// Divides rows by the values of the partition columns.
    fn partitions(&self, rows: &RecordBatch) -> Result<BTreeMap<String, RecordBatch>> {
        if self.partition_by.is_empty() {
            return Ok(BTreeMap::from([(String::new(), rows.clone())]));
        }
        let schema = rows.schema();
        let mut texts = Vec::new();
        for name in &self.partition_by {
            let column = rows
                .column_by_name(name)
                .ok_or_else(|| QueryError::invalid(format!("partition column `{name}` is not a column of the rows")))?;
            texts.push(match column.data_type() {
                DataType::Struct(_) | DataType::List(_) => {
                    return Err(QueryError::invalid(format!("column `{name}` has a nested type and cannot partition")));
                }
                DataType::Dictionary(_, value) => cast(column, value)?,
                _ => Arc::clone(column),
            });
        }
        let options = FormatOptions::default();
        let mut formatters = Vec::new();
        for text in &texts {
            formatters.push(ArrayFormatter::try_new(text.as_ref(), &options)?);
        }
        let mut indices: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for row in 0..rows.num_rows() {
            let mut folder = String::new();
            for ((name, formatter), text) in self.partition_by.iter().zip(&formatters).zip(&texts) {
                let value = match text.is_null(row) {
                    true => "__HIVE_DEFAULT_PARTITION__".to_string(),
                    false => escaped(&formatter.value(row).to_string()),
                };
                folder.push_str(&format!("{name}={value}/"));
            }
            indices.entry(folder).or_default().push(row as u32);
        }
        let kept: Vec<usize> =
            (0..schema.fields().len()).filter(|&i| !self.partition_by.contains(schema.field(i).name())).collect();
        let mut partitions = BTreeMap::new();
        for (folder, indices) in indices {
            let part = take_record_batch(rows, &UInt32Array::from(indices))?.project(&kept)?;
            partitions.insert(folder, part);
        }
        Ok(partitions)
    }
}

/// Replaces characters that a path gives a meaning, as Hive does.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for c in value.chars() {
        match c {
            '/' | '=' | '%' | '\\' | ':' | '?' | '#' | '*' | '"' | '\'' | '\n' | '\r' => {
                text.push_str(&format!("%{:02X}", c as u32));
            }
            c => text.push(c),
        }
    }
    text
}

#[async_trait]
impl Sink for Folder {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let all = concat_batches(&first.schema(), rows)?;
        let mut number = 0;
        for (folder, part) in self.partitions(&all)? {
            let mut from = 0;
            while from < part.num_rows() {
                let count = self.rows_per_file.min(part.num_rows() - from);
                let file = part.slice(from, count);
                let bytes = encode(self.format, &file.schema(), &[file])?;
                let extension = self.format.extension();
                let name = format!("{folder}{}-{epoch:012}-{number:04}.{extension}", self.pipeline);
                let path = Path::parse(format!("{}/{name}", self.path))
                    .map_err(|error| QueryError::invalid(format!("`{name}` is not a path: {error}")))?;
                self.store.put(&path, bytes.into()).await?;
                (from, number) = (from + count, number + 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn rows(values: &[i64]) -> RecordBatch {
        let texts: Vec<&str> = values.iter().map(|value| if value % 2 == 0 { "even" } else { "a/b" }).collect();
        RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(values.to_vec())) as _),
            ("kind", Arc::new(StringArray::from(texts)) as _),
        ])
        .expect("two columns of one length")
    }

    #[tokio::test]
    async fn repeated_epoch_is_appended_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.json");
        let sink = SingleFile { path: path.clone(), format: WriteFormat::Json, pipeline: "p".into() };
        sink.write(1, &[rows(&[1])]).await.expect("it is writable");
        // A crash after the rows and before the marker.
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("the file exists");
        file.write_all(b"{\"n\":").expect("it is writable");
        for _ in 0..2 {
            sink.write(2, &[rows(&[2])]).await.expect("it is writable");
        }
        sink.write(1, &[rows(&[1])]).await.expect("it is writable");
        let text = std::fs::read_to_string(&path).expect("it is readable");
        assert_eq!(text, "{\"n\":1,\"kind\":\"a/b\"}\n{\"n\":2,\"kind\":\"even\"}\n");
        assert_eq!(sink.marker().await.expect("it is readable"), Some(2));
        let other = SingleFile { pipeline: "q".into(), ..sink };
        other.write(1, &[rows(&[7])]).await.expect("it is writable");
        assert_eq!(std::fs::read_to_string(&path).expect("it is readable"), "{\"n\":7,\"kind\":\"a/b\"}\n");
    }

    #[tokio::test]
    async fn folder_is_partitioned_and_rolled() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let sink = Folder {
            store: Arc::clone(&store) as _,
            path: Path::from("out"),
            format: WriteFormat::Json,
            partition_by: vec!["kind".into()],
            rows_per_file: 2,
            pipeline: "p".into(),
        };
        for _ in 0..2 {
            sink.write(3, &[rows(&[1, 2, 3, 4, 6, 8, 10])]).await.expect("memory is writable");
        }
        let files: Vec<object_store::ObjectMeta> =
            futures::TryStreamExt::try_collect(store.list(None)).await.expect("memory is readable");
        let mut names: Vec<String> = files.iter().map(|file| file.location.to_string()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "out/kind=a%2Fb/p-000000000003-0000.json",
                "out/kind=even/p-000000000003-0001.json",
                "out/kind=even/p-000000000003-0002.json",
                "out/kind=even/p-000000000003-0003.json",
            ]
        );
    }
}
