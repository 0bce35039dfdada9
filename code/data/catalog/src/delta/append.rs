//! Appends rows to a Delta table, those of each epoch once: the commit that adds them also has the epoch as the version of
//! an application transaction, by which a repetition is noticed.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use buzz_protocol::{ErrorKind, QueryError, Result};
use buzz_storage::{Location, unpanicked};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitProperties, TransactionError};
use deltalake::kernel::{StructType, Transaction};
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use url::Url;

use super::hint::TrueHints;
use super::log::{CachedTable, know_scheme};
use super::{failure, protocol};

/// Attempts to append, each after the table was read again.
const ATTEMPTS: usize = 5;

/// A Delta table that an application appends to.
pub struct DeltaTarget {
    /// The table, for messages.
    place: Location,
    store: Arc<dyn ObjectStore>,
    root: Url,
    application: String,
    /// The version that was read or written last.
    kept: Mutex<Option<CachedTable>>,
}

impl fmt::Debug for DeltaTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaTarget")
            .field("place", &self.place)
            .field("application", &self.application)
            .finish_non_exhaustive()
    }
}

/// The columns of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaColumns {
    /// All columns.
    pub schema: SchemaRef,
    /// The partition columns, in their order.
    pub partition_by: Vec<String>,
}

impl DeltaTarget {
    /// Returns the table at `place`, whose folder in `store` is the path of `root`, which ends with `/`. `application` identifies
    /// the writer in the log of the table.
    pub fn new(place: Location, store: Arc<dyn ObjectStore>, root: Url, application: String) -> Self {
        Self { place, store, root, application, kept: Mutex::default() }
    }

    /// Returns the columns of the table; `None` if it does not exist.
    ///
    /// # Errors
    /// `Data` if its log is invalid or it requires a feature that Buzz does not support; `Unavailable` if the store does
    /// not respond.
    pub async fn columns(&self) -> Result<Option<DeltaColumns>> {
        let Some(table) = self.load().await? else { return Ok(None) };
        let snapshot = table.snapshot().map_err(|error| failure::query_error(&self.place, error))?.snapshot();
        let required = serde_json::to_value(snapshot.protocol()).map_err(|error| {
            QueryError::internal(format!("cannot encode the protocol of {} as JSON: {error}", self.place))
        })?;
        protocol::check(&self.place, &required)?;
        let partition_by = snapshot.metadata().partition_columns().to_vec();
        Ok(Some(DeltaColumns { schema: snapshot.arrow_schema(), partition_by }))
    }

    /// Returns the newest epoch that the application has appended; `None` if there is none.
    ///
    /// # Errors
    /// As [`Self::columns`].
    pub async fn newest(&self) -> Result<Option<u64>> {
        match self.load().await? {
            Some(table) => self.newest_in(&table).await,
            None => Ok(None),
        }
    }

    /// Appends `rows`, whose types are those of Delta tables, as `epoch`, and creates the table with partitions by
    /// `partition_by` if it does not exist. Does nothing if the application has appended this or a later epoch.
    ///
    /// # Errors
    /// `Data` if the table cannot take the rows; `Unavailable` if the store does not respond, or other writers were faster in
    /// each attempt.
    pub async fn append(&self, epoch: u64, rows: &[RecordBatch], partition_by: &[String]) -> Result<()> {
        let version = i64::try_from(epoch)
            .map_err(|_| QueryError::internal(format!("epoch {epoch} is too large for a Delta table")))?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let table = self.load().await?;
            if let Some(table) = &table
                && self.newest_in(table).await?.is_some_and(|newest| newest >= epoch)
            {
                return Ok(());
            }
            let Some(table) = table else {
                // Without rows: a writer that finds a table where there was none appends to it without a look at its transactions.
                last = self.create(rows, partition_by).await.err();
                continue;
            };
            let rows = rows.iter().map(|rows| in_order_of(&table, rows)).collect::<Result<Vec<_>>>()?;
            let transaction = Transaction::new(&self.application, version);
            let properties = CommitProperties::default().with_application_transaction(transaction);
            let mut write = table
                .write(rows)
                .with_save_mode(SaveMode::Append)
                .with_cast_safety(false)
                .with_commit_properties(properties);
            if !partition_by.is_empty() {
                write = write.with_partition_columns(partition_by.to_vec());
            }
            match unpanicked(write.into_future()).await? {
                Ok(written) => return self.keep(&written).await,
                // The commit may be in the log nevertheless, or another process may have written the epoch.
                Err(error) => last = Some(self.unwritten(error)),
            }
        }
        match (self.newest().await?, last) {
            (Some(newest), _) if newest >= epoch => Ok(()),
            (_, Some(error)) => Err(error),
            (_, None) => Err(QueryError::internal("a Delta table was not written and gave no reason")),
        }
    }

    /// Creates the table with the columns of `rows`, if it does not exist.
    async fn create(&self, rows: &[RecordBatch], partition_by: &[String]) -> Result<()> {
        let columns = rows.first().ok_or_else(|| QueryError::internal("a Delta table is created without columns"))?;
        let columns: StructType = columns.schema().try_into_kernel()?;
        let table = self.builder()?.build().map_err(|error| self.unwritten(error))?;
        let create = table.create().with_columns(columns.fields().cloned()).with_save_mode(SaveMode::Ignore);
        let create = create.with_partition_columns(partition_by.to_vec());
        unpanicked(create.into_future()).await?.map_err(|error| self.unwritten(error))?;
        Ok(())
    }

    fn builder(&self) -> Result<DeltaTableBuilder> {
        know_scheme(&self.root);
        let hinted: Arc<dyn ObjectStore> = Arc::new(TrueHints(Arc::clone(&self.store)));
        let builder =
            DeltaTableBuilder::from_url(self.root.clone()).map_err(|error| failure::query_error(&self.place, error))?;
        Ok(builder.with_storage_backend(hinted, self.root.clone()))
    }

    fn log_path(&self, name: &str) -> Result<Path> {
        Path::from_url_path(format!("{}_delta_log{name}", self.root.path()))
            .map_err(|error| QueryError::invalid(format!("Delta table {}: {error}", self.place)))
    }

    /// Loads the newest version; `None` if there is no log. After the first time, only newer commits are read.
    async fn load(&self) -> Result<Option<DeltaTable>> {
        let kept = self.kept.lock().take();
        if let Some(CachedTable { mut table, commit }) = kept
            && self.store.head(&commit.location).await.is_ok_and(|found| found == commit)
            // If it fails, reading the whole log gives the reason.
            && unpanicked(table.update_incremental(None)).await?.is_ok()
        {
            self.keep(&table).await?;
            return Ok(Some(table));
        }
        let first = self.store.list(Some(&self.log_path("")?)).try_next().await;
        if first.map_err(|error| failure::in_table(&self.place, error.into()))?.is_none() {
            return Ok(None);
        }
        let loaded = unpanicked(self.builder()?.load()).await?;
        let table = loaded.map_err(|error| failure::query_error(&self.place, error))?;
        self.keep(&table).await?;
        Ok(Some(table))
    }

    async fn keep(&self, table: &DeltaTable) -> Result<()> {
        let commit = self.log_path(&format!("/{:020}.json", table.version().unwrap_or_default()))?;
        if let Ok(commit) = self.store.head(&commit).await {
            let kept = CachedTable { table: table.clone(), commit };
            *self.kept.lock() = Some(kept);
        }
        Ok(())
    }

    async fn newest_in(&self, table: &DeltaTable) -> Result<Option<u64>> {
        let failed = |error: DeltaTableError| failure::query_error(&self.place, error);
        let snapshot = table.snapshot().map_err(failed)?;
        let version = snapshot.transaction_version(table.log_store().as_ref(), &self.application).await;
        Ok(version.map_err(failed)?.and_then(|version| u64::try_from(version).ok()))
    }

    fn unwritten(&self, error: DeltaTableError) -> QueryError {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default();
        let message = format!("Delta table {} cannot be written: {text}", self.place);
        let known = match error {
            DeltaTableError::ObjectStore { source } => QueryError::from(source),
            DeltaTableError::Arrow { source } => QueryError::from(source),
            // Other writers were faster.
            DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction { source: TransactionError::MaxCommitAttempts(_) } => {
                return QueryError::unavailable(message);
            }
            _ => return QueryError::data(message),
        };
        match known.kind {
            ErrorKind::Unavailable => failure::in_table(&self.place, known),
            _ => QueryError::data(message),
        }
    }
}

/// Puts the columns of `rows` in the order of those of the table, if they have the same names.
fn in_order_of(table: &DeltaTable, rows: &RecordBatch) -> Result<RecordBatch> {
    let Ok(snapshot) = table.snapshot() else { return Ok(rows.clone()) };
    let (schema, own) = (snapshot.snapshot().arrow_schema(), rows.schema());
    let order: Option<Vec<usize>> = schema.fields().iter().map(|field| own.index_of(field.name()).ok()).collect();
    match order.filter(|order| order.len() == own.fields().len()) {
        Some(order) => Ok(rows.project(&order)?),
        None => Ok(rows.clone()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use object_store::ObjectMeta;
    use object_store::memory::InMemory;

    use super::*;

    fn target(store: &Arc<InMemory>, application: &str) -> DeltaTarget {
        let place = Location::parse("s3://lake/t", std::path::Path::new("/")).expect("it is a uri");
        let root = place.directory_url();
        DeltaTarget::new(place, Arc::clone(store) as _, root, application.to_string())
    }

    fn rows(values: &[i64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("n", column, true)]).expect("one column is a batch")
    }

    /// The number of rows that the statistics in the log have, and the version.
    async fn state(target: &DeltaTarget) -> (usize, u64) {
        let table = target.load().await.expect("the log is valid").expect("the table exists");
        let snapshot = table.snapshot().expect("it is loaded").snapshot();
        let views: Vec<_> =
            snapshot.file_views(table.log_store().as_ref(), None).try_collect().await.expect("the log is valid");
        let count = views.iter().map(|view| view.num_records().expect("files have statistics")).sum();
        (count, table.version().expect("it is loaded"))
    }

    #[tokio::test]
    async fn each_epoch_of_an_application_is_appended_once() {
        let store = Arc::new(InMemory::new());
        let first = target(&store, "first");
        assert_eq!(first.columns().await.expect("there is no table"), None);
        assert_eq!(first.newest().await.expect("there is no table"), None);
        first.append(3, &[rows(&[1, 2]), rows(&[3])], &[]).await.expect("the table is created");
        first.append(3, &[rows(&[1, 2]), rows(&[3])], &[]).await.expect("a repetition does nothing");
        first.append(2, &[rows(&[9])], &[]).await.expect("an earlier epoch does nothing");
        assert_eq!(state(&first).await, (3, 1));
        assert_eq!(first.newest().await.expect("the log is valid"), Some(3));
        let other = target(&store, "other");
        assert_eq!(other.newest().await.expect("the log is valid"), None);
        other.append(1, &[rows(&[4])], &[]).await.expect("another application has its own epochs");
        first.append(7, &[rows(&[5])], &[]).await.expect("epochs may be left out");
        assert_eq!(state(&first).await, (5, 3));
        let columns = first.columns().await.expect("the log is valid").expect("the table exists");
        assert_eq!(columns.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["n"]);
    }

    #[tokio::test]
    async fn table_that_was_replaced_is_read_again() {
        let store = Arc::new(InMemory::new());
        let target = target(&store, "p");
        target.append(8, &[rows(&[1, 2])], &[]).await.expect("the table is created");
        let objects: Vec<ObjectMeta> = store.list(None).try_collect().await.expect("memory is readable");
        for object in objects {
            store.delete(&object.location).await.expect("it exists");
        }
        assert_eq!(target.newest().await.expect("there is no table"), None);
        target.append(2, &[rows(&[3])], &[]).await.expect("the table is created again");
        assert_eq!(state(&target).await, (1, 1));
    }

    #[tokio::test]
    async fn processes_that_append_one_epoch_at_once_append_it_once() {
        let store = Arc::new(InMemory::new());
        for epoch in 1..6 {
            let row = [rows(&[epoch as i64])];
            let appends = (0..3).map(|_| {
                let (target, row) = (target(&store, "p"), row.clone());
                async move { target.append(epoch, &row, &[]).await }
            });
            for appended in futures::future::join_all(appends).await {
                appended.expect("one of them appends, the others notice it");
            }
            assert_eq!(state(&target(&store, "p")).await.0, epoch as usize);
        }
    }
}
