//! Materialized views: the state keeps the rows that a statement has emitted and not taken back, as Parquet files that the record of
//! an epoch names. Readers see the rows of whole epochs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StructArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_epoch::{EpochLog, Record, StateFile, sum, view_stage};
use buzz_protocol::{CHANGES, QueryError, Result, nullable};
use buzz_stream::{KEY_GROUPS, MATERIALIZED_VIEW};

use crate::plan::{OnError, Planned};
use crate::runner::Runner;
use crate::view_files::{Missing, decode, encode};

/// Rows of a file.
const FILE_ROWS_MAX: usize = 1_000_000;

/// Files of a view from which on the newest ones are brought together.
const FILES_MIN: usize = 8;

impl Planned {
    /// Checks that materialized views can keep the columns of their rows.
    ///
    /// # Errors
    /// `Invalid` if the type of a column cannot be kept, or compared with the rows that are kept.
    pub(crate) fn check_views(&self) -> Result<()> {
        for (name, columns) in self.views() {
            Missing::check(&columns).map_err(|error| error.at(format!("materialized view {name}")))?;
        }
        Ok(())
    }

    /// Returns the materialized views, with the columns of their rows.
    pub(crate) fn views(&self) -> impl Iterator<Item = (&str, SchemaRef)> {
        let is_view = |target: &str| {
            let table = self.script.table(target);
            table.and_then(|table| table.option("connector")) == Some(MATERIALIZED_VIEW)
        };
        let outputs = self.pipeline.outputs().zip(&self.targets);
        let views = outputs.filter(move |(_, target)| is_view(target));
        views.map(|((_, columns), target)| (target.as_str(), row_columns(&columns)))
    }
}

/// Returns the columns of rows of which `columns` may be those of changes.
fn row_columns(columns: &SchemaRef) -> SchemaRef {
    let after = columns.field_with_name("after").ok().filter(|_| columns.metadata().contains_key(CHANGES));
    match after.map(Field::data_type) {
        Some(DataType::Struct(fields)) => nullable(&Schema::new(fields.clone())),
        _ => nullable(columns),
    }
}

impl Runner {
    /// Writes the files with the rows that an epoch adds to materialized views and takes back, and enters the files of all views
    /// into `record`. `rows` has what statements emitted, by sink.
    ///
    /// # Errors
    /// `Data` if a file is broken, or a view lacks a row that is taken back; errors of the store.
    pub(crate) async fn write_views(
        &self,
        log: &EpochLog,
        record: &mut Record,
        rows: &BTreeMap<String, Vec<RecordBatch>>,
    ) -> Result<()> {
        for (name, columns) in self.planned.views() {
            let files = self.record.view_files(name).cloned().collect();
            let skips = self.planned.settings.on_error == OnError::SkipEpoch;
            let mut view = View { name, columns, log, before: self.record.epoch, files, skips, unmatched: 0 };
            let emitted = rows.get(name).map_or(&[][..], Vec::as_slice);
            let changed = view.change(record.epoch, emitted).await;
            changed.map_err(|error| error.at(format!("materialized view {name}")))?;
            if view.unmatched > 0 {
                let text =
                    format!("{} rows are taken away that did not come before; they are left out", view.unmatched);
                self.planned.process.notes.warn(&format!("materialized view {name}: {text}"));
            }
            record.state.append(&mut view.files);
        }
        Ok(())
    }
}

/// The rows of a view.
struct View<'a> {
    name: &'a str,
    columns: SchemaRef,
    log: &'a EpochLog,
    /// The epoch whose record names the files.
    before: u64,
    /// Files with the rows, the oldest first.
    files: Vec<StateFile>,
    /// Rows that are taken away and did not come before are left out. Otherwise they are an error.
    skips: bool,
    /// The number of these rows.
    unmatched: usize,
}

impl View<'_> {
    /// Changes the files by the rows that an epoch emitted.
    async fn change(&mut self, epoch: u64, emitted: &[RecordBatch]) -> Result<()> {
        let (mut added, removed) = self.divided(emitted)?;
        let mut missing = Missing::of(&self.columns, &removed)?;
        // A row that comes and goes in one epoch is in no file.
        added = missing.without(added)?;
        let mut files = std::mem::take(&mut self.files);
        // Rows that change have mostly changed before, so they are in the newest files.
        for number in (0..files.len()).rev() {
            if missing.is_empty() {
                break;
            }
            let rows = self.read(&files[number]).await?;
            let before = missing.len();
            let rest = missing.without(rows)?;
            if missing.len() < before {
                added.extend(rest);
                files.remove(number);
            }
        }
        self.unmatched = missing.len();
        if self.unmatched > 0 && !self.skips {
            return Err(QueryError::data(format!(
                "{} rows are taken away that did not come before; read the changes from their start, each once, and let \
                 `before` have the whole row (of PostgreSQL: ALTER TABLE … REPLICA IDENTITY FULL)",
                self.unmatched
            )));
        }
        files.retain(|file| file.rows > 0 || added.is_empty());
        self.files = files;
        if added.is_empty() && !self.files.is_empty() {
            return Ok(());
        }
        let added = self.merged(added).await?;
        self.write(epoch, &added).await
    }

    /// Divides emitted rows into those that are added and those that are taken back.
    fn divided(&self, emitted: &[RecordBatch]) -> Result<(Vec<RecordBatch>, Vec<RecordBatch>)> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for batch in emitted.iter().filter(|batch| batch.num_rows() > 0) {
            if !batch.schema().metadata().contains_key(CHANGES) {
                added.push(RecordBatch::try_new(Arc::clone(&self.columns), batch.columns().to_vec())?);
                continue;
            }
            for (name, rows) in [("before", &mut removed), ("after", &mut added)] {
                let column = batch.column_by_name(name).and_then(AsArray::as_struct_opt);
                let column = column.ok_or_else(|| QueryError::internal("changes have other columns"))?;
                rows.extend(self.rows_of(column)?);
            }
        }
        Ok((added, removed))
    }

    /// Returns the rows of a column of structs that are not null.
    fn rows_of(&self, column: &StructArray) -> Result<Option<RecordBatch>> {
        let rows = RecordBatch::try_new(Arc::clone(&self.columns), column.columns().to_vec())?;
        let rows = match column.nulls() {
            Some(nulls) => filter_record_batch(&rows, &BooleanArray::new(nulls.inner().clone(), None))?,
            None => rows,
        };
        Ok(Some(rows).filter(|rows| rows.num_rows() > 0))
    }

    /// Puts the rows of the newest files in front of `added`, if there are many files and these are small.
    async fn merged(&mut self, mut added: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let mut count: usize = added.iter().map(RecordBatch::num_rows).sum();
        while self.files.len() >= FILES_MIN {
            let Some(last) = self.files.last() else { break };
            let rows = usize::try_from(last.rows).unwrap_or(usize::MAX);
            if rows > count.saturating_mul(2) || rows.saturating_add(count) > FILE_ROWS_MAX {
                break;
            }
            let mut older = self.read(last).await?;
            older.append(&mut added);
            (added, count) = (older, count + rows);
            self.files.pop();
        }
        Ok(added)
    }

    async fn read(&self, file: &StateFile) -> Result<Vec<RecordBatch>> {
        let bytes = self.log.read(self.before, &file.path, &file.sum).await?;
        // Another process has gone on, so the record of this epoch will be refused.
        let bytes = bytes.ok_or_else(|| {
            QueryError::unavailable("another process runs this pipeline and has deleted older rows; stop one of them")
        })?;
        decode(bytes, &self.columns).map_err(|error| error.at(file.path.as_str()))
    }

    /// Writes `rows` into new files; without rows, into an empty one, which has the columns.
    async fn write(&mut self, epoch: u64, rows: &[RecordBatch]) -> Result<()> {
        let (mut parts, mut count) = (vec![Vec::new()], 0);
        for batch in rows {
            let mut from = 0;
            while from < batch.num_rows() {
                if count == FILE_ROWS_MAX {
                    parts.push(Vec::new());
                    count = 0;
                }
                let length = (batch.num_rows() - from).min(FILE_ROWS_MAX - count);
                if let Some(part) = parts.last_mut() {
                    part.push(batch.slice(from, length));
                }
                (from, count) = (from + length, count + length);
            }
        }
        let stage = view_stage(self.name);
        for part in parts {
            let bytes = encode(&part, &self.columns)?;
            let path = self.log.state_path(&stage, epoch, "parquet");
            self.files.push(StateFile {
                stage: stage.clone(),
                path: path.to_string(),
                groups: (0, KEY_GROUPS as u32),
                slices: None,
                rows: part.iter().map(|batch| batch.num_rows() as u64).sum(),
                bytes: bytes.len() as u64,
                level: 0,
                sum: sum(&bytes),
            });
            self.log.put(&path, bytes).await?;
        }
        Ok(())
    }
}
