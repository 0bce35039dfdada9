//! Checks that a plan survives its encoding.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};

/// Compares `planned` with `decoded`, the plan that its encoding decodes to. Returns a description of the first operator
/// that lost something: a column, a parameter, its partitioning or its ordering. The nullability of columns may differ.
/// Of a scan, only the columns are compared: the worker restores its files, its format and its order.
pub fn lost_on_the_wire(planned: &Arc<dyn ExecutionPlan>, decoded: &Arc<dyn ExecutionPlan>) -> Option<String> {
    let name = planned.name();
    if decoded.name() != name {
        return Some(format!("{name} becomes {}", decoded.name()));
    }
    // A table function always has columns. Without them its plan has a projection, which is neither encoded nor shown.
    if planned.downcast_ref::<LazyMemoryExec>().is_some() && planned.schema().fields().is_empty() {
        return Some(format!("{name} loses its projection"));
    }
    let (before, after) = (planned.children(), decoded.children());
    if before.len() != after.len() {
        return Some(format!("{name} has {} inputs instead of {}", after.len(), before.len()));
    }
    if let Some(lost) = before.into_iter().zip(after).find_map(|(before, after)| lost_on_the_wire(before, after)) {
        return Some(lost);
    }
    let of = |plan: &Arc<dyn ExecutionPlan>| {
        let ordering = plan.output_ordering().map(ToString::to_string).unwrap_or_default();
        if plan.downcast_ref::<DataSourceExec>().is_some() {
            return vec![("columns", columns(&plan.schema()))];
        }
        vec![
            ("columns", columns(&plan.schema())),
            ("parameters", displayable(plan.as_ref()).one_line().to_string().trim().to_string()),
            ("partitioning", plan.output_partitioning().to_string()),
            ("ordering", ordering),
        ]
    };
    of(planned).into_iter().zip(of(decoded)).find_map(|((what, before), (_, after))| {
        (before != after).then(|| format!("{name} loses its {what}: `{before}` becomes `{after}`"))
    })
}

fn columns(schema: &Schema) -> String {
    let columns: Vec<_> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    columns.join(", ")
}
