//! Makes a limit count once if several combs reduce.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::limit::GlobalLimitExec;

use crate::trees::Tree;

/// Puts a limit above each operator that unites partitions and has a limit itself.
///
/// The distributed planner broadcasts the build side of a join. It broadcasts the partitions below an operator that unites
/// them, and each comb unites them itself. With a limit, each comb would then keep other rows. A limit above has one
/// partition, so it is broadcast with the limit applied.
///
/// # Errors
/// If an operator does not accept its changed input.
pub(crate) fn limited_once(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.rewrite_up(&mut |node| {
        let fetch = node.downcast_ref::<CoalescePartitionsExec>().and_then(|united| united.fetch());
        Ok(match fetch {
            Some(_) => Transformed::yes(Arc::new(GlobalLimitExec::new(node, 0, fetch)) as Arc<dyn ExecutionPlan>),
            None => Transformed::no(node),
        })
    })
    .data()
}
