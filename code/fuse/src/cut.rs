//! Cuts the plan of one statement: what each HBee can do on its own becomes fragments, the rest reads their results from
//! inboxes.
//!
//! A fragment begins at a scan and takes in what stands above it for as long as its rows do not depend on rows of other
//! tasks: filters, projections, unnesting, *partial* aggregates, local top-k and limits. A top-k stays on both sides.
//! Where the planner wants the rows hashed, they are delivered hashed and the exchange is gone.

use std::sync::Arc;

use buzz_exchange::InboxExec;
use buzz_protocol::{QueryError, Result, StageId};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, Partitioning, ReplaceChildrenOptions};

use crate::table::{InboxTarget, scan_number};

/// A plan that was cut.
#[derive(Debug)]
pub struct Cut {
    /// What combs do; its leaves are inboxes.
    pub reduce: Arc<dyn ExecutionPlan>,
    /// What HBees do; the position of each is its stage.
    pub fragments: Vec<Fragment>,
}

/// What HBees do for one scan.
#[derive(Debug)]
pub struct Fragment {
    /// The plan; its only leaf is the scan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The number of the table that is scanned.
    pub table: usize,
    /// Columns by whose hash its rows are delivered; none to deliver them in turn.
    pub keys: Vec<usize>,
    /// What the scan's rows must pass, over the columns of the scan's table.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
}

/// Cuts `plan`. The same plan is always cut in the same way.
///
/// # Errors
/// `Internal` when a fragment contradicts itself.
pub fn cut(plan: Arc<dyn ExecutionPlan>, target: InboxTarget) -> Result<Cut> {
    let mut fragments = Vec::new();
    let reduce = cut_node(plan, target, &mut fragments)?;
    Ok(Cut { reduce, fragments })
}

fn cut_node(
    node: Arc<dyn ExecutionPlan>,
    target: InboxTarget,
    fragments: &mut Vec<Fragment>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    if let Some((input, keys)) = hashed_fragment(&node) {
        return leaf(&input, keys, target, fragments);
    }
    if scan_of_fragment(&node).is_some() {
        let inbox = leaf(&node, Vec::new(), target, fragments)?;
        return again(&node, inbox);
    }
    let children: Vec<_> = node.children().into_iter().cloned().collect();
    if children.is_empty() {
        return Ok(node);
    }
    let children = children.into_iter().map(|child| cut_node(child, target, fragments)).collect::<Result<_, _>>()?;
    node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// The input of an exchange by the hash of plain columns, if that is a fragment.
fn hashed_fragment(node: &Arc<dyn ExecutionPlan>) -> Option<(Arc<dyn ExecutionPlan>, Vec<usize>)> {
    let exchange = node.downcast_ref::<RepartitionExec>()?;
    let Partitioning::Hash(keys, _) = exchange.partitioning() else {
        return None;
    };
    scan_of_fragment(exchange.input())?;
    let columns = keys.iter().map(|key| key.downcast_ref::<Column>().map(Column::index)).collect::<Option<Vec<_>>>()?;
    Some((Arc::clone(exchange.input()), columns))
}

/// The scan from which `node` can be computed by each task on its own, if it can.
fn scan_of_fragment(node: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    if let Some(source) = node.downcast_ref::<DataSourceExec>() {
        return source.data_source().downcast_ref::<FileScanConfig>().filter(|scan| scan_number(scan).is_some());
    }
    let alone = if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        // Partial states that depend on an order are computed from sorted rows.
        if let Some(sort) = aggregate.input().downcast_ref::<SortExec>()
            && *aggregate.mode() == AggregateMode::Partial
        {
            return scan_of_fragment(sort.input());
        }
        *aggregate.mode() == AggregateMode::Partial
    } else if let Some(sort) = node.downcast_ref::<SortExec>() {
        sort.fetch().is_some() && sort.preserve_partitioning()
    } else if let Some(exchange) = node.downcast_ref::<RepartitionExec>() {
        matches!(exchange.partitioning(), Partitioning::RoundRobinBatch(_))
    } else {
        node.downcast_ref::<FilterExec>().is_some()
            || node.downcast_ref::<ProjectionExec>().is_some()
            || node.downcast_ref::<LocalLimitExec>().is_some()
            || node.downcast_ref::<UnnestExec>().is_some()
            || node.downcast_ref::<CooperativeExec>().is_some()
    };
    match node.children().as_slice() {
        [child] if alone => scan_of_fragment(child),
        _ => None,
    }
}

/// The inbox that takes the rows of `input`, which becomes a fragment.
fn leaf(
    input: &Arc<dyn ExecutionPlan>,
    keys: Vec<usize>,
    target: InboxTarget,
    fragments: &mut Vec<Fragment>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let internal = |what: &str| QueryError::internal(what).into_datafusion();
    let scan = scan_of_fragment(input).ok_or_else(|| internal("a fragment without a scan"))?;
    let table = scan_number(scan).ok_or_else(|| internal("a scan without a table"))?;
    let predicate = scan.file_source().filter();
    let stage = u32::try_from(fragments.len()).map_err(|_| internal("a plan with 2^32 scans"))?;
    let (partitions, step) = (0..target.partitions, format!("map_{stage}"));
    let schema = input.schema();
    let inbox = InboxExec::divided_by(keys.clone(), target.query, StageId(stage), step, partitions, schema);
    fragments.push(Fragment { plan: without_exchanges(input)?, table, keys, predicate });
    Ok(Arc::new(inbox))
}

/// A task reads its files as one partition, which nothing needs to divide.
fn without_exchanges(plan: &Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan)
        .transform_up(|node| match node.downcast_ref::<RepartitionExec>() {
            Some(exchange) => Ok(Transformed::yes(Arc::clone(exchange.input()))),
            None => Ok(Transformed::no(node)),
        })
        .data()
}

/// A top-k of each task is not yet the top-k: it stands above the inbox once more.
fn again(node: &Arc<dyn ExecutionPlan>, inbox: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    match node.downcast_ref::<SortExec>() {
        Some(_) => {
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Arc::clone(node).replace_children(vec![inbox], options)
        }
        None => Ok(inbox),
    }
}
