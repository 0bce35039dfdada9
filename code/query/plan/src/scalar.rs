//! Prepares scalar subqueries, which the session rewrites to joins: a plan with DataFusion's own operator for them cannot be
//! divided among combs.
//!
//! The join has no check: a subquery of several rows would multiply the rows of the query. And DataFusion rewrites only the
//! subqueries of projections and filters.

use std::collections::HashSet;

use buzz_kernel::single_row;
use buzz_protocol::Result;
use datafusion::common::Column;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::count::count;
use datafusion::functions_aggregate::first_last::first_value;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, FetchType, LogicalPlan, LogicalPlanBuilder, Subquery, lit};

use crate::trees::{PlanTree, Tree};

/// Puts a check above each uncorrelated scalar subquery of `plan` that may return more than one row. DataFusion itself
/// rejects correlated ones that are not aggregates. Gives another name to the column of a subquery if the rows that it is joined with
/// have one of this name, as in `SELECT sum(x) / (SELECT sum(x) FROM t) FROM t WHERE …`.
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub(crate) fn checked(plan: LogicalPlan) -> Result<LogicalPlan> {
    let checked = plan.rewrite_all_up(&mut |node| {
        let names = NamePreserver::new(&node);
        let taken = unqualified_names(&node);
        node.rewrite_expressions(&mut |expression| {
            let name = names.save(&expression);
            let checked = expression.rewrite_up(&mut |inner| subquery(inner, &taken))?;
            Ok(checked.update_data(|expression| name.restore(expression)))
        })
    })?;
    Ok(checked.data)
}

/// Moves the uncorrelated scalar subqueries of aggregates without grouping sets, windows, sorts and joins into projections
/// below them.
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub(crate) fn projected(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut count = 0;
    let projected = plan.rewrite_all_up(&mut |node| match node {
        // A name cannot be given to the keys of grouping sets.
        LogicalPlan::Aggregate(ref aggregate)
            if aggregate.group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_))) =>
        {
            Ok(Transformed::no(node))
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) | LogicalPlan::Join(_) => {
            with_projection(node, &mut count)
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(projected.data)
}

/// Moves the scalar subqueries of `node` into a projection of its first input. `count` is the number of moved ones.
fn with_projection(node: LogicalPlan, count: &mut usize) -> DataFusionResult<Transformed<LogicalPlan>> {
    let columns: Vec<Expr> = node.schema().columns().into_iter().map(Expr::Column).collect();
    let (names, mut moved) = (NamePreserver::new(&node), Vec::new());
    let node = node.rewrite_expressions(&mut |expression| {
        let name = names.save(&expression);
        let replaced = expression.rewrite_up(&mut |expression| match expression {
            Expr::ScalarSubquery(inner) if inner.outer_ref_columns.is_empty() => {
                *count += 1;
                let column = format!("__scalar_{count}");
                moved.push(Expr::ScalarSubquery(inner).alias(&column));
                Ok(Transformed::yes(Expr::Column(Column::from_name(column))))
            }
            other => Ok(Transformed::no(other)),
        });
        Ok(replaced?.update_data(|expression| name.restore(expression)))
    })?;
    if moved.is_empty() {
        return Ok(node);
    }
    let node = node.data;
    let mut inputs: Vec<LogicalPlan> = node.inputs().into_iter().cloned().collect();
    if let Some(first) = inputs.first_mut() {
        let below = first.schema().columns().into_iter().map(Expr::Column).chain(moved);
        *first = LogicalPlanBuilder::from(first.clone()).project(below)?.build()?;
    }
    let is_aggregate = matches!(node, LogicalPlan::Aggregate(_));
    let node = node.with_new_exprs(node.expressions(), inputs)?;
    // The others return the columns of their inputs, too.
    let node = if is_aggregate { node } else { LogicalPlanBuilder::from(node).project(columns)?.build()? };
    Ok(Transformed::yes(node))
}

/// Returns the names of the columns that the inputs of `node` have without a relation.
fn unqualified_names(node: &LogicalPlan) -> HashSet<String> {
    let inputs = node.inputs();
    let columns = inputs.iter().flat_map(|input| input.schema().iter());
    columns.filter(|(relation, _)| relation.is_none()).map(|(_, field)| field.name().clone()).collect()
}

fn subquery(expression: Expr, taken: &HashSet<String>) -> DataFusionResult<Transformed<Expr>> {
    let Expr::ScalarSubquery(inner) = expression else { return Ok(Transformed::no(expression)) };
    let is_taken = inner.subquery.schema().fields().first().is_some_and(|field| taken.contains(field.name()));
    // DataFusion itself checks correlated ones.
    let needs_check = inner.outer_ref_columns.is_empty() && !is_single_row(&inner.subquery);
    if !needs_check && !is_taken {
        return Ok(Transformed::no(Expr::ScalarSubquery(inner)));
    }
    let mut plan = inner.subquery.as_ref().clone();
    if needs_check {
        plan = with_check(plan)?;
    }
    if is_taken {
        let value = Expr::from(plan.schema().qualified_field(0));
        plan = LogicalPlanBuilder::from(plan).project(vec![value.alias(free_name(taken))])?.build()?;
    }
    Ok(Transformed::yes(Expr::ScalarSubquery(Subquery { subquery: plan.into(), ..inner })))
}

/// Returns a name that is not `taken`.
fn free_name(taken: &HashSet<String>) -> String {
    let mut name = "buzz_scalar".to_string();
    while taken.contains(&name) {
        name.push('_');
    }
    name
}

/// Returns a plan with the only row of `plan`: null if it has none. The plan fails if there are more rows.
fn with_check(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let (qualifier, field) = plan.schema().qualified_field(0);
    let (column, name) = (Expr::from((qualifier, field)), field.name().clone());
    let (value, rows) = (first_value(column, Vec::new()).alias("value"), count(lit(1_i64)).alias("rows"));
    let aggregated = LogicalPlanBuilder::from(plan).aggregate(Vec::<Expr>::new(), vec![value, rows])?;
    let columns = aggregated.schema().columns();
    let checked = single_row().call(columns.into_iter().map(Expr::Column).collect());
    aggregated.project(vec![checked.alias(name)])?.build()
}

/// Checks if `plan` returns at most one row, whatever its tables contain.
fn is_single_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1)))) || is_single_row(&limit.input)
        }
        LogicalPlan::Values(values) => values.values.len() <= 1,
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Projection(node) => is_single_row(&node.input),
        LogicalPlan::Filter(node) => is_single_row(&node.input),
        LogicalPlan::SubqueryAlias(node) => is_single_row(&node.input),
        LogicalPlan::Sort(node) => is_single_row(&node.input),
        LogicalPlan::Window(node) => is_single_row(&node.input),
        LogicalPlan::Distinct(node) => is_single_row(node.input()),
        _ => false,
    }
}
