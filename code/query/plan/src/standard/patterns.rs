//! `SIMILAR TO` with the pattern language of the standard, and `LIKE` with any escape character.

use crate::trees::{PlanTree, Tree};
use arrow::datatypes::DataType;
use buzz_kernel::{like_pattern, similar_pattern};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Like;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, lit};

/// Translates the pattern of `expression`. DataFusion takes a pattern of `SIMILAR TO` for a regular expression, and knows
/// no other escape character than the backslash.
pub(super) fn translated(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expression {
        Expr::SimilarTo(Like { negated, expr, pattern, escape_char, .. }) => {
            let escape = escape_char.unwrap_or('\\').to_string();
            let regex = similar_pattern().call(vec![*pattern, lit(escape)]);
            let operator = if negated { Operator::RegexNotMatch } else { Operator::RegexMatch };
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(expr, operator, Box::new(regex)))))
        }
        Expr::Like(mut like) => {
            let mut changed = false;
            if let Some(escape) = like.escape_char.filter(|escape| *escape != '\\') {
                like.pattern = Box::new(like_pattern().call(vec![*like.pattern, lit(escape.to_string())]));
                like.escape_char = None;
                changed = true;
            }
            // The comparison panics for a dictionary without values, which an empty batch has.
            if matches!(like.expr.get_type(schema)?, DataType::Dictionary(..)) {
                like.expr = Box::new(Expr::Cast(Cast::new(like.expr, DataType::Utf8)));
                changed = true;
            }
            Ok(Transformed::new_transformed(Expr::Like(like), changed))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Makes each `LIKE` in `plan`, which is optimized, one of plain texts if it matches a cast to another kind of texts. The optimizer
/// also makes them of `~` and `starts_with`. DataFusion prunes by the prefix of the pattern, which it makes a plain text: the
/// comparison with a cast bound fails.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(super) fn prunable(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.rewrite_all_up(&mut |node| {
        node.rewrite_expressions(&mut |expression| expression.rewrite_up(&mut |inner| Ok(of_plain_text(inner))))
    })?;
    Ok(plan.data)
}

fn of_plain_text(expression: Expr) -> Transformed<Expr> {
    let Expr::Like(mut like) = expression else { return Transformed::no(expression) };
    let (Expr::Cast(cast), Expr::Literal(pattern, _)) = (like.expr.as_ref(), like.pattern.as_ref()) else {
        return Transformed::no(Expr::Like(like));
    };
    let (DataType::Utf8View | DataType::LargeUtf8, Some(text)) = (cast.field.data_type(), pattern.try_as_str()) else {
        return Transformed::no(Expr::Like(like));
    };
    let pattern = ScalarValue::Utf8(text.map(str::to_string));
    like.expr = Box::new(Expr::Cast(Cast::new(cast.expr.clone(), DataType::Utf8)));
    like.pattern = Box::new(Expr::Literal(pattern, None));
    Transformed::yes(Expr::Like(like))
}
