//! One `.slt` file: its setup runs in plain DataFusion, and each SELECT is given to whoever compares.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use datafusion::common::TableReference;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};
use libtest_mimic::Failed;
use sqllogictest::{Condition, DefaultColumnType, Record};
use tempfile::TempDir;

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

/// What a statement is to the comparison.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A query over these tables, which were written; with an order or without.
    Select { tables: Vec<(String, Written)>, ordered: bool },
    /// A query over a table that Parquet cannot hold.
    NotParquet,
    /// Anything else: it has been carried out in the setup.
    Setup,
}

/// A file's session and the tables that were written from it.
pub(crate) struct Script {
    ctx: SessionContext,
    data: PathBuf,
    folder: TempDir,
    written: HashMap<String, Result<Written, String>>,
}

impl Script {
    /// A session without tables, for `file`. What it reads is looked for below `data`.
    pub(crate) async fn new(data: &Path, file: &str) -> Result<Script, Failed> {
        let config = SessionConfig::new().with_target_partitions(4).with_information_schema(true);
        let folder = tempfile::tempdir()?;
        stand_ins::write(folder.path())?;
        if file.starts_with("tpch/") {
            stand_ins::write_tpch(data, folder.path()).await?;
        }
        let ctx = SessionContext::new_with_config(config);
        Ok(Script { ctx, data: data.to_path_buf(), folder, written: HashMap::new() })
    }

    /// The time zone that the script has set, if it has.
    pub(crate) fn time_zone(&self) -> Option<String> {
        let state = self.ctx.state();
        let zone =
            state.config_options().entries().into_iter().find(|entry| entry.key == "datafusion.execution.time_zone");
        zone.and_then(|entry| entry.value).filter(|zone| !zone.is_empty())
    }

    /// Says what `text` is; the tables of a SELECT are written, anything else is carried out.
    pub(crate) async fn take(&mut self, text: &str) -> Kind {
        let Some((query, references)) = select(text) else {
            self.set_up(text).await;
            return Kind::Setup;
        };
        let mut tables = Vec::new();
        for reference in references {
            // What is not there is a function's name, or an error of the statement.
            if matches!(reference.schema(), Some(schema) if schema != "public")
                || !self.ctx.table_exist(reference.clone()).unwrap_or_default()
            {
                continue;
            }
            match self.table(&reference).await {
                Ok(written) => tables.push((reference.table().to_string(), written)),
                Err(_) => return Kind::NotParquet,
            }
        }
        Kind::Select { tables, ordered: query.order_by.is_some() }
    }

    /// Failures are the script's business: what should be there and is not fails in plain DataFusion too.
    async fn set_up(&mut self, text: &str) {
        let verb = text.split_whitespace().next().unwrap_or_default().to_lowercase();
        if ["explain", "show", "describe"].contains(&verb.as_str()) {
            return;
        }
        if !["set", "reset"].contains(&verb.as_str()) {
            self.written.clear();
        }
        let data = self.data.to_string_lossy();
        let scratch = self.folder.path().to_string_lossy();
        let placed = text
            .replace("../../testing/data/csv/", &format!("{data}/csv-json/arrow-testing/"))
            .replace("../../parquet-testing/data/", &format!("{data}/parquet/parquet-testing/data/"))
            .replace("../core/tests/data/", &format!("{scratch}/core/"))
            .replace("test_files/tpch/data/", &format!("{scratch}/tpch/"))
            .replace("test_files/scratch/", &format!("{scratch}/scratch/"));
        let ctx = self.ctx.clone();
        // A panic in plain DataFusion is not ours to report.
        let _ = tokio::spawn(async move { ctx.sql(&placed).await?.collect().await }).await;
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

/// The query that `text` is and the tables that it names; none if it is not a query.
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

/// The SQL of a file and of those that it includes, in order.
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

/// Whether a record is for another engine.
fn for_others(condition: &Condition) -> bool {
    match condition {
        Condition::OnlyIf { label } => !label.eq_ignore_ascii_case("datafusion"),
        Condition::SkipIf { label } => label.eq_ignore_ascii_case("datafusion"),
    }
}
