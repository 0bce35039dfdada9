//! The rule that makes arithmetic and sums fail on overflow, or wrap, and hides casts that must stay in their place.

use std::sync::Arc;

use arrow::datatypes::DataType;
use buzz_kernel::{Arithmetic, checked, checked_sum, is_checked, wrapping_sum};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, WindowFunctionDefinition};
use datafusion::optimizer::AnalyzerRule;

use super::{casts, fields, operands, zones};
use crate::trees::{PlanTree, Tree};

/// Hides casts as [`casts::kept`] does, also those that [`casts::plain`] makes, and replaces those to a time zone as
/// [`zones::in_zone`] does. Replaces `+`, `-` and `*` of integers and of the longest decimals by functions that fail on overflow.
/// Runs after the types of operands are known. `sum` fails by itself; if overflow wraps, another function replaces it.
#[derive(Debug)]
pub(super) struct Overflow {
    /// Overflow wraps around.
    pub(super) wraps: bool,
}

impl AnalyzerRule for Overflow {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = plan.rewrite_all_up(&mut |node| {
            let schema = match node.inputs().as_slice() {
                [] => node.schema().as_ref().clone(),
                inputs => merge_schema(inputs),
            };
            let names = NamePreserver::new(&node);
            let stored = fields::stored(&node);
            let replaced = |inner| {
                fields::masked(inner, &schema, &stored)?
                    .transform_data(|inner| casts::plain(inner, &schema))?
                    .transform_data(|inner| zones::in_zone(inner, &schema))?
                    .transform_data(|inner| casts::kept(inner, &schema))?
                    .transform_data(|inner| if self.wraps { Ok(wrapping(inner)) } else { checking(inner, &schema) })
            };
            node.rewrite_expressions(&mut |expression| with_names(expression, &names, &replaced))
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &'static str {
        "overflow"
    }
}

/// Rewrites `expression` with `rewrite`, from below, and keeps its name. The expressions of a grouping set keep one each: a set
/// with a name would be one expression for the planner.
pub(super) fn with_names(
    expression: Expr,
    names: &NamePreserver,
    rewrite: &dyn Fn(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<Expr>> {
    if matches!(expression, Expr::GroupingSet(_)) {
        return expression.map_children(|inner| with_names(inner, names, rewrite));
    }
    let name = names.save(&expression);
    let rewritten = expression.rewrite_up(&mut |inner| rewrite(inner))?;
    Ok(rewritten.update_data(|rewritten| name.restore(rewritten)))
}

fn checking(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let Some(arithmetic) = Arithmetic::of(op)
                && can_overflow(&type_of(&left, schema)?, &type_of(&right, schema)?, arithmetic)
            {
                return Ok(Transformed::yes(checked(arithmetic).call(vec![*left, *right])));
            }
            Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr::new(left, op, right))))
        }
        Expr::Negative(inner) => {
            let data_type = type_of(&inner, schema)?;
            if data_type.is_signed_integer() && !matches!(inner.as_ref(), Expr::Literal(..)) {
                let zero = Expr::Literal(ScalarValue::new_zero(&data_type)?, None);
                return Ok(Transformed::yes(checked(Arithmetic::Subtract).call(vec![zero, *inner])));
            }
            Ok(Transformed::no(Expr::Negative(inner)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Returns the type of `expression`. DataFusion writes the text of a function with all its arguments to find its type, which for
/// a sum of `n` terms takes `n³` steps.
pub(super) fn type_of(expression: &Expr, schema: &DFSchema) -> Result<DataType> {
    let Expr::ScalarFunction(function) = expression else { return operands::type_of(expression, schema) };
    let ([left, right], true) = (function.args.as_slice(), is_checked(&function.func)) else {
        return expression.get_type(schema);
    };
    // The last operand of a long sum is short.
    let right = type_of(right, schema)?;
    if right.is_integer() {
        return Ok(right);
    }
    function.func.inner().return_type(&[type_of(left, schema)?, right])
}

/// Checks if the result of two operands may not fit its type. DataFusion gives the results of short decimals more digits.
fn can_overflow(left: &DataType, right: &DataType, arithmetic: Arithmetic) -> bool {
    if left.is_integer() {
        return left == right;
    }
    let is_decimal = |data_type: &DataType| matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..));
    let types = [left.clone(), right.clone()];
    is_decimal(left)
        && is_decimal(right)
        && checked(arithmetic)
            .inner()
            .return_type(&types)
            .is_ok_and(|result| matches!(result, DataType::Decimal128(38, _) | DataType::Decimal256(76, _)))
}

fn wrapping(expression: Expr) -> Transformed<Expr> {
    match expression {
        Expr::AggregateFunction(AggregateFunction { func, params }) if func == checked_sum() => {
            Transformed::yes(Expr::AggregateFunction(AggregateFunction { func: wrapping_sum(), params }))
        }
        Expr::WindowFunction(mut window) => {
            let is_sum = matches!(&window.fun, WindowFunctionDefinition::AggregateUDF(sum) if *sum == checked_sum());
            if is_sum {
                window.fun = WindowFunctionDefinition::AggregateUDF(wrapping_sum());
            }
            Transformed::new_transformed(Expr::WindowFunction(window), is_sum)
        }
        other => Transformed::no(other),
    }
}

/// Returns the rule as a session takes it.
pub(super) fn rule(wraps: bool) -> Arc<dyn AnalyzerRule + Send + Sync> {
    Arc::new(Overflow { wraps })
}
