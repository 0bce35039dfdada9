//! `SIMILAR TO` with the pattern language of the standard, and `LIKE` with any escape character.

use arrow::datatypes::DataType;
use buzz_kernel::{like_pattern, similar_pattern};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Like;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, lit};

use crate::trees::{PlanTree, Tree};

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

/// Matches each `LIKE` in `plan`, which is optimized, over a cast to texts with the kind of texts that the column below the cast
/// has. The optimizer also makes them of `~` and `starts_with`. DataFusion prunes by the prefix of the pattern, which it makes a text
/// of the column's kind: a comparison with a bound of another kind fails.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(super) fn prunable(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.rewrite_all_up(&mut |node| {
        let schema = match (&node, node.inputs().as_slice()) {
            (LogicalPlan::TableScan(scan), _) => {
                DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?
            }
            (_, []) => node.schema().as_ref().clone(),
            (_, inputs) => merge_schema(inputs),
        };
        node.rewrite_expressions(&mut |expression| expression.rewrite_up(&mut |inner| Ok(of_own_kind(inner, &schema))))
    })?;
    Ok(plan.data)
}

fn of_own_kind(expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::Like(mut like) = expression else { return Transformed::no(expression) };
    let (Expr::Cast(cast), Expr::Literal(pattern, _)) = (like.expr.as_ref(), like.pattern.as_ref()) else {
        return Transformed::no(Expr::Like(like));
    };
    let mut inner = cast.expr.as_ref();
    while let Expr::Cast(cast) = inner {
        inner = &cast.expr;
    }
    let kind = match inner.get_type(schema) {
        Ok(kind @ (DataType::Utf8View | DataType::LargeUtf8)) => kind,
        _ => DataType::Utf8,
    };
    let Some(text) = pattern.try_as_str().filter(|_| cast.field.data_type().is_string()) else {
        return Transformed::no(Expr::Like(like));
    };
    if *cast.field.data_type() == kind {
        return Transformed::no(Expr::Like(like));
    }
    let text = text.map(str::to_string);
    let pattern = match kind {
        DataType::Utf8View => ScalarValue::Utf8View(text),
        DataType::LargeUtf8 => ScalarValue::LargeUtf8(text),
        _ => ScalarValue::Utf8(text),
    };
    like.expr = Box::new(Expr::Cast(Cast::new(cast.expr.clone(), kind)));
    like.pattern = Box::new(Expr::Literal(pattern, None));
    Transformed::yes(Expr::Like(like))
}
