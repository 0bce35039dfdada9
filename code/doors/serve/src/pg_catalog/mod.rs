//! The catalog of PostgreSQL: answers statements that read `pg_catalog` or `information_schema`, or that ask about the server
//! without a table (`bare`).
//!
//! Such statements run in a DataFusion session of their own, over small tables in memory (`tables`, `information`) that are
//! made of the named tables' columns. `typeinfo` answers one statement by itself. `rewrite` replaces what DataFusion's SQL lacks, `functions` has the functions of
//! PostgreSQL. Other statements go to the engine as they are written.

mod bare;
mod empty;
mod functions;
mod information;
mod keywords;
mod literal;
mod patterns;
mod receivers;
mod rewrite;
mod shown;
mod tables;
mod texts;
mod typeinfo;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use buzz_protocol::QueryError;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::desk::{CATALOG, Desk};
use crate::planner::{self, Planned};
use crate::postgres::error::PgError;
use crate::scan::{self, Kind};

pub(crate) use literal::literal;
pub(crate) use shown::shown;

/// The two schemas.
const PG_CATALOG: &str = "pg_catalog";
const INFORMATION_SCHEMA: &str = "information_schema";

/// Maximum time of a statement.
const WITHIN: Duration = Duration::from_secs(60);

/// The session that a statement is run for.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The user.
    pub(crate) user: String,
    /// Settings by name in lower case.
    pub(crate) settings: BTreeMap<String, String>,
}

impl Session {
    /// Makes a session of `user` with the settings that all sessions begin with.
    pub(crate) fn of_user(user: &str) -> Self {
        Self { user: user.to_string(), settings: crate::postgres::session::defaults(user) }
    }
}

/// The place where a statement runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Here.
    Catalog,
    /// In the engine.
    Engine,
}

/// The catalog.
#[derive(Debug)]
pub(crate) struct Catalog {
    desk: Arc<Desk>,
}

impl Catalog {
    /// Makes the catalog of the tables of `desk`.
    pub(crate) fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }

    /// Decides where `sql` runs.
    ///
    /// # Errors
    /// If it reads both a named table and the catalog.
    pub(crate) fn route(&self, sql: &str) -> Result<Route, PgError> {
        if planner::is_long(sql) {
            return Ok(Route::Engine);
        }
        if typeinfo::is_asked(sql) {
            return Ok(Route::Catalog);
        }
        // The engine reports what is wrong with a statement that cannot be parsed.
        let Ok(statement @ Statement::Query(_)) = parse(sql) else { return Ok(Route::Engine) };
        let statement = DFStatement::Statement(Box::new(statement));
        let Ok(relations) = planner::relations(&statement) else { return Ok(Route::Engine) };
        let entries = self.desk.names.last_entries();
        let is_own = |relation: &&datafusion::common::TableReference| match relation.schema() {
            Some(schema) => [PG_CATALOG, INFORMATION_SCHEMA].contains(&schema),
            None => entries.entry(relation.table()).is_err() && tables::is_known(relation.table()),
        };
        let relations: Vec<_> =
            relations.into_iter().filter(|relation| relation.table() != rewrite::SPLIT_FUNCTION).collect();
        let own = relations.iter().filter(is_own).count();
        if relations.is_empty() && !bare::is_about_server(sql) {
            return Ok(Route::Engine);
        }
        match own {
            count if count == relations.len() => Ok(Route::Catalog),
            0 => Ok(Route::Engine),
            _ => Err(PgError::unsupported(
                "the statement reads the catalog and a table; read them in two statements, and join their rows",
            )),
        }
    }

    /// Returns the columns of `sql`. Parameters are nulls.
    ///
    /// # Errors
    /// If the statement is wrong.
    pub(crate) async fn plan(&self, sql: &str, session: &Session) -> Result<Planned, PgError> {
        if typeinfo::is_asked(sql) {
            return Ok(Planned { schema: typeinfo::schema(), params: BTreeMap::new() });
        }
        let null = |token: &scan::Token| (token.kind == Kind::Parameter).then(|| "NULL".to_string());
        let sql = scan::replaced(sql, |_, token| null(token));
        let prepared = self.prepared(&sql, session)?;
        let schema = match prepared {
            Prepared::Empty(schema) => schema,
            Prepared::Statement(statement) => {
                let context = self.context(session).await?;
                let plan = context.state().statement_to_plan(statement).await.map_err(failed)?;
                plain(plan.schema().as_arrow())
            }
        };
        Ok(Planned { schema, params: BTreeMap::new() })
    }

    /// Runs `sql`, in which values are written as literals.
    ///
    /// # Errors
    /// If the statement is wrong or takes too long.
    pub(crate) async fn query(&self, sql: &str, session: &Session) -> Result<(SchemaRef, Vec<RecordBatch>), PgError> {
        if typeinfo::is_asked(sql) {
            return Ok((typeinfo::schema(), vec![typeinfo::rows(sql)?]));
        }
        let run = async {
            let statement = match self.prepared(sql, session)? {
                Prepared::Empty(schema) => return Ok((schema, Vec::new())),
                Prepared::Statement(statement) => statement,
            };
            let context = self.context(session).await?;
            let plan = context.state().statement_to_plan(statement).await.map_err(failed)?;
            let schema = plain(plan.schema().as_arrow());
            let batches = context.execute_logical_plan(plan).await.map_err(failed)?.collect().await.map_err(failed)?;
            let batches = batches.iter().map(|batch| as_plain(batch, &schema)).collect::<Result<_, _>>()?;
            Ok((schema, batches))
        };
        let late = |_| Err(PgError::new("57014", "the statement took too long"));
        tokio::time::timeout(WITHIN, run).await.unwrap_or_else(late)
    }

    fn prepared(&self, sql: &str, session: &Session) -> Result<Prepared, PgError> {
        let mut statement = parse(sql).map_err(|error| PgError::syntax(error.to_string()))?;
        receivers::rewrite(&mut statement, sql);
        if let Some(schema) = empty::columns(&statement) {
            return Ok(Prepared::Empty(schema));
        }
        rewrite::rewrite(&mut statement, session);
        Ok(Prepared::Statement(DFStatement::Statement(Box::new(statement))))
    }

    async fn context(&self, session: &Session) -> Result<SessionContext, PgError> {
        let named = self.desk.names.tables().await;
        let config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, PG_CATALOG)
            .with_information_schema(false)
            .with_target_partitions(1);
        let state = SessionStateBuilder::new().with_default_features().with_config(config).build();
        let context = SessionContext::new_with_state(state);
        let catalog = context.catalog(CATALOG).ok_or_else(|| PgError::new("XX000", "the session has no catalog"))?;
        let information = Arc::new(MemorySchemaProvider::new());
        for (name, batch) in information::all(&named)? {
            information.register_table(name.to_string(), in_memory(batch)?).map_err(failed)?;
        }
        catalog.register_schema(INFORMATION_SCHEMA, information).map_err(failed)?;
        let own = catalog.schema(PG_CATALOG).ok_or_else(|| PgError::new("XX000", "the session has no schema"))?;
        for (name, batch) in tables::all(&named, session)? {
            own.register_table(name.to_string(), in_memory(batch)?).map_err(failed)?;
        }
        for function in functions::all(&named, session) {
            context.register_udf(function);
        }
        context.register_udtf("pg_get_keywords", Arc::new(keywords::Keywords));
        Ok(context)
    }
}

/// A statement that is ready to run.
enum Prepared {
    /// It has no rows.
    Empty(SchemaRef),
    Statement(DFStatement),
}

fn in_memory(batch: RecordBatch) -> Result<Arc<MemTable>, PgError> {
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(failed)?))
}

fn failed(error: datafusion::error::DataFusionError) -> PgError {
    PgError::from(QueryError::from(error))
}

fn parse(sql: &str) -> Result<Statement, QueryError> {
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql)
        .map_err(|error| QueryError::invalid(format!("syntax error: {error}")))?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        _ => Err(QueryError::invalid("the SQL is not one statement")),
    }
}

/// Returns the schema in which rows are sent. Times have microseconds, as in PostgreSQL, and names have no spaces that
/// [`rewrite`] added.
fn plain(schema: &Schema) -> SchemaRef {
    let schema = planner::plain_schema(schema);
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            Field::new(field.name(), DataType::Timestamp(TimeUnit::Microsecond, zone.clone()), true)
        }
        DataType::Time64(TimeUnit::Nanosecond) => {
            Field::new(field.name(), DataType::Time64(TimeUnit::Microsecond), true)
        }
        _ => field.as_ref().clone(),
    });
    let fields = fields.map(|field| {
        let name = field.name().trim_end().to_string();
        field.with_name(name)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn as_plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, PgError> {
    let exact = CastOptions { safe: false, ..Default::default() };
    let columns = schema.fields().iter().zip(batch.columns());
    let columns: Result<Vec<ArrayRef>, _> =
        columns.map(|(field, column)| cast_with_options(column, field.data_type(), &exact)).collect();
    let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let plain = columns.and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows));
    plain.map_err(|error| PgError::from(QueryError::from(error)))
}
