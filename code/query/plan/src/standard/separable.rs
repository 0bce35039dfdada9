//! Subqueries that refer to the outer query: those with one row, and those that DataFusion would compute wrongly.

use std::sync::Arc;

use datafusion::common::not_impl_err;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, FetchType, Filter, LogicalPlan, LogicalPlanBuilder, SkipType, Subquery};

use crate::trees::{PlanTree, Tree};

/// Refuses a correlated subquery that DataFusion would compute over the rows of all outer rows together.
pub(super) fn check_separable(subquery: &Subquery) -> Result<()> {
    let mut found = None;
    subquery.subquery.each_node(&mut |node| {
        let refers = !node.all_out_ref_exprs().is_empty();
        match node {
            LogicalPlan::Window(_) if refers => found = Some("a window function"),
            LogicalPlan::Limit(limit) if refers && !matches!(limit.get_skip_type(), Ok(SkipType::Literal(0))) => {
                found = Some("OFFSET");
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match found {
        Some(clause) => {
            not_impl_err!("{clause} in a subquery that refers to the outer query; join the subquery instead")
        }
        None => Ok(()),
    }
}

/// Refuses to compare `expr` with a correlated subquery that has a column of the same name: one would be taken for the other.
pub(super) fn check_names(expr: &Expr, subquery: &Subquery) -> Result<()> {
    let mut shadowed = None;
    subquery.subquery.each_node(&mut |node| {
        let columns = node.schema().columns();
        if shadowed.is_none() {
            shadowed = expr.column_refs().into_iter().find(|column| columns.contains(*column)).cloned();
        }
        // Names below an alias are not seen above it.
        let hides = matches!(node, LogicalPlan::SubqueryAlias(_));
        Ok(if hides { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue })
    })?;
    match shadowed {
        Some(column) => not_impl_err!(
            "`{column}` is compared with a subquery that has a column of the same name; give its table another alias"
        ),
        None => Ok(()),
    }
}

/// Returns a correlated subquery of one row without its HAVING, and whether the row passes that; `None` for other subqueries.
pub(super) fn with_having(subquery: &Subquery) -> Result<Option<(Subquery, Expr)>> {
    let Some(Some(having)) = single_row(&subquery.subquery) else { return Ok(None) };
    if subquery.outer_ref_columns.is_empty() {
        return Ok(None);
    }
    let plan = LogicalPlanBuilder::from(having.input.as_ref().clone());
    let plan = plan.project(vec![having.predicate.alias("passes")])?.build()?;
    let passes = Expr::ScalarSubquery(subquery.with_plan(Arc::new(plan))).is_true();
    let row = subquery.subquery.as_ref().clone().rewrite_down(&mut |node| match node {
        LogicalPlan::Filter(filter) => {
            Ok(Transformed::new(filter.input.as_ref().clone(), true, TreeNodeRecursion::Stop))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(Some((subquery.with_plan(Arc::new(row.data)), passes)))
}

/// Returns the HAVING of `plan` if it aggregates without GROUP BY; `Some(None)` if such a plan has none.
pub(super) fn single_row(plan: &LogicalPlan) -> Option<Option<Filter>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty().then_some(None),
        LogicalPlan::Filter(filter) => match filter.input.as_ref() {
            LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => Some(Some(filter.clone())),
            _ => None,
        },
        LogicalPlan::Projection(node) => single_row(&node.input),
        LogicalPlan::SubqueryAlias(node) => single_row(&node.input),
        LogicalPlan::Sort(node) => single_row(&node.input),
        LogicalPlan::Distinct(node) => single_row(node.input()),
        LogicalPlan::Limit(limit) => match (limit.get_fetch_type(), limit.get_skip_type()) {
            (Ok(FetchType::Literal(fetch)), Ok(SkipType::Literal(0))) if fetch != Some(0) => single_row(&limit.input),
            _ => None,
        },
        _ => None,
    }
}
