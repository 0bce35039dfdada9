//! Keeps limits above the operators that remove rows.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::cut::is_window;
use crate::trees::Tree;

/// Replaces the limit of a sort by a limit above the sort, if its input may already be in order.
///
/// DataFusion drops such a sort and gives its limit to the next sort below, also past a filter, a window or a DISTINCT,
/// where it drops rows that the answer needs. Another rule unites limits and sorts again, after sorts have their places.
#[derive(Debug)]
pub(super) struct LimitsAboveSorts;

impl PhysicalOptimizerRule for LimitsAboveSorts {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.rewrite_up(&mut |node| {
            let Some(sort) = node.downcast_ref::<SortExec>() else { return Ok(Transformed::no(node)) };
            let Some(fetch) = sort.fetch() else { return Ok(Transformed::no(node)) };
            let ordered = sort.input().properties().equivalence_properties().ordering_satisfy(sort.expr().clone())?;
            if sort.preserve_partitioning() || !(ordered || reads_window(sort.input())) {
                return Ok(Transformed::no(node));
            }
            let sorted = SortExec::new(sort.expr().clone(), Arc::clone(sort.input()));
            Ok(Transformed::yes(Arc::new(GlobalLimitExec::new(Arc::new(sorted), 0, Some(fetch))) as _))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "limits_above_sorts"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Checks if a window is computed below `plan`, before the next sort.
fn reads_window(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.downcast_ref::<SortExec>().is_some() {
        return false;
    }
    is_window(plan) || matches!(plan.children().as_slice(), [child] if reads_window(child))
}

/// Removes the limits of aggregates that have a limit without an order, if their input is in order: they cannot run.
///
/// # Errors
/// `Internal` if the plan is inconsistent.
pub(crate) fn without_unordered_limits(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.rewrite_up(&mut |node| {
        let Some(aggregate) = node.downcast_ref::<AggregateExec>() else { return Ok(Transformed::no(node)) };
        let unordered = aggregate.limit_options().is_some_and(|limit| limit.descending.is_none());
        if !unordered || aggregate.is_unordered_unfiltered_group_by_distinct() {
            return Ok(Transformed::no(node));
        }
        Ok(Transformed::yes(Arc::new(aggregate.with_new_limit_options(None)) as _))
    })
    .data()
}
