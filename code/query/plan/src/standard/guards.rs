//! Conditions that guard others: `b <> 0 AND a / b > 10`.
//!
//! Both sides of AND are evaluated for all rows of a batch, in the order that the optimizer leaves. A condition that can
//! fail is therefore evaluated for the rows that pass all conditions that cannot.

use crate::trees::{PlanTree, Tree};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, Operator, lit, when};

use super::patterns;

/// Guards the conditions of the filters and joins in `plan`, which is optimized: the optimizer would merge the guards. Makes its
/// patterns prunable, as [`patterns::prunable`] says.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(crate) fn guarded(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = patterns::prunable(plan)?.rewrite_all_up(&mut |node| match node {
        LogicalPlan::Filter(filter) => {
            let guarded = guarded_condition(filter.predicate.clone(), filter.input.schema())?;
            if !guarded.transformed {
                return Ok(Transformed::no(LogicalPlan::Filter(filter)));
            }
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(guarded.data, Arc::clone(&filter.input))?)))
        }
        LogicalPlan::Join(mut join) => {
            let schema = merge_schema(&[join.left.as_ref(), join.right.as_ref()]);
            let Some(condition) = join.filter.take() else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
            let guarded = guarded_condition(condition, &schema)?;
            join.filter = Some(guarded.data);
            Ok(Transformed::new_transformed(LogicalPlan::Join(join), guarded.transformed))
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(plan.data)
}

/// Evaluates the parts of `condition` that can fail for the rows that pass the others. Volatile parts are evaluated once: a
/// second draw would be another one.
fn guarded_condition(condition: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (mut stable, mut volatile, mut guarded) = (Vec::new(), Vec::new(), Vec::new());
    for part in split_conjunction_owned(condition.clone()) {
        if can_fail(&part, schema)? {
            guarded.push(part);
        } else if part.is_volatile() {
            volatile.push(part);
        } else {
            stable.push(part);
        }
    }
    let front = conjunction(stable.clone());
    let (Some(guard), Some(inner)) = (conjunction(stable.into_iter().chain(volatile)), conjunction(guarded)) else {
        return Ok(Transformed::no(condition));
    };
    let inner = when(guard, inner).otherwise(lit(false))?;
    Ok(Transformed::yes(match front {
        Some(front) => front.and(inner),
        None => inner,
    }))
}

/// Checks if `expression` can fail for a value: it divides whole numbers or decimals by something that may be zero,
/// parses a text, or computes what may overflow.
fn can_fail(expression: &Expr, schema: &DFSchema) -> Result<bool> {
    expression.any(&mut |inner| {
        Ok(match inner {
            Expr::BinaryExpr(BinaryExpr { op: Operator::Divide | Operator::Modulo, right, .. }) => {
                !matches!(right.as_ref(), Expr::Literal(..)) && !right.get_type(schema)?.is_floating()
            }
            Expr::Cast(cast) => is_text(&cast.expr.get_type(schema)?) && !is_text(cast.field.data_type()),
            Expr::ScalarFunction(call) => {
                let name = call.name();
                name.starts_with("to_")
                    || name.starts_with("buzz_") && !name.starts_with("buzz_instant") && name != "buzz_double"
            }
            _ => false,
        })
    })
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => other.is_string(),
    }
}
