//! `CROSS JOIN UNNEST(column)` and `LEFT JOIN UNNEST(column) ON true`.
//!
//! The planner makes a join whose right side refers to the left one, which cannot run. The same rows come from unnesting
//! the left side.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{JoinType, NullHandling, TableReference, UnnestOptions};
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::Unnest;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder};
use datafusion::scalar::ScalarValue;

use crate::trees::{PlanTree, Tree};

/// Replaces the joins of `plan` with the items of lists of their left side.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(super) fn joined(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.rewrite_all_up(&mut |node| {
        let LogicalPlan::Join(join) = &node else { return Ok(Transformed::no(node)) };
        match Items::of(join) {
            Some(items) => items.beside(join).map(Transformed::yes),
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok(plan.data)
}

/// The right side of a join that unnests expressions of the left side.
struct Items {
    /// The alias of the items.
    relation: Option<TableReference>,
    unnest: Unnest,
    /// The expressions that are unnested, and the names that `unnest` knows them by.
    lists: Vec<Expr>,
    /// The expression over the rows of `unnest` for each column, and its name.
    columns: Vec<(Expr, String)>,
}

impl Items {
    fn of(join: &Join) -> Option<Self> {
        let condition = join.filter.as_ref().filter(|filter| !is_true(filter));
        let possible = match join.join_type {
            JoinType::Inner => true,
            JoinType::Left => condition.is_none(),
            _ => false,
        };
        if !possible || !join.on.is_empty() {
            return None;
        }
        let (relation, right) = match join.right.as_ref() {
            LogicalPlan::SubqueryAlias(alias) => (Some(alias.alias.clone()), alias.input.as_ref()),
            other => (None, other),
        };
        let LogicalPlan::Subquery(subquery) = right else { return None };
        let mut node = subquery.subquery.as_ref();
        let mut projections = Vec::new();
        let unnest = loop {
            match node {
                LogicalPlan::Projection(projection) => {
                    projections.push(projection);
                    node = projection.input.as_ref();
                }
                LogicalPlan::Unnest(unnest) => break unnest.clone(),
                _ => return None,
            }
        };
        let LogicalPlan::Projection(lists) = unnest.input.as_ref() else { return None };
        if !matches!(lists.input.as_ref(), LogicalPlan::EmptyRelation(_)) {
            return None;
        }
        let lists = lists.expr.clone();
        let mut columns: Vec<(Expr, String)> =
            unnest.schema.columns().into_iter().map(|column| (Expr::Column(column.clone()), column.name)).collect();
        for projection in projections.into_iter().rev() {
            let renamed = projection.expr.iter().zip(projection.schema.fields()).map(|(expression, field)| {
                let Expr::Column(column) = expression.clone().unalias() else { return None };
                let (source, _) = columns.iter().find(|(_, name)| *name == column.name)?;
                Some((source.clone(), field.name().clone()))
            });
            columns = renamed.collect::<Option<_>>()?;
        }
        Some(Self { relation, unnest, lists, columns })
    }

    /// Returns the rows of the left side of `join`, each with its items.
    fn beside(self, join: &Join) -> Result<LogicalPlan> {
        let left: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
        let mut lists = left.clone();
        for list in self.lists {
            let name = list.schema_name().to_string();
            let own = list.rewrite_up(&mut |inner| match inner {
                Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
                other => Ok(Transformed::no(other)),
            })?;
            lists.push(own.data.unalias().alias(name));
        }
        let null_handling =
            if join.join_type == JoinType::Left { NullHandling::PreserveAndExpandEmpty } else { NullHandling::Drop };
        let options = UnnestOptions { null_handling, ..self.unnest.options };
        let input = LogicalPlanBuilder::from(join.left.as_ref().clone()).project(lists)?.build()?;
        let unnest = Unnest::try_new(Arc::new(input), self.unnest.exec_columns, options)?;
        let items = self.columns.into_iter().map(|(item, name)| item.alias_qualified(self.relation.clone(), name));
        let columns: Vec<Expr> = left.into_iter().chain(items).collect();
        let rows = LogicalPlanBuilder::from(LogicalPlan::Unnest(unnest)).project(columns)?;
        match join.filter.clone().filter(|filter| !is_true(filter)) {
            Some(filter) => rows.filter(filter)?.build(),
            None => rows.build(),
        }
    }
}

fn is_true(filter: &Expr) -> bool {
    matches!(filter, Expr::Literal(ScalarValue::Boolean(Some(true)), _))
}
