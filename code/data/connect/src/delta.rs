//! A Delta Lake table as a source: its rows, and then those that each new version appends.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use buzz_catalog::{AppendedFile, DeltaCommit, Table, delta_commit, delta_version_after, partition_value};
use buzz_protocol::{CatalogEntry, CatalogType, ColumnMapping, QueryError, Result};
use buzz_storage::{Location, QueryStores};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};
use url::Url;

use crate::decode::{Format, decode_file};
use crate::partition::{own_columns, with_partitions};
use crate::source::{Source, SourceBatch};

/// The version from which a table is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaStart {
    /// All rows of the newest version, and then those that are appended.
    Earliest,
    /// Only rows that are appended after the start.
    Latest,
    /// Rows that this version and later ones append.
    Version(u64),
}

/// Reads a Delta Lake table version by version.
pub struct DeltaSource {
    /// The table.
    pub place: Location,
    /// The stores of its files.
    pub stores: Arc<QueryStores>,
    /// The columns.
    pub schema: SchemaRef,
    /// The version from which it is read, unless an offset says where to go on.
    pub start: DeltaStart,
    /// Waits for new versions instead of ending.
    pub follow: bool,
    /// Leaves out versions that remove or change rows, instead of failing.
    pub skips_removals: bool,
    /// The position; `None` before the first read.
    pub(crate) at: Option<At>,
    /// The files of the version at the position.
    pub(crate) files: Option<Vec<DeltaFile>>,
    /// Batches of the current file, decoded and not returned yet.
    pub(crate) batches: VecDeque<RecordBatch>,
    /// The version for which the log was searched for a gap.
    pub(crate) searched: Option<u64>,
}

impl std::fmt::Debug for DeltaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaSource").field("place", &self.place).field("at", &self.at).finish_non_exhaustive()
    }
}

/// A position in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    version: u64,
    /// The files are all files of the version, not those that it appended.
    snapshot: bool,
    /// The file among those of the version, sorted by path.
    file: usize,
    /// Batches that were read of the file.
    batches: usize,
}

/// A file of a table.
#[derive(Debug)]
pub(crate) struct DeltaFile {
    store: Url,
    path: String,
    /// Values of partition columns by the position of the column.
    partitions: Vec<(usize, ScalarValue)>,
}

impl DeltaSource {
    /// Opens the table at `place`. Without `columns`, it has the columns of the newest version.
    ///
    /// # Errors
    /// `Data` if the table does not exist and `columns` are not given.
    pub async fn open(place: Location, stores: Arc<QueryStores>, columns: Option<Schema>) -> Result<Self> {
        let schema = match columns {
            Some(columns) => Arc::new(columns),
            None => plain(&table(&place, None, &stores).await?.schema),
        };
        Ok(Self {
            place,
            stores,
            schema,
            start: DeltaStart::Earliest,
            follow: false,
            skips_removals: false,
            at: None,
            files: None,
            batches: VecDeque::new(),
            searched: None,
        })
    }

    /// Resumes from an offset.
    ///
    /// # Errors
    /// `Data` if the offset is not one of a Delta table.
    pub fn resume(&mut self, offset: &Value) -> Result<()> {
        let number = |key: &str| offset.get(key).and_then(Value::as_u64);
        let at = || {
            Some(At {
                version: number("version")?,
                snapshot: offset.get("snapshot")?.as_bool()?,
                file: usize::try_from(number("file")?).ok()?,
                batches: usize::try_from(number("batches")?).ok()?,
            })
        };
        if offset.is_null() {
            return Ok(());
        }
        let at = at().ok_or_else(|| QueryError::data(format!("offset {offset} is not one of a Delta table")))?;
        self.at = Some(at);
        Ok(())
    }

    /// Returns the first position; `None` if the table does not exist yet.
    async fn begin(&self) -> Result<Option<At>> {
        let of_commit = |version| At { version, snapshot: false, file: 0, batches: 0 };
        if let DeltaStart::Version(version) = self.start {
            return Ok(Some(of_commit(version)));
        }
        if self.follow {
            let log = self.place.join("_delta_log")?.path;
            if self.stores.store(&self.place.store)?.list(Some(&log)).try_next().await?.is_none() {
                return Ok(None);
            }
        }
        let newest = table(&self.place, None, &self.stores).await?.version.unwrap_or_default();
        Ok(Some(match self.start {
            DeltaStart::Latest => of_commit(newest + 1),
            _ => At { snapshot: true, ..of_commit(newest) },
        }))
    }

    /// Returns the files of the version at `at`; `None` if the version does not exist yet.
    async fn load(&mut self, at: At, notes: &mut Vec<String>) -> Result<Option<Vec<DeltaFile>>> {
        if at.snapshot {
            return self.snapshot(at.version).await.map(Some);
        }
        let Some(commit) = self.commit(at.version).await? else { return Ok(None) };
        let (place, version) = (&self.place, at.version);
        if commit.maps_columns {
            return Err(mapped(place, version));
        }
        if commit.removes_rows {
            let operation = commit.operation.as_deref().unwrap_or("an operation without a name");
            if !self.skips_removals {
                return Err(QueryError::data(format!(
                    "version {version} of Delta table {place} removes rows ({operation}), which a stream cannot take \
                     back; set removals = 'skip' to leave out such versions, or start after it with \
                     start = '{}' in a new pipeline",
                    version + 1
                )));
            }
            notes.push(format!("version {version} of Delta table {place} removes rows ({operation}) and is left out"));
            return Ok(Some(Vec::new()));
        }
        commit.appended.into_iter().map(|file| self.appended(file, version)).collect::<Result<Vec<_>>>().map(Some)
    }

    /// Reads the commit of `version`; `None` if it does not exist yet.
    async fn commit(&mut self, version: u64) -> Result<Option<DeltaCommit>> {
        let found = delta_commit(&self.place, version, &self.stores).await?;
        if found.is_some() || self.searched == Some(version) {
            return Ok(found);
        }
        // The log may have been cleaned before this version was read.
        if let Some(next) = delta_version_after(&self.place, version, &self.stores).await? {
            // It may have been written meanwhile.
            let found = delta_commit(&self.place, version, &self.stores).await?;
            return match found {
                Some(found) => Ok(Some(found)),
                None => Err(QueryError::data(format!(
                    "version {version} of Delta table {} is no longer in its log, whose oldest version after it is \
                     {next}; start a new pipeline, which reads the whole table",
                    self.place
                ))),
            };
        }
        self.searched = Some(version);
        Ok(None)
    }

    fn appended(&self, file: AppendedFile, version: u64) -> Result<DeltaFile> {
        if file.has_deleted_rows {
            return Err(deleted(&self.place, version, &file.path));
        }
        let mut partitions = Vec::new();
        for (name, text) in &file.partition_values {
            if let Ok(index) = self.schema.index_of(name) {
                let data_type = self.schema.field(index).data_type();
                partitions.push((index, partition_value(name, data_type, text.as_deref())?));
            }
        }
        Ok(DeltaFile { store: file.store, path: file.path, partitions })
    }

    /// Returns all files of a version.
    async fn snapshot(&self, version: u64) -> Result<Vec<DeltaFile>> {
        let table = table(&self.place, Some(version), &self.stores).await?;
        if table.mapping != ColumnMapping::default() {
            return Err(mapped(&self.place, version));
        }
        let mut files = Vec::new();
        for file in &table.files {
            if file.deletion_vector.is_some() {
                return Err(deleted(&self.place, version, &file.path));
            }
            let mut partitions = Vec::new();
            for (name, value) in table.partition_columns.iter().zip(file.partition_values.iter()) {
                if let Ok(index) = self.schema.index_of(name) {
                    partitions.push((index, value.cast_to(self.schema.field(index).data_type())?));
                }
            }
            files.push(DeltaFile { store: table.store.clone(), path: file.path.clone(), partitions });
        }
        Ok(files)
    }

    async fn decode(&self, file: &DeltaFile) -> Result<Vec<RecordBatch>> {
        let path = Path::parse(&file.path)
            .map_err(|error| QueryError::data(format!("`{}` is not a path: {error}", file.path)))?;
        let named = |error: QueryError| error.at(file.path.as_str());
        let bytes = self.stores.store(&file.store)?.get(&path).await.map_err(|error| named(error.into()))?;
        let bytes = bytes.bytes().await.map_err(|error| named(error.into()))?;
        let own = own_columns(&self.schema, &file.partitions);
        let batches = decode_file(&Format::Parquet, &own, bytes).map_err(named)?;
        batches.into_iter().map(|batch| with_partitions(batch, &self.schema, &file.partitions)).collect()
    }
}

/// Opens a version of the table, or the newest.
async fn table(place: &Location, version: Option<u64>, stores: &QueryStores) -> Result<Table> {
    let entry = CatalogEntry { version, ..CatalogEntry::new("delta", CatalogType::DeltaLake, place.to_string()) };
    buzz_catalog::open(&entry, std::path::Path::new("/"), stores).await
}

fn mapped(place: &Location, version: u64) -> QueryError {
    QueryError::data(format!(
        "version {version} of Delta table {place} maps column names, which a stream cannot read; rewrite the table \
         without delta.columnMapping.mode"
    ))
}

fn deleted(place: &Location, version: u64, file: &str) -> QueryError {
    QueryError::data(format!(
        "file `{file}` of version {version} of Delta table {place} has deleted rows, which a stream cannot read; purge \
         them with REORG TABLE, or read only appended rows with start = 'latest'"
    ))
}

/// Returns the columns with the types that files have: texts are not views.
fn plain(schema: &Schema) -> SchemaRef {
    let plain = |field: &Arc<Field>| {
        let data_type = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    };
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

#[async_trait]
impl Source for DeltaSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn read(&mut self, rows: usize, _: i64) -> Result<SourceBatch> {
        let mut read = SourceBatch::default();
        let (mut batches, mut count) = (Vec::new(), 0);
        while count < rows {
            if let (Some(batch), Some(at)) = (self.batches.pop_front(), &mut self.at) {
                at.batches += 1;
                count += batch.num_rows();
                batches.push(batch);
                continue;
            }
            let Some(at) = self.at else {
                self.at = self.begin().await?;
                if self.at.is_none() {
                    read.notes.push(format!("Delta table {} does not exist yet; waiting for it", self.place));
                    break;
                }
                continue;
            };
            if self.files.is_none() {
                self.files = self.load(at, &mut read.notes).await?;
            }
            let Some(files) = &self.files else {
                read.ended = !self.follow;
                break;
            };
            match files.get(at.file) {
                Some(file) => {
                    let decoded: VecDeque<RecordBatch> =
                        self.decode(file).await?.into_iter().skip(at.batches).collect();
                    if decoded.is_empty() {
                        self.at = Some(At { file: at.file + 1, batches: 0, ..at });
                    }
                    self.batches = decoded;
                }
                None => {
                    self.at = Some(At { version: at.version + 1, snapshot: false, file: 0, batches: 0 });
                    self.files = None;
                }
            }
        }
        read.more = count >= rows;
        read.partitions = vec![("0".to_string(), batches)];
        Ok(read)
    }

    fn starts_at_newest(&self) -> bool {
        self.start == DeltaStart::Latest
    }

    fn offset(&self) -> Value {
        match self.at {
            None => Value::Null,
            Some(At { version, snapshot, file, batches }) => {
                json!({"version": version, "snapshot": snapshot, "file": file, "batches": batches})
            }
        }
    }
}
