//! Operators that may end before they have read all rows.

use std::sync::Arc;

use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// Checks if the operator `node` may end before it has read all rows of its input `index`.
pub fn may_end_before(node: &Arc<dyn ExecutionPlan>, index: usize) -> bool {
    let name = node.name();
    if node.downcast_ref::<RecursiveQueryExec>().is_some() {
        return true;
    }
    let limited = node.downcast_ref::<AggregateExec>().is_some_and(|node| node.limit_options().is_some());
    // A top-k reads all rows, unless they are sorted by its first keys.
    let top_k = node.downcast_ref::<SortExec>().is_some_and(|sort| sort.input().output_ordering().is_none());
    if limited || node.fetch().is_some() && !top_k || name.ends_with("LimitExec") || name.ends_with("SubqueryExec") {
        return true;
    }
    // These joins read their left input first, to its end. If it is empty, they may not read the other one.
    let left_first = ["HashJoinExec", "NestedLoopJoinExec", "CrossJoinExec"].contains(&name);
    name.ends_with("JoinExec") && !(left_first && index == 0)
}
