//! The planner saw one plan where there are several: what is moved before the cut, and mended after it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr_common::sort_expr::{LexOrdering, OrderingRequirements};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec, can_interleave};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, Partitioning, ReplaceChildrenOptions};

/// `plan` with partial aggregates over a UNION done for each of its parts: then HBees do them.
pub(super) fn below_unions(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
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

/// `input` in an order that its reader asks for. The planner may have found it in order by what it knew of the rows below
/// the cut, as that one of their columns is the same in all, which an inbox does not know. Of alternatives, `first_only`
/// takes the first: a window was planned for that one.
pub(super) fn in_order(
    input: Arc<dyn ExecutionPlan>,
    order: Option<OrderingRequirements>,
    first_only: bool,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let Some((mut alternatives, false)) = order.map(OrderingRequirements::into_alternatives) else {
        return Ok(input);
    };
    if first_only {
        alternatives.truncate(1);
    }
    for alternative in &alternatives {
        if input.properties().equivalence_properties().ordering_satisfy_requirement(alternative.clone())? {
            return Ok(input);
        }
    }
    let Some(first) = alternatives.into_iter().next() else {
        return Ok(input);
    };
    let each = input.properties().partitioning.partition_count() > 1;
    Ok(Arc::new(SortExec::new(LexOrdering::from(first), input).with_preserve_partitioning(each)))
}

/// Whether `node` computes window functions.
pub(super) fn is_window(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.downcast_ref::<BoundedWindowAggExec>().is_some() || node.downcast_ref::<WindowAggExec>().is_some()
}

/// The inputs of `node`, which if it interleaves them must be divided alike: also that the planner may only have known.
pub(super) fn divided_alike(
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
