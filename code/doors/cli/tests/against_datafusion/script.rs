//! One `.slt` file: its setup runs in plain DataFusion, and each other statement goes to the comparison.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use datafusion::common::TableReference;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{CreateExternalTable, DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};
use libtest_mimic::Failed;
use sqllogictest::{Condition, DefaultColumnType, Record};
use tempfile::TempDir;

use crate::inputs::Inputs;
use crate::parquet::{self, Written};
use crate::stand_ins;

/// A record that holds SQL.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    /// The file, below the folder of all, and the line in it.
    pub file: String,
    pub line: u32,
    pub text: String,
}

/// The part that a statement has in the comparison.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A query over these tables, which were written; with an order or without.
    Select { tables: Vec<(String, Written)>, ordered: bool },
    /// A statement other than a query that plain DataFusion refuses with this error; and the tables that it names.
    Refused { tables: Vec<(String, Written)>, error: String },
    /// A statement over a table that Parquet cannot hold.
    NotParquet,
    /// A statement over a table whose file is not on this machine.
    Missing,
    /// Anything else: plain DataFusion has run it.
    Setup,
}

/// A file's session and the tables that were written from it.
pub(crate) struct Script {
    ctx: SessionContext,
    /// The beginnings of paths in statements, and the folders that stand for them.
    places: Vec<(&'static str, PathBuf)>,
    folder: TempDir,
    written: HashMap<String, Result<Written, String>>,
    /// Tables whose files are missing.
    lost: HashSet<String>,
    /// Files that the script names and that are missing.
    missing: BTreeSet<String>,
}

impl Script {
    /// Returns a session without tables.
    pub(crate) async fn new(inputs: &Inputs) -> Result<Script, Failed> {
        let config = SessionConfig::new().with_target_partitions(4).with_information_schema(true);
        let folder = tempfile::tempdir()?;
        let scratch = folder.path().join("scratch");
        std::fs::create_dir_all(&scratch)?;
        let stand_ins = stand_ins::get(inputs).await?;
        let mut places = vec![
            ("../../testing/data/csv/", stand_ins.join("csv")),
            ("../../parquet-testing/data/alltypes_plain.", stand_ins.join("parquet/alltypes_plain")),
            ("../core/tests/data/", stand_ins.join("core")),
            ("../../datafusion/core/tests/data/", stand_ins.join("core")),
            ("../core/tests/tpch-csv/", stand_ins.join("tpch-csv")),
            ("test_files/tpch/data/", stand_ins.join("tpch")),
            ("test_files/scratch/", scratch),
        ];
        if let Some(shared) = &inputs.shared {
            places.push(("../../parquet-testing/data/", shared.join("parquet/parquet-testing/data")));
        }
        let ctx = SessionContext::new_with_config(config);
        let (written, lost, missing) = (HashMap::new(), HashSet::new(), BTreeSet::new());
        Ok(Script { ctx, places, folder, written, lost, missing })
    }

    /// Returns the time zone that the script has set.
    pub(crate) fn time_zone(&self) -> Option<String> {
        let state = self.ctx.state();
        let zone =
            state.config_options().entries().into_iter().find(|entry| entry.key == "datafusion.execution.time_zone");
        zone.and_then(|entry| entry.value).filter(|zone| !zone.is_empty())
    }

    /// Returns the files that the script names and that are not on this machine.
    pub(crate) fn missing(&self) -> &BTreeSet<String> {
        &self.missing
    }

    /// Returns the part of `text` in the comparison. Writes the tables that it names; runs it unless it is a query.
    pub(crate) async fn take(&mut self, text: &str) -> Kind {
        if let Some((query, references)) = select(text) {
            return match self.tables(&references).await {
                Ok(tables) => Kind::Select { tables, ordered: query.order_by.is_some() },
                Err(kind) => kind,
            };
        }
        let error = match self.set_up(text).await {
            Ok(()) => return Kind::Setup,
            Err(SetupError::Missing) => return Kind::Missing,
            Err(SetupError::Failed(error)) => error,
        };
        match self.tables(&references(text)).await {
            Ok(tables) => Kind::Refused { tables, error },
            Err(kind) => kind,
        }
    }

    /// Writes the tables that `references` name. Names that are not of tables are left out: they are of functions, or
    /// errors of the statement.
    async fn tables(&mut self, references: &[TableReference]) -> Result<Vec<(String, Written)>, Kind> {
        let mut tables = Vec::new();
        for reference in references {
            let exists = self.ctx.table_exist(reference.clone()).unwrap_or_default();
            if !exists && self.lost.contains(reference.table()) {
                return Err(Kind::Missing);
            }
            if !exists || matches!(reference.schema(), Some(schema) if schema != "public") {
                continue;
            }
            match self.table(reference).await {
                Ok(written) => tables.push((reference.table().to_string(), written)),
                Err(_) => return Err(Kind::NotParquet),
            }
        }
        Ok(tables)
    }

    async fn set_up(&mut self, text: &str) -> Result<(), SetupError> {
        let verb = text.split_whitespace().next().unwrap_or_default().to_lowercase();
        if !["set", "reset", "explain", "show", "describe"].contains(&verb.as_str()) {
            self.written.clear();
        }
        let placed = self.places.iter().fold(text.to_string(), |text, (from, to)| {
            let to = to.to_string_lossy();
            text.replace(from, &if from.ends_with('/') { format!("{to}/") } else { format!("{to}.") })
        });
        if let (Some(external), Some(original)) = (external_table(&placed), external_table(text)) {
            let names = external.locations.iter().zip(original.locations);
            let missing: Vec<String> = names.filter(|(place, _)| is_missing(place)).map(|(_, name)| name).collect();
            if !missing.is_empty() {
                self.lost.extend(external.name.0.last().map(|name| name.to_string()));
                self.missing.extend(missing);
                return Err(SetupError::Missing);
            }
        }
        let ctx = self.ctx.clone();
        // Plain DataFusion may panic.
        let outcome = tokio::spawn(async move { ctx.sql(&placed).await?.collect().await }).await;
        let error = match outcome {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        let named = references(text);
        if named.iter().any(|reference| self.lost.contains(reference.table())) {
            // A view of a missing table is missing too.
            self.lost.extend(named.iter().map(|reference| reference.table().to_string()));
            return Err(SetupError::Missing);
        }
        Err(SetupError::Failed(error))
    }

    async fn table(&mut self, reference: &TableReference) -> Result<Written, String> {
        let name = reference.table().to_string();
        if let Some(known) = self.written.get(&name) {
            return known.clone();
        }
        let written = self.write(reference.clone()).await;
        self.written.insert(name, written.clone());
        written
    }

    async fn write(&self, reference: TableReference) -> Result<Written, String> {
        let (ctx, folder) = (self.ctx.clone(), tempfile::tempdir_in(self.folder.path()));
        let folder = folder.map_err(|error| error.to_string())?.keep();
        let write = async move {
            let frame = ctx.table(reference).await.map_err(|error| error.to_string())?;
            let schema = frame.schema().inner().clone();
            let batches = frame.collect().await.map_err(|error| error.to_string())?;
            parquet::write(&folder, &schema, &batches, 3).map_err(|error| error.to_string())
        };
        tokio::spawn(write).await.map_err(|error| error.to_string())?
    }
}

/// A reason why a statement of the setup did nothing.
enum SetupError {
    /// A file that it reads is not on this machine.
    Missing,
    /// Plain DataFusion refuses it.
    Failed(String),
}

/// Returns whether a file of DataFusion's own repository is not on this machine.
fn is_missing(place: &str) -> bool {
    let elsewhere = place.starts_with("../") || (Path::new(place).is_absolute() && !place.contains("/scratch/"));
    elsewhere && !Path::new(place).exists()
}

fn external_table(text: &str) -> Option<CreateExternalTable> {
    match DFParser::parse_sql(text).ok()?.pop_front()? {
        Statement::CreateExternalTable(external) => Some(external),
        _ => None,
    }
}

/// Returns the tables that `text` names; none if it is not SQL.
fn references(text: &str) -> Vec<TableReference> {
    let statement = DFParser::parse_sql(text).ok().and_then(|mut statements| statements.pop_front());
    let found = statement.and_then(|statement| resolve_table_references(&statement, true).ok());
    found.map_or_else(Vec::new, |(references, _)| references)
}

/// Returns whether the rows of the query `text` have an order.
pub(crate) fn is_ordered(text: &str) -> bool {
    select(text).is_some_and(|(query, _)| query.order_by.is_some())
}

/// Returns the query that `text` is and the tables that it names; none if it is not a query.
fn select(text: &str) -> Option<(Box<Query>, Vec<TableReference>)> {
    let mut statements = DFParser::parse_sql(text).ok()?;
    let statement = statements.pop_front().filter(|_| statements.is_empty())?;
    let (references, _) = resolve_table_references(&statement, true).ok()?;
    match statement {
        Statement::Statement(statement) => match *statement {
            // SELECT INTO makes a table.
            SqlStatement::Query(query) if query.body.as_select().is_none_or(|select| select.into.is_none()) => {
                Some((query, references))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Returns the SQL of a file and of those that it includes, in order.
pub(crate) fn records(folder: &Path, file: &str) -> Result<Vec<Sql>, Failed> {
    let text = std::fs::read_to_string(folder.join(file))?;
    let mut found = Vec::new();
    for record in sqllogictest::parse_with_name::<DefaultColumnType>(&text, file)? {
        match record {
            Record::Statement { loc, conditions, sql, .. } | Record::Query { loc, conditions, sql, .. }
                if !conditions.iter().any(for_others) =>
            {
                found.push(Sql { file: file.to_string(), line: loc.line(), text: sql });
            }
            Record::Include { filename, .. } => {
                let beside = folder.join(file).parent().expect("a file has a folder").join(filename);
                let matching = glob::glob(&beside.to_string_lossy()).map_err(|error| error.to_string())?;
                for path in matching.flatten() {
                    let path = path.strip_prefix(folder).map_err(|error| error.to_string())?;
                    found.extend(records(folder, &path.to_string_lossy())?);
                }
            }
            Record::Halt { .. } => break,
            _ => {}
        }
    }
    Ok(found)
}

/// Returns whether a record is for another engine.
fn for_others(condition: &Condition) -> bool {
    match condition {
        Condition::OnlyIf { label } => !label.eq_ignore_ascii_case("datafusion"),
        Condition::SkipIf { label } => label.eq_ignore_ascii_case("datafusion"),
    }
}
