//! Adjusts a plan before and after the cut, since the planner planned it as one plan.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr_common::sort_expr::{LexOrdering, OrderingRequirements};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec, can_interleave};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, Partitioning, ReplaceChildrenOptions};

use crate::trees::Tree;

/// Moves partial aggregates over a UNION below it, so that HBees compute them.
pub(super) fn below_unions(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    plan.rewrite_up(&mut |node| {
        let Some(aggregate) =
            node.downcast_ref::<AggregateExec>().filter(|node| *node.mode() == AggregateMode::Partial)
        else {
            return Ok(Transformed::no(node));
        };
        let mut below = aggregate.input();
        if let Some(exchange) = below.downcast_ref::<RepartitionExec>()
            && matches!(exchange.partitioning(), Partitioning::RoundRobinBatch(_))
        {
            below = exchange.input();
        }
        let Some(union) = below.downcast_ref::<UnionExec>() else {
            return Ok(Transformed::no(node));
        };
        let over = |part: &Arc<dyn ExecutionPlan>| {
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Arc::clone(&node).replace_children(vec![Arc::clone(part)], options)
        };
        let parts = union.inputs().iter().map(over).collect::<Result<Vec<_>, _>>()?;
        Ok(Transformed::yes(UnionExec::try_new(parts)?))
    })
    .data()
}

/// Sorts `input` if it does not satisfy `order`, the ordering that its reader requires. The planner may have relied on
/// a property of the rows below the cut (a constant column, for example) that an inbox does not have. With
/// `first_only`, only the first alternative of `order` counts: a window is planned for that one.
pub(crate) fn in_order(
    input: Arc<dyn ExecutionPlan>,
    order: Option<OrderingRequirements>,
    first_only: bool,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    Ok(match missing_order(&input, order, first_only)? {
        Some(order) => sorted(input, order),
        None => input,
    })
}

/// Returns the ordering by which `input` must be sorted to satisfy `order`, if it does not. As [`in_order`].
pub(crate) fn missing_order(
    input: &Arc<dyn ExecutionPlan>,
    order: Option<OrderingRequirements>,
    first_only: bool,
) -> DataFusionResult<Option<LexOrdering>> {
    let Some((mut alternatives, false)) = order.map(OrderingRequirements::into_alternatives) else {
        return Ok(None);
    };
    if first_only {
        alternatives.truncate(1);
    }
    for alternative in &alternatives {
        if input.properties().equivalence_properties().ordering_satisfy_requirement(alternative.clone())? {
            return Ok(None);
        }
    }
    Ok(alternatives.into_iter().next().map(LexOrdering::from))
}

/// Sorts each partition of `input`.
pub(crate) fn sorted(input: Arc<dyn ExecutionPlan>, order: LexOrdering) -> Arc<dyn ExecutionPlan> {
    let each = input.properties().partitioning.partition_count() > 1;
    Arc::new(SortExec::new(order, input).with_preserve_partitioning(each))
}

/// Checks if `node` computes window functions.
pub(crate) fn is_window(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.downcast_ref::<BoundedWindowAggExec>().is_some() || node.downcast_ref::<WindowAggExec>().is_some()
}

/// Repartitions the inputs of `node` if it interleaves them and they are no longer partitioned alike after the cut.
pub(crate) fn divided_alike(
    node: &Arc<dyn ExecutionPlan>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
) -> DataFusionResult<Vec<Arc<dyn ExecutionPlan>>> {
    if node.downcast_ref::<InterleaveExec>().is_none() || can_interleave(inputs.iter()) {
        return Ok(inputs);
    }
    let divided = |input| {
        let exchange = RepartitionExec::try_new(input, node.properties().partitioning.clone())?;
        Ok(Arc::new(exchange) as Arc<dyn ExecutionPlan>)
    };
    inputs.into_iter().map(divided).collect()
}
