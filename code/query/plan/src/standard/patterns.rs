//! `SIMILAR TO` with the pattern language of the standard, and `LIKE` with any escape character.

use arrow::datatypes::DataType;
use buzz_kernel::{like_pattern, similar_pattern};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::Like;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator, lit};

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
                like.expr = Box::new(Expr::Cast(Cast::new(like.expr, DataType::Utf8View)));
                changed = true;
            }
            Ok(Transformed::new_transformed(Expr::Like(like), changed))
        }
        other => Ok(Transformed::no(other)),
    }
}
