//! Fields of structs.
//!
//! DataFusion reads the field of a struct without looking at the struct: where that is null, the field may have a value that it hides,
//! as in `nullif(s, s)['x']`. Structs in tables hide nothing.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use buzz_kernel::plain_struct;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::overflow::type_of;
use crate::table::InboxTable;

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
        // The rows of other stages are computed.
        LogicalPlan::TableScan(scan) => {
            !scan.table_name.table().starts_with("__slot")
                && !source_as_provider(&scan.source)
                    .is_ok_and(|provider| provider.downcast_ref::<InboxTable>().is_some())
        }
        LogicalPlan::Union(union) => union.inputs.iter().all(|input| is_stored(input, index)),
        LogicalPlan::Join(join)
            if matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark) =>
        {
            is_stored(&join.right, index)
        }
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

/// Makes `expression`, if it reads fields of a struct that is not among those that are `stored`, read it without hidden values.
pub(super) fn masked(expression: Expr, schema: &DFSchema, stored: &HashSet<Column>) -> Result<Transformed<Expr>> {
    match expression {
        Expr::ScalarFunction(mut call) if call.name() == "get_field" => {
            let changed = match call.args.first_mut() {
                Some(base) => mask(base, schema, stored)?,
                None => false,
            };
            Ok(Transformed::new_transformed(Expr::ScalarFunction(call), changed))
        }
        // The planner names so what UNNEST divides into fields.
        Expr::Alias(mut alias) if alias.name.starts_with("__unnest_placeholder") => {
            let changed = mask(&mut alias.expr, schema, stored)?;
            Ok(Transformed::new_transformed(Expr::Alias(alias), changed))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Removes what `base` hides, if it is a struct that may hide something. Returns true then.
fn mask(base: &mut Expr, schema: &DFSchema, stored: &HashSet<Column>) -> Result<bool> {
    let hides = match &*base {
        Expr::Column(column) => !stored.contains(column),
        // A struct that is read from a struct without hidden values has none.
        Expr::ScalarFunction(inner) => !["get_field", "buzz_struct"].contains(&inner.name()),
        Expr::OuterReferenceColumn(..) => false,
        _ => true,
    };
    if !hides {
        return Ok(false);
    }
    let DataType::Struct(fields) = type_of(base, schema)? else { return Ok(false) };
    // The optimizer replaces a field of these by what it is made of, which may be a struct.
    let is_made = matches!(&*base, Expr::ScalarFunction(inner) if inner.name() == "named_struct");
    if is_made && !fields.iter().any(|field| matches!(field.data_type(), DataType::Struct(_))) {
        return Ok(false);
    }
    *base = plain_struct().call(vec![base.clone()]);
    Ok(true)
}
