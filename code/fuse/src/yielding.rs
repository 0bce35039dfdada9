//! Joins that can be stopped.

use std::sync::Arc;

use buzz_protocol::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

/// The same plan, whose joins give up their thread from time to time. Of one batch a join may make any number, and as long
/// as it does, nothing else happens on its thread: no time limit, no cancellation, no delivery. The planner has scans and
/// exchanges give it up, of which there may be none for long.
///
/// # Errors
/// `Internal` when the plan contradicts itself.
pub fn yielding(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let after_joins = |node: Arc<dyn ExecutionPlan>| {
        let joins = node.children().len() == 2 && node.name().ends_with("JoinExec");
        Ok(if joins { Transformed::yes(Arc::new(CooperativeExec::new(node)) as _) } else { Transformed::no(node) })
    };
    Ok(plan.transform_up(after_joins).data()?)
}
