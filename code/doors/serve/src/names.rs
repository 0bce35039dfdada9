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

/// A registry whose names a server knows beside its own tables.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// The registry. It opens an added table with the engine that answers queries.
    pub registry: Arc<dyn buzz_engine::Names>,
    /// Time after which the registry is read again when a name is needed. Changes by other processes are seen after it.
    pub read_again_after: Duration,
    /// True if clients may create and drop names.
    pub can_change: bool,
}

/// The named tables.
#[derive(Debug)]
pub(crate) struct Names {
    engine: Arc<dyn Engine>,
    base: PathBuf,
    /// The server's own tables, which come before those of the registry.
    own: Vec<CatalogEntry>,
    registry: Option<RegistrySettings>,
    /// The entries as they were read last, and when. Held while the registry is read, so that it is read once.
    read: tokio::sync::Mutex<Option<Instant>>,
    current: Mutex<Arc<Entries>>,
    described: Mutex<HashMap<String, Described>>,
    oids: Mutex<HashMap<String, u32>>,
}

/// A table as it was found for an entry.
#[derive(Debug)]
struct Described {
    at: Instant,
    entry: CatalogEntry,
    table: NamedTable,
}

/// The entries at one time, sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Entries(Vec<CatalogEntry>);

/// A named table.
#[derive(Debug, Clone)]
pub(crate) struct NamedTable {
    /// Identifier, which stays the same while the server runs.
    pub(crate) oid: u32,
    /// The name.
    pub(crate) name: String,
    /// True if it is a view.
    pub(crate) is_view: bool,
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

impl Entries {
    fn sorted(mut entries: Vec<CatalogEntry>) -> Arc<Self> {
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Arc::new(Self(entries))
    }

    /// Returns all entries.
    pub(crate) fn all(&self) -> &[CatalogEntry] {
        &self.0
    }

    /// Returns the entry of table `name`; upper and lower case are the same if no table has exactly this name.
    ///
    /// # Errors
    /// `Invalid` with the nearest name if the table does not exist.
    pub(crate) fn entry(&self, name: &str) -> Result<&CatalogEntry> {
        let exact = self.0.iter().find(|entry| entry.name == name);
        let found = exact.or_else(|| self.0.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)));
        found.ok_or_else(|| {
            let names = self.0.iter().map(|entry| entry.name.as_str());
            QueryError::invalid(format!("table `{name}` does not exist{}", name_help(name, names)))
        })
    }

    /// Returns the entry of table `name`, and those of the tables and views that it reads if it is a view. Views that read each
    /// other are returned once; the engine reports them.
    ///
    /// # Errors
    /// As [`Entries::entry`], naming the view that reads the unknown table.
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
}

impl Names {
    /// Makes the names of the entries `own`, whose relative places are below `base`, and of a registry. It is read when a name
    /// is needed.
    ///
    /// # Errors
    /// `Invalid` if a name is empty or used twice.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        base: PathBuf,
        own: Vec<CatalogEntry>,
        registry: Option<RegistrySettings>,
    ) -> Result<Self> {
        let query =
            Query { body: QueryBody::Sql("SELECT 1".to_string()), zones: 1, catalogs: own, params: Default::default() };
        // Applies the checks of a query's entries.
        let (query, warnings) = Query::parse(&query.to_json().to_string(), "the tables")?;
        for warning in warnings {
            tracing::warn!(warning, "table");
        }
        let own = query.catalogs;
        let names = Self {
            engine,
            base,
            current: Mutex::default(),
            own: own.clone(),
            registry,
            read: tokio::sync::Mutex::default(),
            described: Mutex::default(),
            oids: Mutex::default(),
        };
        names.keep(own);
        Ok(names)
    }

    /// Returns the folder of relative places.
    pub(crate) fn base(&self) -> &PathBuf {
        &self.base
    }

    /// Returns true if clients may create and drop names.
    pub(crate) fn can_change(&self) -> bool {
        self.registry.as_ref().is_some_and(|registry| registry.can_change)
    }

    /// Returns the entries as they were read last.
    pub(crate) fn last_entries(&self) -> Arc<Entries> {
        Arc::clone(&self.current.lock())
    }

    /// Returns the entries, of which those of the registry may be as old as its settings say.
    ///
    /// # Errors
    /// The errors of reading the registry.
    pub(crate) async fn entries(&self) -> Result<Arc<Entries>> {
        let Some(registry) = &self.registry else { return Ok(self.last_entries()) };
        let mut read = self.read.lock().await;
        if read.is_none_or(|at| at.elapsed() >= registry.read_again_after) {
            let is_own = |entry: &CatalogEntry| self.own.iter().any(|own| own.name.eq_ignore_ascii_case(&entry.name));
            let mut entries = registry.registry.list().await?;
            entries.retain(|entry| !is_own(entry));
            entries.extend(self.own.iter().cloned());
            self.keep(entries);
            *read = Some(Instant::now());
        }
        Ok(self.last_entries())
    }

    /// Takes `entries` as the current ones. New names get the next identifiers, in their order.
    fn keep(&self, entries: Vec<CatalogEntry>) {
        let entries = Entries::sorted(entries);
        for entry in entries.all() {
            self.oid(entry);
        }
        *self.current.lock() = entries;
    }

    /// Reads the registry again when a name is needed next.
    pub(crate) async fn forget(&self) {
        *self.read.lock().await = None;
    }

    /// Returns the table `name`, opened at most [`DESCRIBED_FOR`] ago.
    ///
    /// # Errors
    /// As [`Entries::entry`] and [`Names::entries`].
    pub(crate) async fn table(&self, name: &str) -> Result<NamedTable> {
        let entries = self.entries().await?;
        let entry = entries.entry(name)?;
        if let Some(known) = self.described.lock().get(&entry.name)
            && known.at.elapsed() < DESCRIBED_FOR
            && known.entry == *entry
            && known.table.description.is_ok()
        {
            return Ok(known.table.clone());
        }
        // A view is described with what it reads.
        let catalogs = match entries.with_read(name) {
            Ok(read) => read.into_iter().cloned().collect(),
            Err(_) => vec![entry.clone()],
        };
        let query =
            Query { body: QueryBody::Sql("SELECT 1".to_string()), zones: 1, catalogs, params: Default::default() };
        let described = self.engine.describe(&Question::new(query, &self.base)).await;
        let description = described.and_then(|tables| {
            let found = tables.into_iter().find(|table| table.name == entry.name);
            found.ok_or_else(|| QueryError::internal(format!("table `{}` was not described", entry.name)))
        });
        let table = self.named(entry, false, description);
        let described = Described { at: Instant::now(), entry: entry.clone(), table: table.clone() };
        self.described.lock().insert(entry.name.clone(), described);
        Ok(table)
    }

    fn oid(&self, entry: &CatalogEntry) -> u32 {
        let mut oids = self.oids.lock();
        let next = FIRST_OID + u32::try_from(oids.len()).unwrap_or(u32::MAX - FIRST_OID);
        *oids.entry(entry.name.clone()).or_insert(next)
    }

    /// Returns the table of `entry` as it was recorded, without its files.
    fn recorded(&self, entry: &CatalogEntry) -> Option<NamedTable> {
        entry.columns.as_ref()?;
        Some(self.named(entry, true, Ok(TableDescription::recorded(entry))))
    }

    fn named(&self, entry: &CatalogEntry, is_recorded: bool, description: Result<TableDescription>) -> NamedTable {
        NamedTable {
            oid: self.oid(entry),
            name: entry.name.clone(),
            is_view: entry.is_view(),
            is_recorded,
            description,
        }
    }

    /// Returns all tables and views, by name. Those whose columns are recorded are not opened. If the registry cannot be read,
    /// they are those that it had.
    pub(crate) async fn tables(&self) -> Vec<NamedTable> {
        let entries = self.entries().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the names could not be read again");
            self.last_entries()
        });
        let opening = entries.all().iter().map(|entry| match self.recorded(entry) {
            Some(table) => futures::future::ready(Ok(table)).boxed(),
            None => self.table(&entry.name).boxed(),
        });
        let opening: Vec<_> = opening.collect();
        let opened: Vec<Result<NamedTable>> =
            futures::stream::iter(opening).buffered(DESCRIBED_AT_ONCE).collect().await;
        opened.into_iter().flatten().collect()
    }
}
