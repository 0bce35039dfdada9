//! The tables that can be asked for by name: their catalog entries and the columns that they were found to have.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{Field, Schema, SchemaRef};
use buzz_engine::{Engine, Question, TableDescription};
use buzz_protocol::catalog::ColumnSpec;
use buzz_protocol::query::name_help;
use buzz_protocol::{CatalogEntry, Place, Query, QueryBody, QueryError, Result};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;

use crate::planner;

/// Time after which a table is described again when its columns are needed.
const DESCRIBED_FOR: Duration = Duration::from_secs(60);

/// Tables that are described at the same time.
const DESCRIBED_AT_ONCE: usize = 8;

/// Object identifier of the first table. Smaller ones belong to the system in PostgreSQL.
const FIRST_OID: u32 = 16_384;

/// The named tables.
#[derive(Debug)]
pub(crate) struct Names {
    engine: Arc<dyn Engine>,
    base: PathBuf,
    entries: Vec<CatalogEntry>,
    described: Mutex<HashMap<String, (Instant, NamedTable)>>,
}

/// A named table.
#[derive(Debug, Clone)]
pub(crate) struct NamedTable {
    /// Identifier, which stays the same while the server runs.
    pub(crate) oid: u32,
    /// The name.
    pub(crate) name: String,
    /// True if the columns are those that were recorded, and the files are not known.
    pub(crate) is_recorded: bool,
    /// Its columns and files, or the reason for which it cannot be opened.
    pub(crate) description: Result<TableDescription>,
}

impl NamedTable {
    /// Returns the columns, all nullable, or none if the table cannot be opened.
    pub(crate) fn schema(&self) -> Result<SchemaRef> {
        let description = self.description.clone()?;
        let fields = description.columns.into_iter().map(|(name, data_type)| ColumnSpec { name, data_type }.field());
        Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<Field>>>()?)))
    }
}

impl Names {
    /// Makes the names of `entries`, whose relative places are below `base`.
    ///
    /// # Errors
    /// `Invalid` if a name is empty or used twice.
    pub(crate) fn new(engine: Arc<dyn Engine>, base: PathBuf, entries: Vec<CatalogEntry>) -> Result<Self> {
        let query = Query {
            body: QueryBody::Sql("SELECT 1".to_string()),
            zones: 1,
            catalogs: entries,
            params: Default::default(),
        };
        // Applies the checks of a query's entries.
        let (query, warnings) = Query::parse(&query.to_json().to_string(), "the tables")?;
        for warning in warnings {
            tracing::warn!(warning, "table");
        }
        let mut entries = query.catalogs;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { engine, base, entries, described: Mutex::default() })
    }

    /// Returns the folder of relative places.
    pub(crate) fn base(&self) -> &PathBuf {
        &self.base
    }

    /// Returns all entries, by name.
    pub(crate) fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    /// Returns the entry of table `name`; upper and lower case are the same if no table has exactly this name.
    ///
    /// # Errors
    /// `Invalid` with the nearest name if the table does not exist.
    pub(crate) fn entry(&self, name: &str) -> Result<&CatalogEntry> {
        let exact = self.entries.iter().find(|entry| entry.name == name);
        let found = exact.or_else(|| self.entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)));
        found.ok_or_else(|| {
            let names = self.entries.iter().map(|entry| entry.name.as_str());
            QueryError::invalid(format!("table `{name}` does not exist{}", name_help(name, names)))
        })
    }

    /// Returns the entry of table `name`, and those of the tables and views that it reads if it is a view. Views that read each
    /// other are returned once; the engine reports them.
    ///
    /// # Errors
    /// As [`Names::entry`], naming the view that reads the unknown table.
    pub(crate) fn with_read(&self, name: &str) -> Result<Vec<&CatalogEntry>> {
        let mut found = vec![self.entry(name)?];
        let mut next = 0;
        while let Some(entry) = found.get(next).copied() {
            next += 1;
            let Some(sql) = entry.sql.as_deref() else { continue };
            let Ok(relations) = planner::parsed(sql).and_then(|statement| planner::relations(&statement)) else {
                continue;
            };
            for relation in relations {
                let read = self.entry(relation.table());
                let read = read.map_err(|error| error.at(Place::Other(format!("view `{}`", entry.name))))?;
                if !found.iter().any(|other| other.name == read.name) {
                    found.push(read);
                }
            }
        }
        Ok(found)
    }

    /// Returns the table `name`, opened at most [`DESCRIBED_FOR`] ago.
    pub(crate) async fn table(&self, name: &str) -> Result<NamedTable> {
        let entry = self.entry(name)?;
        if let Some((at, table)) = self.described.lock().get(&entry.name)
            && at.elapsed() < DESCRIBED_FOR
            && table.description.is_ok()
        {
            return Ok(table.clone());
        }
        let query = Query {
            body: QueryBody::Sql("SELECT 1".to_string()),
            zones: 1,
            catalogs: vec![entry.clone()],
            params: Default::default(),
        };
        let described = self.engine.describe(&Question::new(query, &self.base)).await;
        let description = described.and_then(|mut tables| {
            tables.pop().ok_or_else(|| QueryError::internal(format!("table `{}` was not described", entry.name)))
        });
        let table = NamedTable { oid: self.oid(entry), name: entry.name.clone(), is_recorded: false, description };
        self.described.lock().insert(entry.name.clone(), (Instant::now(), table.clone()));
        Ok(table)
    }

    fn oid(&self, entry: &CatalogEntry) -> u32 {
        let position = self.entries.iter().position(|other| other.name == entry.name).unwrap_or(0);
        FIRST_OID + u32::try_from(position).unwrap_or(u32::MAX - FIRST_OID)
    }

    /// Returns the table of `entry` as it was recorded, without its files.
    fn recorded(&self, entry: &CatalogEntry) -> Option<NamedTable> {
        let columns = entry.columns.as_ref()?.iter();
        let description = TableDescription {
            name: entry.name.clone(),
            kind: entry.kind.to_string(),
            uri: entry.uri.clone(),
            version: entry.version,
            files: 0,
            bytes: 0,
            partition_columns: Vec::new(),
            columns: columns.map(|column| (column.name.clone(), column.data_type.clone())).collect(),
            warnings: Vec::new(),
        };
        Some(NamedTable {
            oid: self.oid(entry),
            name: entry.name.clone(),
            is_recorded: true,
            description: Ok(description),
        })
    }

    /// Returns all tables and views, by name. Those whose columns are recorded are not opened.
    pub(crate) async fn tables(&self) -> Vec<NamedTable> {
        let opening = self.entries.iter().map(|entry| match self.recorded(entry) {
            Some(table) => futures::future::ready(Ok(table)).boxed(),
            None => self.table(&entry.name).boxed(),
        });
        let opening: Vec<_> = opening.collect();
        let opened: Vec<Result<NamedTable>> =
            futures::stream::iter(opening).buffered(DESCRIBED_AT_ONCE).collect().await;
        opened.into_iter().flatten().collect()
    }
}
