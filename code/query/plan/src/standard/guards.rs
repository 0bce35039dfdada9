//! Conditions that guard others: `b <> 0 AND a / b > 10`.
//!
//! Both sides of AND are evaluated for all rows of a batch, in the order that the optimizer leaves. A condition that can
//! fail is therefore evaluated for the rows that pass all conditions that cannot.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::utils::{merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, Operator, lit, when};

use super::patterns;
use crate::trees::{PlanTree, Tree};

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
    let parts = split_conjunction_owned(condition.clone());
    let whole = if parts.len() > TERMS_MAX { conjunction(parts.clone()) } else { None };
    for part in parts {
        if can_fail(&part, schema)? {
            guarded.push(part);
        } else if part.is_volatile() {
            volatile.push(part);
        } else {
            stable.push(part);
        }
    }
    let front = conjunction(stable.clone());
    let (Some(guard), Some(inner)) = (conjunction(stable.into_iter().chain(volatile).collect()), conjunction(guarded))
    else {
        return Ok(whole.map_or_else(|| Transformed::no(condition), Transformed::yes));
    };
    let inner = when(guard, inner).otherwise(lit(false))?;
    Ok(Transformed::yes(match front {
        Some(front) => front.and(inner),
        None => inner,
    }))
}

/// Terms of a chain of AND that are not combined as a tree. The types of a chain are computed in steps with the square of its length.
const TERMS_MAX: usize = 64;

/// Combines `parts` by AND in their order, as a tree that is balanced if there are many. `None` if there are no parts.
pub(crate) fn conjunction(mut parts: Vec<Expr>) -> Option<Expr> {
    if parts.len() <= TERMS_MAX {
        return parts.into_iter().reduce(Expr::and);
    }
    let right = parts.split_off(parts.len() / 2);
    Some(conjunction(parts)?.and(conjunction(right)?))
}

/// Functions of Buzz that have a result for every value.
const NEVER_FAIL: [&str; 5] = ["buzz_instant", "buzz_instant_in", "buzz_double", "buzz_null_if", "buzz_struct"];

/// Checks if `expression` can fail for a value: it divides whole numbers or decimals by something that may be zero,
/// parses a text, or computes what may overflow.
pub(crate) fn can_fail(expression: &Expr, schema: &DFSchema) -> Result<bool> {
    expression.any(&mut |inner| {
        Ok(match inner {
            Expr::BinaryExpr(BinaryExpr { op: Operator::Divide | Operator::Modulo, right, .. }) => {
                !matches!(right.as_ref(), Expr::Literal(..)) && !right.get_type(schema)?.is_floating()
            }
            Expr::Cast(cast) => is_text(&cast.expr.get_type(schema)?) && !is_text(cast.field.data_type()),
            Expr::ScalarFunction(call) => {
                let name = call.name();
                name.starts_with("to_") || name.starts_with("buzz_") && !NEVER_FAIL.contains(&name)
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Schema};
    use datafusion::prelude::col;

    use super::*;

    #[test]
    fn long_chains_of_conditions_are_balanced_in_their_order() {
        fn depth(expression: &Expr) -> usize {
            match expression {
                Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => 1 + depth(left).max(depth(right)),
                _ => 0,
            }
        }
        let schema = DFSchema::try_from(Schema::new(vec![Field::new("x", DataType::Int64, true)])).unwrap();
        let parts: Vec<Expr> = (0..1000_i64).map(|number| col("x").not_eq(lit(number))).collect();
        let chain = parts.iter().cloned().reduce(Expr::and).unwrap();
        let balanced = guarded_condition(chain, &schema).unwrap().data;
        assert!(depth(&balanced) < 70, "{}", depth(&balanced));
        assert_eq!(split_conjunction_owned(balanced), parts);
        let short = col("x").eq(lit(1_i64)).and(col("x").eq(lit(2_i64)));
        assert!(!guarded_condition(short, &schema).unwrap().transformed);
    }
}
