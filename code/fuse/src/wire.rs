//! Rewrites the parts of a plan that its encoding would lose on the way to a comb.
//!
//! The encoding of physical plans silently drops the `FILTER` of a window's aggregate and the `IGNORE NULLS` of a
//! window function, so the result would be wrong. It decodes a literal of type Float16 as Float32. A plan that cannot
//! be rewritten is not sent: Fuse reduces it itself.

use arrow::datatypes::DataType;
use buzz_protocol::Result;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Case, Cast, Expr, LogicalPlan, WindowFunctionDefinition};

/// Aggregates that ignore nulls, so that a filtered row can be replaced by a null.
const SKIP_NULLS: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "median",
    "min",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
];

/// Rewrites `sum(x) FILTER (WHERE p) OVER w` in `plan` to `sum(CASE WHEN p THEN x END) OVER w`.
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub(crate) fn sendable(plan: LogicalPlan) -> Result<LogicalPlan> {
    let sendable = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        let rewritten = node.map_expressions(|expression| {
            let name = names.save(&expression);
            Ok(expression.transform_up(window)?.update_data(|expression| name.restore(expression)))
        })?;
        if rewritten.transformed { rewritten.map_data(LogicalPlan::recompute_schema) } else { Ok(rewritten) }
    })?;
    Ok(sendable.data)
}

/// Replaces each literal of type Float16 in the optimized `plan` by a cast of a Float32 literal.
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub(crate) fn sendable_literals(plan: LogicalPlan) -> Result<LogicalPlan> {
    let sendable = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expression| {
            let name = names.save(&expression);
            Ok(expression.transform_up(float16)?.update_data(|expression| name.restore(expression)))
        })
    })?;
    Ok(sendable.data)
}

fn float16(expression: Expr) -> DataFusionResult<Transformed<Expr>> {
    let Expr::Literal(ScalarValue::Float16(value), metadata) = expression else {
        return Ok(Transformed::no(expression));
    };
    let value = ScalarValue::Float32(value.map(f32::from));
    let cast = Cast::new(Box::new(Expr::Literal(value, metadata)), DataType::Float16);
    Ok(Transformed::yes(Expr::Cast(cast)))
}

/// Describes a part of `plan` that its encoding would lose, for messages. `None` if there is none.
pub(crate) fn unsendable(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                if let Expr::WindowFunction(window) = expression {
                    found = found.take().or_else(|| lost(window));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    visited.ok().and(found)
}

fn lost(window: &WindowFunction) -> Option<String> {
    let of_nulls = matches!(window.fun, WindowFunctionDefinition::WindowUDF(_))
        && window.params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let what = match window.params.filter {
        _ if of_nulls => "IGNORE NULLS",
        Some(_) => "FILTER",
        None => return None,
    };
    Some(format!("{what} of `{}` over a window cannot be sent", window.fun.name()))
}

fn window(expression: Expr) -> DataFusionResult<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expression else {
        return Ok(Transformed::no(expression));
    };
    if !SKIP_NULLS.contains(&window.fun.name()) {
        return Ok(Transformed::no(Expr::WindowFunction(window)));
    }
    let Some(filter) = window.params.filter.take() else {
        return Ok(Transformed::no(Expr::WindowFunction(window)));
    };
    #[expect(deprecated, reason = "the form of `count(*)` before analysis")]
    let value = match window.params.args.first_mut() {
        Some(Expr::Wildcard { .. }) | None => Expr::Literal(ScalarValue::Int64(Some(1)), None),
        Some(value) => std::mem::take(value),
    };
    let kept = Expr::Case(Case::new(None, vec![(filter, Box::new(value))], None));
    match window.params.args.first_mut() {
        Some(first) => *first = kept,
        None => window.params.args.push(kept),
    }
    Ok(Transformed::yes(Expr::WindowFunction(window)))
}
