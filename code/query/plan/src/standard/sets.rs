//! `EXCEPT ALL` and `INTERSECT ALL` with the counts of the standard.
//!
//! DataFusion plans them as an anti join and a semi join, which keep all rows of a value or none. Here, the occurrences of
//! each row are numbered on both sides, and the joins compare the numbers as well.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder};

use crate::trees::PlanTree;

/// The column with the numbers of the left side.
const LEFT_NUMBER: &str = "buzz_occurrence_left";

/// Numbers the occurrences of the rows that `EXCEPT ALL` and `INTERSECT ALL` compare in `plan`.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(super) fn counted(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.rewrite_all_up(&mut |node| match node {
        LogicalPlan::Join(join) if compares_all(&join) => numbered(join).map(Transformed::yes),
        node => Ok(Transformed::no(node)),
    })?;
    Ok(plan.data)
}

/// Checks if `join` was planned for `EXCEPT ALL` or `INTERSECT ALL`: nothing else makes nulls equal. Without `ALL`, the
/// rows of the left side are distinct. The join of a view that is planned as a part of another statement has its numbers.
fn compares_all(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftAnti | JoinType::LeftSemi)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
        && !join.left.schema().has_column_with_unqualified_name(LEFT_NUMBER)
}

fn numbered(join: Join) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    let (left, left_number) = with_occurrences(&join.left, LEFT_NUMBER)?;
    let (right, right_number) = with_occurrences(&join.right, "buzz_occurrence_right")?;
    let on = join.on.into_iter().chain([(left_number, right_number)]).collect();
    let joined = Join::try_new(
        left,
        right,
        on,
        join.filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    LogicalPlanBuilder::from(LogicalPlan::Join(joined)).project(columns)?.build()
}

/// Adds a column `name` to `plan`: 1 for the first of equal rows, 2 for the second, and so on.
fn with_occurrences(plan: &Arc<LogicalPlan>, name: &str) -> Result<(Arc<LogicalPlan>, Expr)> {
    let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let number = row_number().partition_by(columns.clone()).build()?;
    let window = Column::new_unqualified(number.schema_name().to_string());
    let numbered = LogicalPlanBuilder::from(plan.as_ref().clone()).window(vec![number])?;
    let named = columns.into_iter().chain([Expr::Column(window).alias(name)]);
    let plan = numbered.project(named.collect::<Vec<_>>())?.build()?;
    Ok((Arc::new(plan), Expr::Column(Column::new_unqualified(name))))
}
