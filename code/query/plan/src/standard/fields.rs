//! Fields of structs.
//!
//! DataFusion reads the field of a struct without looking at the struct: where that is null, the field may have a value that it hides,
//! as in `nullif(s, s)['x']`. Structs in tables hide nothing.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use buzz_kernel::plain_struct;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::overflow::type_of;

/// Returns the structs that the expressions of `node` may read as a table has them.
pub(super) fn stored(node: &LogicalPlan) -> HashSet<Column> {
    let mut columns = HashSet::new();
    let inputs = if matches!(node, LogicalPlan::TableScan(_)) { vec![node] } else { node.inputs() };
    for input in inputs {
        for (index, (relation, field)) in input.schema().iter().enumerate() {
            if matches!(field.data_type(), DataType::Struct(_)) && is_stored(input, index) {
                columns.insert(Column::new(relation.cloned(), field.name()));
            }
        }
    }
    columns
}

/// Checks if column `index` of `plan` is one of a table.
fn is_stored(plan: &LogicalPlan, index: usize) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Projection(projection) => match projection.expr.get(index).map(unaliased) {
            Some(Expr::Column(column)) => projection
                .input
                .schema()
                .maybe_index_of_column(column)
                .is_some_and(|at| is_stored(&projection.input, at)),
            _ => false,
        },
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Window(_) => {
            let mut first = 0;
            for input in plan.inputs() {
                let count = input.schema().fields().len();
                if index < first + count {
                    return is_stored(input, index - first);
                }
                first += count;
            }
            false
        }
        _ => false,
    }
}

fn unaliased(expression: &Expr) -> &Expr {
    match expression {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// Makes `expression`, if it reads a field of a struct that is not among those that are `stored`, read it without hidden values.
pub(super) fn masked(expression: Expr, schema: &DFSchema, stored: &HashSet<Column>) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expression else { return Ok(Transformed::no(expression)) };
    let hides = match call.args.first() {
        _ if call.name() != "get_field" => false,
        Some(Expr::Column(column)) => !stored.contains(column),
        // What the field of a struct without hidden values is, has none.
        Some(Expr::ScalarFunction(inner)) => !["get_field", "buzz_struct", "named_struct"].contains(&inner.name()),
        Some(Expr::OuterReferenceColumn(..)) | None => false,
        Some(_) => true,
    };
    match call.args.first_mut() {
        Some(base) if hides && matches!(type_of(base, schema)?, DataType::Struct(_)) => {
            *base = plain_struct().call(vec![base.clone()]);
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        _ => Ok(Transformed::no(Expr::ScalarFunction(call))),
    }
}
