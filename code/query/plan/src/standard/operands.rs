//! The operands that an expression compares with each other.

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::{BinaryExpr, Case, Expr, Operator};

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
