//! A folder of files as a sink.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use buzz_storage::synced_folder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::encode::{check_format, encode};
use super::{Sink, WriteFormat, Written, check_partitions};

/// Writes files into a folder. Their names contain the pipeline, the epoch and a number, so a repetition writes the same
/// files.
#[derive(Debug)]
pub struct Folder {
    /// The place of the files.
    pub place: Files,
    /// The format of the files.
    pub format: WriteFormat,
    /// Columns whose values become folders, as `column=value`. They are left out of the files.
    pub partition_by: Vec<String>,
    /// Rows after which a new file begins.
    pub rows_per_file: usize,
    /// The time whose rows are in the same files; `None` for files of each epoch.
    pub roll: Option<Duration>,
    /// Identifies the pipeline.
    pub pipeline: String,
}

/// The place of a folder's files.
#[derive(Debug)]
pub enum Files {
    /// A folder in a bucket.
    Bucket(Arc<dyn ObjectStore>, Path),
    /// A folder on a local disk, which is created with the first file. Files are on the disk before an epoch is recorded.
    Disk(PathBuf, OnceLock<Arc<dyn ObjectStore>>),
}

impl Files {
    /// Returns the store, and the folder in it.
    pub(super) fn open(&self) -> Result<(Arc<dyn ObjectStore>, Path)> {
        match self {
            Files::Bucket(store, folder) => Ok((Arc::clone(store), folder.clone())),
            Files::Disk(folder, opened) => {
                let store = match opened.get() {
                    Some(store) => store,
                    None => {
                        let store = synced_folder(folder)?;
                        opened.get_or_init(|| store)
                    }
                };
                Ok((Arc::clone(store), Path::default()))
            }
        }
    }
}

impl Folder {
    /// Returns the positions of the columns that files have.
    fn kept(&self, columns: &Schema) -> Vec<usize> {
        let fields = columns.fields().iter().enumerate();
        fields.filter(|(_, field)| !self.partition_by.contains(field.name())).map(|(index, _)| index).collect()
    }

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
        let kept = self.kept(&schema);
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

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
        // Files are numbered within their partition. If more rows are written later under this epoch, no file is left
        // behind that has rows of another one.
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        let (store, root) = self.place.open()?;
        // Two statements may have other columns.
        for rows in rows.chunk_by(|a, b| a.schema() == b.schema()) {
            let all = concat_batches(&rows[0].schema(), rows)?;
            for (folder, part) in self.partitions(&all)? {
                let number = numbers.entry(folder.clone()).or_default();
                let mut from = 0;
                while from < part.num_rows() {
                    let count = self.rows_per_file.min(part.num_rows() - from);
                    let file = part.slice(from, count);
                    let bytes = encode(self.format, &file.schema(), &[file])?;
                    let extension = self.format.extension();
                    let name = format!("{folder}{}-{epoch:012}-{number:04}.{extension}", self.pipeline);
                    let path = Path::parse(format!("{root}/{name}"))
                        .map_err(|error| QueryError::invalid(format!("`{name}` is not a path: {error}")))?;
                    store.put(&path, bytes.into()).await?;
                    from += count;
                    *number += 1;
                }
            }
        }
        Ok(Written::Done)
    }

    fn check_rows(&self, rows: &RecordBatch) -> Result<()> {
        check_partitions(rows, &self.partition_by)
    }

    fn check(&self, columns: &Schema) -> Result<()> {
        let known = || columns.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        for name in &self.partition_by {
            let Ok(field) = columns.field_with_name(name) else {
                return Err(QueryError::invalid(format!(
                    "column `{name}` of option `partition_by` is not among the columns {}",
                    known()
                )));
            };
            if field.data_type().is_nested() {
                return Err(QueryError::invalid(format!(
                    "column `{name}` of option `partition_by` has the nested type {}; select one of its fields for the \
                     partitions",
                    field.data_type()
                )));
            }
        }
        let kept = self.kept(columns);
        if kept.is_empty() {
            return Err(QueryError::invalid(format!(
                "option `partition_by` has all columns ({}), which leaves none for the files; leave one out, or select \
                 another column",
                known()
            )));
        }
        check_format(self.format, &columns.project(&kept)?)
    }

    fn roll(&self) -> Option<Duration> {
        self.roll
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

    fn sink(store: &Arc<object_store::memory::InMemory>, partition_by: &[&str]) -> Folder {
        Folder {
            place: Files::Bucket(Arc::clone(store) as _, Path::from("out")),
            format: WriteFormat::Json,
            partition_by: partition_by.iter().map(ToString::to_string).collect(),
            rows_per_file: 2,
            roll: None,
            pipeline: "p".into(),
        }
    }

    #[test]
    fn partition_columns_that_do_not_fit_are_refused() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let columns = rows(&[1]).schema();
        sink(&store, &["kind"]).check(&columns).expect("a column is left");
        let cases = [
            (&["knd"][..], "column `knd` of option `partition_by` is not among the columns n, kind"),
            (&["kind", "n"][..], "option `partition_by` has all columns (n, kind), which leaves none for the files"),
        ];
        for (partition_by, message) in cases {
            let error = sink(&store, partition_by).check(&columns).expect_err("they do not fit");
            assert!(error.message.contains(message), "{error}");
        }
        let parts = DataType::Struct(columns.fields().clone());
        let nested = Schema::new(vec![
            arrow::datatypes::Field::new("n", DataType::Int64, true),
            arrow::datatypes::Field::new("kind", parts, true),
        ]);
        let error = sink(&store, &["kind"]).check(&nested).expect_err("it is nested");
        assert!(error.message.contains("column `kind` of option `partition_by` has the nested type"), "{error}");
    }

    #[tokio::test]
    async fn folder_is_partitioned_and_rolled() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let sink = sink(&store, &["kind"]);
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
                "out/kind=even/p-000000000003-0000.json",
                "out/kind=even/p-000000000003-0001.json",
                "out/kind=even/p-000000000003-0002.json",
            ]
        );
    }
}
