//! Restores the order of rows that a divided plan loses between combs.
//!
//! Rows that pass a shuffle between combs arrive in no order, and the encoding of an exchange has no ordering. But
//! `datafusion-distributed` divides the plan after the planner has chosen its sorts, so an operator above an exchange may
//! rely on an order that the exchange does not keep: a window would divide its rows wrongly or fail.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};
use datafusion_distributed::{NetworkBoundaryExt, NetworkCoalesceExec};

use crate::cut::{is_window, missing_order, sorted};

type Plan = Arc<dyn ExecutionPlan>;

/// Sorts the inputs of the divided `plan` that their readers require in an order that an exchange loses.
///
/// # Errors
/// If the plan is inconsistent.
pub(crate) fn ordered(plan: &Plan) -> Result<Plan> {
    Ok(restored(plan)?.sent)
}

/// A plan, and the same plan with the properties that its rows have.
struct Restored {
    sent: Plan,
    /// The plan over exchanges without an order. It is never run.
    seen: Plan,
}

fn restored(node: &Plan) -> Result<Restored> {
    let children: Vec<Plan> = node.children().into_iter().cloned().collect();
    if children.is_empty() {
        return Ok(Restored { sent: Arc::clone(node), seen: Arc::clone(node) });
    }
    let mut below = children.iter().map(restored).collect::<Result<Vec<_>>>()?;
    let boundary = node.is_network_boundary();
    if !boundary {
        for (index, (input, order)) in below.iter_mut().zip(node.required_input_ordering()).enumerate() {
            // Coalescing keeps the order of each partition, which is all that a merge needs.
            let merged = node.downcast_ref::<SortPreservingMergeExec>().is_some()
                && input.sent.downcast_ref::<NetworkCoalesceExec>().is_some();
            let properties_of = if merged { &children[index] } else { &input.seen };
            if let Some(order) = missing_order(properties_of, order, is_window(node))? {
                input.sent = sorted(Arc::clone(&input.sent), order.clone());
                input.seen = sorted(Arc::clone(&input.seen), order);
            }
        }
    }
    let (sent, seen): (Vec<Plan>, Vec<Plan>) = below.into_iter().map(|input| (input.sent, input.seen)).unzip();
    let changed = sent.iter().zip(&children).any(|(new, old)| !Arc::ptr_eq(new, old));
    let over = |inputs| {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        Arc::clone(node).replace_children(inputs, options)
    };
    Ok(Restored {
        sent: if changed { over(sent)? } else { Arc::clone(node) },
        seen: if boundary { without_order(node)? } else { over(seen)? },
    })
}

/// Returns a leaf with the schema and the partitioning of `node`, and without an order.
fn without_order(node: &Plan) -> Result<Plan> {
    let leaf = Arc::new(EmptyExec::new(node.schema()));
    Ok(Arc::new(RepartitionExec::try_new(leaf, node.properties().partitioning.clone())?))
}
