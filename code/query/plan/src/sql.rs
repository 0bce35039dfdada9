//! Parsing and logical planning of SQL.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use buzz_protocol::{Options, Param, QueryError, Result};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;

use crate::{chains, columns, params, scalar, standard, verbs, wire};

/// The mark that some editors put at the start of a file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Parses one query. Rejects any other statement.
pub(crate) fn parse_query(sql: &str) -> Result<Statement> {
    check_query(parse_statement(sql)?)
}

/// Parses one statement.
pub(crate) fn parse_statement(sql: &str) -> Result<Statement> {
    let sql = sql.trim_start_matches(BYTE_ORDER_MARK);
    chains::check_length(sql)?;
    verbs::check_numbers(sql)?;
    let parsed = DFParser::parse_sql_with_dialect(sql, &GenericDialect {});
    let mut statements = parsed.map_err(|error| verbs::with_hint(error.into(), sql))?;
    let statement = statements.pop_front().ok_or_else(|| QueryError::invalid("the SQL is empty; write a SELECT"))?;
    if !statements.is_empty() {
        return Err(QueryError::invalid(format!(
            "the SQL contains {} statements; write one query, or run them one after the other in `buzz shell`",
            statements.len() + 1
        )));
    }
    standard::rewritten(chains::balanced(statement)?)
}

/// Returns `statement` if it is a query, otherwise an error.
pub(crate) fn check_query(statement: Statement) -> Result<Statement> {
    let verb = match &statement {
        Statement::Statement(sql) => match sql.as_ref() {
            SqlStatement::Query(query) if query.body.as_select().is_some_and(|select| select.into.is_some()) => {
                "SELECT INTO".to_string()
            }
            SqlStatement::Query(_) => return Ok(statement),
            other => verb(other),
        },
        other => verb(other),
    };
    Err(QueryError::invalid(verbs::not_a_query(&verb)))
}

/// Returns the first word of a statement, in upper case.
fn verb(statement: &impl std::fmt::Display) -> String {
    let text = statement.to_string();
    let end = text.find(|letter: char| !letter.is_alphabetic()).unwrap_or(text.len());
    text[..end].to_uppercase()
}

/// Returns the plan of `statement`, first as written, then optimized.
///
/// # Errors
/// `Invalid` when the statement is wrong.
pub(crate) async fn to_logical(
    state: &SessionState,
    statement: Statement,
    params: &BTreeMap<String, Param>,
    options: &Options,
) -> Result<(LogicalPlan, LogicalPlan)> {
    let values = params::values(state, params)?;
    let planned = as_written(state, params::in_table_functions(statement, params)).await?;
    let types = if params.is_empty() { HashMap::new() } else { planned.get_parameter_types()? };
    let written = standard::planned(planned.with_param_values(values.clone())?, options)?;
    let logical = scalar::projected(scalar::checked(wire::sendable(written)?)?)?;
    // Analysis detects type errors; optimization detects errors in constant values.
    let optimized = state.optimize(&logical).map_err(|error| match error {
        DataFusionError::Context(_, inner) => QueryError::from(*inner),
        other => QueryError::from(other),
    });
    let optimized = optimized.map_err(|error| params::explained(error, &types, &values))?;
    Ok((logical, standard::guarded(optimized)?))
}

/// Returns the plan that the planner makes of `statement`, which is rewritten already.
///
/// # Errors
/// `Invalid` when the statement is wrong.
pub(crate) async fn as_written(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    standard::check_functions(state, &statement)?;
    match columns::planned(state, statement.clone()).await {
        Ok(planned) => Ok(planned),
        // The planner gives some different expressions one name, and refuses them.
        Err(error) => match standard::with_names(statement) {
            Some(named) => Ok(columns::planned(state, named).await.map_err(|_| error)?),
            None => Err(error.into()),
        },
    }
}

/// Returns the schema of a step as later steps read it: all columns nullable, no metadata.
pub(crate) fn delivered_schema(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| Field::new(field.name(), field.data_type().clone(), true);
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}
