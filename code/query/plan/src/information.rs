//! Statements about tables: DESCRIBE, SHOW, and `information_schema`.
//!
//! Planning knows the schemas of all tables. Such a statement becomes a query over VALUES, so that it runs, is sent and is
//! joined like any other.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::Schema;
use buzz_catalog::Table;
use buzz_protocol::{CatalogType, QueryError, Result};
use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    DescribeAlias, Ident, ObjectName, Query, SetExpr, ShowStatementFilter, ShowStatementFilterPosition,
    ShowStatementOptions, Statement as SqlStatement, TableAlias, TableFactor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use crate::missing::missing_table;
use crate::sql_types::sql_type;
use crate::visit::visit_mut;

/// Names of the catalog and the schema in which all tables are.
const CATALOG: &str = "datafusion";
pub(crate) const SCHEMA: &str = "public";

const INFORMATION_SCHEMA: &str = "information_schema";

/// Returns the query of `DESCRIBE SELECT …`, whose columns are to be described.
pub(crate) fn described_query(statement: &Statement) -> Option<Statement> {
    let Statement::Statement(sql) = statement else { return None };
    match sql.as_ref() {
        SqlStatement::Explain { describe_alias: DescribeAlias::Describe | DescribeAlias::Desc, statement, .. } => {
            Some(Statement::Statement(statement.clone()))
        }
        _ => None,
    }
}

/// Returns a query for the columns of `schema`, as DESCRIBE prints them.
///
/// # Errors
/// `Internal` if the query cannot be parsed.
pub(crate) fn description(schema: &Schema) -> Result<Statement> {
    parsed(&described(schema))
}

/// Returns a query that answers `statement` if it is DESCRIBE or SHOW. In other statements, replaces the tables of
/// `information_schema` by subqueries.
///
/// # Errors
/// `Invalid` if a table does not exist, or SHOW has a form that is not supported.
pub(crate) fn answered(mut statement: Statement, tables: &[Arc<Table>]) -> Result<Statement> {
    let Statement::Statement(sql) = &mut statement else { return Ok(statement) };
    let query = match sql.as_mut() {
        SqlStatement::ExplainTable { table_name, .. } => described(&find(table_name, tables)?.schema),
        SqlStatement::ShowColumns { show_options, .. } => {
            let name = show_options.show_in.as_ref().and_then(|place| place.parent_name.as_ref());
            let name =
                name.ok_or_else(|| QueryError::invalid("SHOW COLUMNS names no table; write SHOW COLUMNS FROM t"))?;
            let table = find(name, tables)?;
            if table.kind == CatalogType::View && table.schema.fields().is_empty() {
                return Err(QueryError::invalid(format!(
                    "view `{name}` has no recorded columns; write DESCRIBE {name}"
                )));
            }
            let columns = described(&table.schema);
            format!("SELECT * FROM ({columns}){}", filter(show_options, "column_name")?)
        }
        SqlStatement::ShowTables { show_options, .. } => {
            let condition = filter(show_options, "table_name")?;
            format!("SELECT table_name FROM ({}){condition} ORDER BY table_name", all_tables(tables))
        }
        SqlStatement::Query(_) => {
            let mut replacing = Replacing { tables };
            return match visit_mut(sql, &mut replacing) {
                ControlFlow::Continue(()) => Ok(statement),
                ControlFlow::Break(error) => Err(error),
            };
        }
        other if other.to_string().starts_with("SHOW") => {
            return Err(QueryError::invalid(format!(
                "`{other}` is not supported; there are SHOW TABLES, SHOW COLUMNS FROM t and DESCRIBE t, and options are set \
                 with --set KEY=VALUE"
            )));
        }
        _ => return Ok(statement),
    };
    parsed(&query)
}

fn parsed(sql: &str) -> Result<Statement> {
    let statement = DFParser::parse_sql_with_dialect(sql, &GenericDialect {})?.pop_front();
    statement.ok_or_else(|| QueryError::internal("a query about tables is empty"))
}

fn find<'a>(name: &ObjectName, tables: &'a [Arc<Table>]) -> Result<&'a Table> {
    let names: Vec<String> = name.0.iter().filter_map(|part| part.as_ident()).map(normal).collect();
    let reference = match names.as_slice() {
        [.., schema, table] => TableReference::partial(schema.as_str(), table.as_str()),
        [table] => TableReference::bare(table.as_str()),
        [] => TableReference::bare(name.to_string()),
    };
    let wanted = reference.table();
    let same = |table: &&Arc<Table>| table.name == wanted || table.name.eq_ignore_ascii_case(wanted);
    let found = tables.iter().find(same);
    found.map(AsRef::as_ref).ok_or_else(|| missing_table(&reference, tables.iter().map(|table| table.name.as_str())))
}

/// Returns a name as DataFusion compares it.
pub(crate) fn normal(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

/// Returns the condition of SHOW … LIKE.
fn filter(options: &ShowStatementOptions, column: &str) -> Result<String> {
    let filter = match &options.filter_position {
        None => return Ok(String::new()),
        Some(ShowStatementFilterPosition::Infix(filter) | ShowStatementFilterPosition::Suffix(filter)) => filter,
    };
    Ok(match filter {
        ShowStatementFilter::Like(pattern) | ShowStatementFilter::NoKeyword(pattern) => {
            format!(" WHERE {column} LIKE {}", text(pattern))
        }
        ShowStatementFilter::ILike(pattern) => format!(" WHERE {column} ILIKE {}", text(pattern)),
        ShowStatementFilter::Where(condition) => format!(" WHERE {condition}"),
    })
}

/// Returns a query for the columns of `schema`.
fn described(schema: &Schema) -> String {
    let row = |field: &Arc<arrow::datatypes::Field>| {
        vec![text(field.name()), text(&sql_type(field.data_type())), text(yes_or_no(field.is_nullable()))]
    };
    query(&["column_name", "data_type", "is_nullable"], schema.fields().iter().map(row).collect())
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "YES" } else { "NO" }
}

/// Returns a query for the rows of `information_schema.tables`.
fn all_tables(tables: &[Arc<Table>]) -> String {
    let row = |table: &Arc<Table>| vec![text(CATALOG), text(SCHEMA), text(&table.name), text(table_type(table))];
    query(&["table_catalog", "table_schema", "table_name", "table_type"], tables.iter().map(row).collect())
}

fn table_type(table: &Table) -> &'static str {
    if table.kind == CatalogType::View { "VIEW" } else { "BASE TABLE" }
}

/// Returns a query for the rows of `information_schema.columns`.
fn all_columns(tables: &[Arc<Table>]) -> String {
    let mut rows = Vec::new();
    for table in tables {
        for (index, field) in table.schema.fields().iter().enumerate() {
            rows.push(vec![
                text(CATALOG),
                text(SCHEMA),
                text(&table.name),
                text(field.name()),
                (index + 1).to_string(),
                "CAST(NULL AS VARCHAR)".to_string(),
                text(yes_or_no(field.is_nullable())),
                text(&sql_type(field.data_type())),
            ]);
        }
    }
    let names = [
        "table_catalog",
        "table_schema",
        "table_name",
        "column_name",
        "ordinal_position",
        "column_default",
        "is_nullable",
        "data_type",
    ];
    query(&names, rows)
}

/// Returns a query for `rows`, whose values are SQL.
fn query(names: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        let columns = names.iter().map(|name| format!("CAST(NULL AS VARCHAR) AS {name}")).collect::<Vec<_>>();
        return format!("SELECT {} WHERE false", columns.join(", "));
    }
    let rows: Vec<String> = rows.into_iter().map(|row| format!("({})", row.join(", "))).collect();
    format!("SELECT * FROM (VALUES {}) AS known ({})", rows.join(", "), names.join(", "))
}

/// Returns `value` as a text in SQL.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Replaces the tables of `information_schema`.
struct Replacing<'a> {
    tables: &'a [Arc<Table>],
}

impl VisitorMut for Replacing<'_> {
    type Break = QueryError;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<QueryError> {
        let TableFactor::Table { name, alias, .. } = factor else { return ControlFlow::Continue(()) };
        let names: Vec<String> = name.0.iter().filter_map(|part| part.as_ident()).map(normal).collect();
        let [.., schema, view] = names.as_slice() else { return ControlFlow::Continue(()) };
        if schema != INFORMATION_SCHEMA {
            return ControlFlow::Continue(());
        }
        let query = match view.as_str() {
            "tables" => all_tables(self.tables),
            "columns" => all_columns(self.tables),
            "schemata" => query(&["catalog_name", "schema_name"], vec![vec![text(CATALOG), text(SCHEMA)]]),
            _ => {
                return ControlFlow::Break(QueryError::invalid(format!(
                    "table `{INFORMATION_SCHEMA}.{view}` does not exist; available: `tables`, `columns`, `schemata`"
                )));
            }
        };
        match subquery(&query, view, alias.take()) {
            Ok(replaced) => *factor = replaced,
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

/// Returns `sql` as a subquery named by `alias`, or `name`.
fn subquery(sql: &str, name: &str, alias: Option<TableAlias>) -> Result<TableFactor> {
    let factor = match parsed(&format!("SELECT * FROM ({sql}) AS {name}"))? {
        Statement::Statement(statement) => match *statement {
            SqlStatement::Query(query) => factor_of(*query),
            _ => None,
        },
        _ => None,
    };
    let mut factor = factor.ok_or_else(|| QueryError::internal("a query about tables has no subquery"))?;
    if let (TableFactor::Derived { alias: named, .. }, Some(alias)) = (&mut factor, alias) {
        *named = Some(alias);
    }
    Ok(factor)
}

fn factor_of(query: Query) -> Option<TableFactor> {
    let SetExpr::Select(select) = *query.body else { return None };
    select.from.into_iter().next().map(|from| from.relation)
}
