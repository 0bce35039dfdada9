//! Views, tables that are only names, and the columns that a table declares.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use buzz_plan::dialect;
use buzz_protocol::{Overflow, QueryError, Result};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as ParserStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{ColumnOption, Query, Statement as SqlStatement};

use super::columns::{Target, into_columns};
use super::session::session;
use crate::script::{Script, TableDefinition};

/// Returns the columns that a table declares, with generated ones, or `None` if it declares none. TIMESTAMP has no time
/// zone, and TIMESTAMPTZ has UTC.
///
/// # Errors
/// `Invalid` if a type is unknown.
pub async fn declared_columns(table: &TableDefinition) -> Result<Option<Schema>> {
    if table.columns.is_empty() {
        return Ok(None);
    }
    let mut state = session(1, Overflow::Error)?.state();
    // A TIMESTAMPTZ is a moment: its values are those of UTC, and say so in every sink.
    state.config_mut().options_mut().execution.time_zone = Some("UTC".to_string());
    let mut fields = Vec::new();
    for column in &table.columns {
        let name = match column.name.quote_style {
            Some(_) => column.name.value.clone(),
            None => column.name.value.to_lowercase(),
        };
        let written = column.data_type.to_string();
        let written = if written.eq_ignore_ascii_case("json") { "VARCHAR".to_string() } else { written };
        let plan = state.create_logical_plan(&format!("SELECT CAST(NULL AS {written})")).await;
        let plan = plan.map_err(|error| {
            QueryError::invalid(format!("column `{name}` of `{}` has type {written}: {error}", table.name))
        })?;
        let data_type = match plan.schema().field(0).data_type() {
            // Times are kept in nanoseconds everywhere.
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
            other => other.clone(),
        };
        let not_null = column.options.iter().any(|option| option.option == ColumnOption::NotNull);
        fields.push(Field::new(name, data_type, !not_null));
    }
    Ok(Some(Schema::new(fields)))
}

/// Returns a reference to table `name` as it is written, with its upper-case letters.
pub(super) fn quoted(name: &str) -> TableReference {
    TableReference::bare(name.to_string())
}

/// Returns true if `name` is a table without a connector: a name for the rows that are inserted into it.
pub(super) fn is_name_only(script: &Script, name: &str) -> bool {
    script.table(name).is_some_and(|table| table.option("connector").is_none())
}

/// A view, or a table without a connector, that is not registered yet.
struct Waiting {
    name: String,
    /// The columns that a table declares.
    target: Option<Target>,
    is_view: bool,
    /// The columns that a view or an INSERT names, and the query.
    queries: Vec<(Vec<String>, Box<Query>)>,
}

/// Registers the views of `script`, and its tables without a connector, which are views of the rows inserted into them.
///
/// # Errors
/// `Invalid` if a view cannot be planned.
pub(super) async fn register_views(context: &SessionContext, script: &Script) -> Result<()> {
    // A view may read another one, or a table that is only a name, that is declared later.
    let mut waiting: Vec<Waiting> = Vec::new();
    for table in script.tables.iter().filter(|table| table.option("connector").is_none()) {
        let inserts: Vec<_> =
            script.statements.iter().filter(|output| output.into.as_ref() == Some(&table.name)).collect();
        if inserts.is_empty() {
            return Err(QueryError::invalid(format!(
                "table `{}` has no connector and nothing is inserted into it; add WITH (connector = '…')",
                table.name
            )));
        }
        let target = declared_columns(table).await?.map(|columns| Target::declared(&Arc::new(columns)));
        let queries = inserts.iter().map(|output| (output.columns.clone(), output.query.clone())).collect();
        waiting.push(Waiting { name: table.name.clone(), target, is_view: false, queries });
    }
    for view in &script.views {
        let queries = vec![(view.columns.clone(), view.query.clone())];
        waiting.push(Waiting { name: view.name.clone(), target: None, is_view: true, queries });
    }
    while !waiting.is_empty() {
        let mut left = Vec::new();
        let (mut failure, mut circle) = (None, None);
        let count = waiting.len();
        let names: BTreeSet<String> = waiting.iter().map(|entry| entry.name.clone()).collect();
        for entry in waiting {
            let mut plans = Vec::new();
            for (_, query) in &entry.queries {
                match logical(context, script, query).await {
                    Ok(plan) => plans.push(plan),
                    Err(error) => match unknown_table(context, &statement(query)).filter(|name| names.contains(name)) {
                        Some(name) => circle = Some((entry.name.clone(), name)),
                        None => failure = Some(error.at(format!("view {}", entry.name))),
                    },
                }
            }
            if plans.len() < entry.queries.len() {
                left.push(entry);
                continue;
            }
            let view: Arc<dyn TableProvider> = Arc::new(ViewTable::new(entry.combined(plans)?, None));
            context.register_table(quoted(&entry.name), view)?;
        }
        if left.len() == count {
            let circle = circle.map(|(view, read)| {
                QueryError::invalid(format!(
                    "view {view}: it reads `{read}`, which reads `{view}` in turn; let one of them read a source"
                ))
            });
            return failure.or(circle).map_or(Ok(()), Err);
        }
        waiting = left;
    }
    Ok(())
}

impl Waiting {
    /// Combines the plans of its queries. Each has the columns of the table, in their order.
    fn combined(&self, plans: Vec<LogicalPlan>) -> Result<LogicalPlan> {
        let mut target = self.target.clone();
        let mut combined: Option<LogicalPlan> = None;
        for (plan, (columns, _)) in plans.into_iter().zip(&self.queries) {
            let plan = match self.is_view {
                true => named_columns(plan, columns, &self.name)?,
                false => into_columns(plan, columns, target.as_ref())
                    .map_err(|error| error.at(format!("INSERT INTO {}", self.name)))?,
            };
            if target.is_none() {
                target = Some(Target::of(&plan));
            }
            combined = Some(match combined {
                Some(first) => LogicalPlanBuilder::from(first).union(plan)?.build()?,
                None => plan,
            });
        }
        combined.ok_or_else(|| QueryError::internal("a view has no query"))
    }
}

/// Plans `query` as a batch query is planned, without optimizing it.
///
/// # Errors
/// `Invalid` if it is wrong, such as for a table that `script` does not have.
pub(super) async fn logical(context: &SessionContext, script: &Script, query: &Query) -> Result<LogicalPlan> {
    let planned = dialect::logical(&context.state(), statement(query)).await;
    planned.map_err(|error| match unknown_table(context, &statement(query)) {
        Some(table) if error.message.contains("not found") => unknown(script, &table),
        _ => error,
    })
}

fn statement(query: &Query) -> ParserStatement {
    ParserStatement::Statement(Box::new(SqlStatement::Query(Box::new(query.clone()))))
}

/// Returns the first table that `statement` reads and that is not registered.
fn unknown_table(context: &SessionContext, statement: &ParserStatement) -> Option<String> {
    let (relations, _) = resolve_table_references(statement, true).ok()?;
    let unknown = relations.iter().find(|table| !context.table_exist((*table).clone()).unwrap_or(true))?;
    Some(unknown.table().to_string())
}

/// Returns the error for a table that cannot be read.
fn unknown(script: &Script, table: &str) -> QueryError {
    let written = script.statements.iter().any(|output| output.into.as_deref() == Some(table));
    if written && !is_name_only(script, table) {
        return QueryError::invalid(format!(
            "table `{table}` is a sink, because INSERT INTO writes to it, and cannot be read; give the rows a name with CREATE \
             VIEW, and read that"
        ));
    }
    QueryError::invalid(format!(
        "table `{table}` is not declared; add CREATE TABLE {table} (…) WITH (connector = '…'), or a view of this name"
    ))
}

fn named_columns(plan: LogicalPlan, names: &[String], view: &str) -> Result<LogicalPlan> {
    if names.is_empty() {
        return Ok(plan);
    }
    if names.len() != plan.schema().fields().len() {
        return Err(QueryError::invalid(format!(
            "view `{view}` names {} columns, but its query has {}",
            names.len(),
            plan.schema().fields().len()
        )));
    }
    let columns: Vec<Expr> =
        plan.schema().columns().into_iter().zip(names).map(|(column, name)| Expr::Column(column).alias(name)).collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}
