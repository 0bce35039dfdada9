//! The operands that an expression compares with each other.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::{BinaryExpr, Case, Expr, ExprSchemable, Operator, Volatility};

use crate::trees::Tree;

/// Changes operands, and returns true if it did.
pub(super) type Convert<'a> = &'a dyn Fn(&mut [Expr]) -> Result<bool>;

/// Applies `convert` to the operands of a comparison, of BETWEEN, IN with a list, and CASE with a value.
pub(super) fn compared(expression: Expr, convert: Convert<'_>) -> Result<Transformed<Expr>> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
            let (changed, operands) = converted([*left, *right], convert)?;
            let [left, right] = operands.map(Box::new);
            Ok(Transformed::new_transformed(Expr::BinaryExpr(BinaryExpr { left, op, right }), changed))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let (changed, operands) = converted([*expr, *low, *high], convert)?;
            let [expr, low, high] = operands.map(Box::new);
            Ok(Transformed::new_transformed(Expr::Between(Between { expr, negated, low, high }), changed))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let mut operands: Vec<Expr> = std::iter::once(*expr).chain(list).collect();
            let changed = convert(&mut operands)?;
            let expr = Box::new(operands.remove(0));
            Ok(Transformed::new_transformed(Expr::InList(InList { expr, list: operands, negated }), changed))
        }
        Expr::Case(Case { expr: Some(value), when_then_expr, else_expr }) => {
            let (whens, thens): (Vec<_>, Vec<_>) = when_then_expr.into_iter().unzip();
            let mut operands: Vec<Expr> = std::iter::once(*value).chain(whens.into_iter().map(|when| *when)).collect();
            let changed = convert(&mut operands)?;
            let value = Box::new(operands.remove(0));
            let when_then_expr = operands.into_iter().map(Box::new).zip(thens).collect();
            Ok(Transformed::new_transformed(Expr::Case(Case { expr: Some(value), when_then_expr, else_expr }), changed))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn converted<const N: usize>(mut operands: [Expr; N], convert: Convert<'_>) -> Result<(bool, [Expr; N])> {
    let changed = convert(&mut operands)?;
    Ok((changed, operands))
}

/// Checks if `op` compares two values.
pub(super) fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Returns the type of `expression`. Other than DataFusion, it does not look into conditions: each rule asks for the types of the
/// operands of each comparison, and a chain of `n` comparisons would take `n²` steps.
pub(super) fn type_of(expression: &Expr, schema: &DFSchema) -> Result<DataType> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { op, .. }) if is_comparison(*op) || matches!(op, Operator::And | Operator::Or) => {
            Ok(DataType::Boolean)
        }
        Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Between(_)
        | Expr::InList(_)
        | Expr::InSubquery(_)
        | Expr::Exists(_) => Ok(DataType::Boolean),
        Expr::Alias(alias) => type_of(&alias.expr, schema),
        other => other.get_type(schema),
    }
}

/// Checks if `expression` has the same value for all rows, as literals and `now()` have.
pub(super) fn is_constant(expression: &Expr) -> bool {
    let varies = expression.any(&mut |inner| {
        Ok(match inner {
            Expr::Literal(..) | Expr::Cast(_) | Expr::TryCast(_) | Expr::BinaryExpr(_) | Expr::Negative(_) => false,
            Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Volatile,
            _ => true,
        })
    });
    matches!(varies, Ok(false))
}

/// Returns the value of a text literal.
pub(super) fn text(expression: &Expr) -> Option<&ScalarValue> {
    match expression {
        Expr::Literal(
            text @ (ScalarValue::Utf8(Some(_)) | ScalarValue::Utf8View(Some(_)) | ScalarValue::LargeUtf8(Some(_))),
            _,
        ) => Some(text),
        _ => None,
    }
}

/// Returns the value of a literal, or of a text that is cast to a time or a date.
pub(super) fn literal_value(expression: &Expr) -> Option<ScalarValue> {
    match expression {
        Expr::Literal(value, _) if !value.is_null() => Some(value.clone()),
        Expr::Cast(cast) => text(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        _ => None,
    }
}
