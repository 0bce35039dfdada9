//! Values that are computed of an aggregate or of a window function.
//!
//! A rewritten `avg(x)` may be a cast of another average, and a rewritten `max(i)` the interval of another maximum. The nodes that
//! aggregate and compute windows can have the functions themselves only, so the rest is computed in a projection above them.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection, Window};

use crate::trees::Tree;

/// Computes the outputs of `window` that are not window functions in a projection above it.
pub(super) fn above_window(window: Window) -> Result<Transformed<LogicalPlan>> {
    let is_function = |expression: &Expr| matches!(expression, Expr::WindowFunction(_));
    if window.window_expr.iter().all(|output| is_function(inner(output))) {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let Window { input, window_expr, schema } = window;
    let (functions, outputs) = divided(window_expr, &schema, &is_function)?;
    let below = LogicalPlan::Window(Window::try_new(functions, input)?);
    let columns = projected(&schema, outputs);
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(below))?)))
}

/// Computes the outputs of `aggregate` that are not aggregates in a projection above what `complete` makes of it.
pub(super) fn above_aggregate(
    aggregate: Aggregate,
    complete: &dyn Fn(Aggregate) -> Result<Transformed<LogicalPlan>>,
) -> Result<Transformed<LogicalPlan>> {
    let is_function = |expression: &Expr| matches!(expression, Expr::AggregateFunction(_));
    if aggregate.aggr_expr.iter().all(|output| is_function(inner(output))) {
        return complete(aggregate);
    }
    let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
    let (functions, outputs) = divided(aggr_expr, &schema, &is_function)?;
    let below = complete(Aggregate::try_new(input, group_expr, functions)?)?.data;
    let columns = projected(&schema, outputs);
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(below))?)))
}

fn inner(mut output: &Expr) -> &Expr {
    while let Expr::Alias(alias) = output {
        output = &alias.expr;
    }
    output
}

/// Returns the functions in `outputs`, whose columns are the last ones of `schema`, and what is computed of their columns. Outputs
/// that are functions keep their names: a later rule looks for `grouping` by its own.
fn divided(
    outputs: Vec<Expr>,
    schema: &DFSchema,
    is_function: &dyn Fn(&Expr) -> bool,
) -> Result<(Vec<Expr>, Vec<Expr>)> {
    let mut functions: Vec<Expr> = Vec::new();
    let mut computed = Vec::with_capacity(outputs.len());
    let kept = schema.fields().len() - outputs.len();
    for (output, (relation, field)) in outputs.into_iter().zip(schema.iter().skip(kept)) {
        if is_function(inner(&output)) {
            functions.push(output);
            computed.push(Expr::Column(Column::new(relation.cloned(), field.name())));
            continue;
        }
        let above = output.rewrite_down(&mut |part| {
            if !is_function(&part) {
                return Ok(Transformed::no(part));
            }
            let name = format!("buzz_computed_{}", functions.len());
            functions.push(part.alias(name.as_str()));
            let column = Expr::Column(Column::new_unqualified(name));
            Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
        })?;
        computed.push(above.data.unalias().alias_qualified(relation.cloned(), field.name()));
    }
    Ok((functions, computed))
}

/// Returns the first columns of `schema`, and `outputs` in place of the others.
fn projected(schema: &DFSchema, outputs: Vec<Expr>) -> Vec<Expr> {
    let kept = schema.fields().len() - outputs.len();
    // A later rule adds the number of the grouping set to aggregates that need it.
    let named = schema.iter().take(kept).filter(|(_, field)| field.name() != Aggregate::INTERNAL_GROUPING_ID);
    let columns = named.map(|(relation, field)| Column::new(relation.cloned(), field.name()));
    columns.map(Expr::Column).chain(outputs).collect()
}
