//! Buzz's meaning of SQL for sessions other than those of a query: the statements and expressions of continuous queries.
//!
//! [`session`] makes a session with the functions and rules, [`logical`] and [`expression`] plan, [`physical`] and
//! [`physical_expression`] make what runs. They rewrite as the planning of a query does.

use std::sync::Arc;

use buzz_protocol::{Options, Overflow, QueryError, Result};
use datafusion::common::DFSchema;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, Projection};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;

use crate::{chains, sql, standard};

/// Creates a session without tables, with the functions and rules of Buzz. `overflow` is the treatment of numbers that do
/// not fit their type.
///
/// # Errors
/// `Internal` if the session does not accept a function.
pub fn session(mut config: SessionConfig, overflow: Overflow) -> Result<SessionState> {
    config.options_mut().sql_parser.collect_spans = true;
    let options = Options { overflow, ..Options::default() };
    standard::session(config, &options, crate::start(), [])
}

/// Checks the length of the statement `sql` and of its chains, before it is parsed.
///
/// # Errors
/// `Limit`, naming the bound.
pub fn check_length(sql: &str) -> Result<()> {
    chains::check_length(sql)
}

/// Plans a parsed statement in a session of [`session`], without optimizing it.
///
/// # Errors
/// `Invalid` if the statement is wrong.
pub async fn logical(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    let statement = standard::rewritten(chains::balanced(statement)?)?;
    let written = sql::as_written(state, statement).await?;
    standard::planned(written, &options(state))
}

/// Plans the expression `text` over the columns of `schema`.
///
/// # Errors
/// `Invalid` if the expression is wrong, `Limit` if it is too long.
pub fn expression(state: &SessionState, text: &str, schema: &DFSchema) -> Result<Expr> {
    standard::planned_expression(written_expression(state, text, schema)?, schema, &options(state))
}

/// Returns the expression that the planner makes of `text`, which is rewritten before. It is not rewritten after.
///
/// # Errors
/// As [`expression`], which also rewrites it.
pub(crate) fn written_expression(state: &SessionState, text: &str, schema: &DFSchema) -> DataFusionResult<Expr> {
    chains::check_length(text).map_err(QueryError::into_datafusion)?;
    let dialect = state.config_options().sql_parser.dialect;
    let mut parsed = state.sql_to_expr_with_alias(text, &dialect)?;
    parsed.expr = standard::rewritten_expression(parsed.expr).map_err(QueryError::into_datafusion)?;
    state.create_logical_expr_from_sql_expr(parsed, schema)
}

/// Makes the plan that runs `plan`, which is optimized first.
///
/// # Errors
/// `Invalid` if the plan has a type error or a constant that cannot be computed.
pub async fn physical(state: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let optimized = standard::guarded(state.optimize(plan)?)?;
    let physical = state.query_planner().create_physical_plan(&optimized, state).await?;
    Ok(standard::without_unordered_limits(physical)?)
}

/// Makes what computes `expression` over rows with the columns of `schema`. The rules of the session apply to it, which
/// [`SessionState::create_physical_expr`] does not read.
///
/// # Errors
/// `Invalid` if the expression has a type error.
pub fn physical_expression(state: &SessionState, expression: Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    let rows = EmptyRelation { produce_one_row: false, schema: Arc::new(schema.clone()) };
    let plan = Projection::try_new(vec![expression], Arc::new(LogicalPlan::EmptyRelation(rows)))?;
    let plan = LogicalPlan::Projection(plan);
    let analyzed = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    let LogicalPlan::Projection(Projection { expr, .. }) = analyzed else {
        return Err(QueryError::internal("the analysis of an expression returned another plan"));
    };
    let expression = expr.into_iter().next();
    let expression = expression.ok_or_else(|| QueryError::internal("the analysis of an expression returned none"))?;
    Ok(state.create_physical_expr(expression, schema)?)
}

/// Returns the options of the session that rewrites read.
fn options(state: &SessionState) -> Options {
    Options { time_zone: state.config_options().execution.time_zone.clone(), ..Options::default() }
}
