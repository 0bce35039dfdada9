//! What is computed of an aggregate or of a window function.
//!
//! A rewritten `avg(x)` may be a cast of another average, and a rewritten `max(i)` the interval of another maximum. The nodes that
//! aggregate and compute windows can have the functions themselves only, so the rest is computed in a projection above them.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection, Window};

/// Computes the outputs of `window` that are no window functions in a projection above it.
pub(super) fn above_window(window: Window) -> Result<Transformed<LogicalPlan>> {
    let is_function = |expression: &Expr| matches!(expression, Expr::WindowFunction(_));
    if window.window_expr.iter().all(|output| is_function(inner(output))) {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let Window { input, window_expr, schema } = window;
    let kept = schema.fields().len() - window_expr.len();
    let (functions, outputs) = divided(window_expr, &is_function)?;
    let below = LogicalPlan::Window(Window::try_new(functions, input)?);
    let columns = projected(&schema, kept, outputs);
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(below))?)))
}

/// Computes the outputs of `aggregate` that are no aggregates in a projection above what `complete` makes of it.
pub(super) fn above_aggregate(
    aggregate: Aggregate,
    complete: &dyn Fn(Aggregate) -> Result<Transformed<LogicalPlan>>,
) -> Result<Transformed<LogicalPlan>> {
    let is_function = |expression: &Expr| matches!(expression, Expr::AggregateFunction(_));
    if aggregate.aggr_expr.iter().all(|output| is_function(inner(output))) {
        return complete(aggregate);
    }
    let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
    let kept = schema.fields().len() - aggr_expr.len();
    let (functions, outputs) = divided(aggr_expr, &is_function)?;
    let below = complete(Aggregate::try_new(input, group_expr, functions)?)?.data;
    let columns = projected(&schema, kept, outputs);
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(below))?)))
}

fn inner(mut output: &Expr) -> &Expr {
    while let Expr::Alias(alias) = output {
        output = &alias.expr;
    }
    output
}

/// Returns the functions in `outputs` with a name each, and what is computed of the columns of these names.
fn divided(outputs: Vec<Expr>, is_function: &dyn Fn(&Expr) -> bool) -> Result<(Vec<Expr>, Vec<Expr>)> {
    let mut functions: Vec<Expr> = Vec::new();
    let mut computed = Vec::with_capacity(outputs.len());
    for output in outputs {
        let above = output.transform_down(|part| {
            if !is_function(&part) {
                return Ok(Transformed::no(part));
            }
            let name = format!("buzz_computed_{}", functions.len());
            functions.push(part.alias(name.as_str()));
            let column = Expr::Column(Column::new_unqualified(name));
            Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
        })?;
        computed.push(above.data);
    }
    Ok((functions, computed))
}

/// Returns the first `kept` columns of `schema`, and `outputs` by the names of the others.
fn projected(schema: &datafusion::common::DFSchema, kept: usize, outputs: Vec<Expr>) -> Vec<Expr> {
    let kept_columns = schema.iter().take(kept).map(|(relation, field)| Column::new(relation.cloned(), field.name()));
    let named = schema.iter().skip(kept).zip(outputs);
    let named =
        named.map(|((relation, field), output)| output.unalias().alias_qualified(relation.cloned(), field.name()));
    kept_columns.map(Expr::Column).chain(named).collect()
}
