//! Makes joins yield, so that they can be cancelled.

use std::sync::Arc;

use buzz_protocol::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

/// Wraps the joins of `plan` so that they yield their thread regularly. A join may produce any number of batches from
/// one input batch and blocks its thread meanwhile: no timeout, cancellation or delivery can run. The planner makes
/// only scans and exchanges yield, and a join may run for long without reading from one.
///
/// # Errors
/// `Internal` when the rewritten plan is inconsistent.
pub fn yielding(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let after_joins = |node: Arc<dyn ExecutionPlan>| {
        let joins = node.children().len() == 2 && node.name().ends_with("JoinExec");
        Ok(if joins { Transformed::yes(Arc::new(CooperativeExec::new(node)) as _) } else { Transformed::no(node) })
    };
    Ok(plan.transform_up(after_joins).data()?)
}
