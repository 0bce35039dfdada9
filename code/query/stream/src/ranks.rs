//! Top rows of each window: before rows are sorted and brought together, each partition keeps those that can be among
//! them.
//!
//! `ROW_NUMBER() OVER (PARTITION BY window ORDER BY n DESC) <= 5` needs five rows of each window and partition. DataFusion
//! has an operator for that, [`PartitionedTopKExec`]. Its own rule puts it behind the exchange, and also if another window
//! function reads the rows that it drops, so it is off by default; this one is stricter.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use buzz_protocol::Result;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::window::StandardWindowExpr;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, split_conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::partitioned_topk::{PartitionedTopKExec, WindowFnKind};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowUDFExpr};

use crate::feed::FeedExec;

/// Adds the operator below each filter on `row_number()` or `rank()` by window.
pub(crate) fn limit_ranks(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let limited = plan.transform_down(|node| match limited(&node)? {
        Some(limited) => Ok(Transformed::yes(limited)),
        None => Ok(Transformed::no(node)),
    });
    Ok(limited.data()?)
}

/// The first rows of each key that a plan reads of a feed, by columns of the feed.
#[derive(Debug)]
pub(crate) struct Ranked {
    pub(crate) feed: String,
    /// The columns of the key.
    pub(crate) keys: Vec<usize>,
    /// The first column of the order.
    pub(crate) column: usize,
    pub(crate) order: SortOptions,
    /// Rows of a key that are read.
    pub(crate) fetch: usize,
}

/// Returns the feeds of which `plan`, after [`limit_ranks`], reads only the first rows of each key.
pub(crate) fn ranked(plan: &Arc<dyn ExecutionPlan>) -> Vec<Ranked> {
    let mut found = Vec::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        if let Some(top) = node.downcast_ref::<PartitionedTopKExec>() {
            found.extend(ranked_feed(top));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn ranked_feed(top: &PartitionedTopKExec) -> Option<Ranked> {
    let (mut names, mut columns) = (Vec::new(), Vec::new());
    let orders = top.expr().iter().take(top.partition_prefix_len() + 1);
    for order in orders.clone() {
        let (feed, column) = feed_column(top.input(), order.expr.downcast_ref::<Column>()?.index())?;
        names.push(feed);
        columns.push(column);
    }
    let feed = names.first()?.clone();
    let column = columns.pop().filter(|_| columns.len() == top.partition_prefix_len())?;
    let order = orders.last()?.options;
    names.iter().all(|name| *name == feed).then(|| Ranked { feed, keys: columns, column, order, fetch: top.fetch() })
}

/// Follows column `index` of `plan` to the feed that it comes from, if all rows of that come here.
fn feed_column(plan: &Arc<dyn ExecutionPlan>, index: usize) -> Option<(String, usize)> {
    if let Some(feed) = plan.downcast_ref::<FeedExec>() {
        return feed.column(index).map(|(feed, column)| (feed.to_string(), column));
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let column = projection.expr().get(index)?.expr.downcast_ref::<Column>()?;
        return feed_column(projection.input(), column.index());
    }
    let passes = plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>();
    passes.then(|| feed_column(plan.children()[0], index)).flatten()
}

type Plan = datafusion::error::Result<Option<Arc<dyn ExecutionPlan>>>;

fn limited(node: &Arc<dyn ExecutionPlan>) -> Plan {
    let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(None) };
    for condition in split_conjunction(filter.predicate()) {
        if let Some((column, fetch)) = bound(condition)
            && let Some(input) = below(filter.input(), column, fetch)?
        {
            return replace_children_if_necessary(Arc::clone(node), vec![input]).map(Some);
        }
    }
    Ok(None)
}

/// Reads `column <= number` and similar conditions: the column, and the largest value that it may have.
fn bound(condition: &Arc<dyn PhysicalExpr>) -> Option<(usize, usize)> {
    let binary = condition.downcast_ref::<BinaryExpr>()?;
    let column = |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Column>().map(Column::index);
    let number = |expr: &Arc<dyn PhysicalExpr>| {
        let value = expr.downcast_ref::<Literal>()?.value();
        let ScalarValue::UInt64(number) = value.cast_to(&DataType::UInt64).ok()? else { return None };
        value.data_type().is_integer().then_some(usize::try_from(number?).ok()?)
    };
    let (column, number, op) = match (column(binary.left()), number(binary.right())) {
        (Some(column), Some(number)) => (column, number, *binary.op()),
        _ => (column(binary.right())?, number(binary.left())?, binary.op().swap()?),
    };
    let most = match op {
        Operator::LtEq | Operator::Eq => number,
        Operator::Lt => number.checked_sub(1)?,
        _ => return None,
    };
    (most > 0).then_some((column, most))
}

/// Returns `plan` with the operator below the window function that computes `column`.
fn below(plan: &Arc<dyn ExecutionPlan>, column: usize, fetch: usize) -> Plan {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let source = projection.expr().get(column).and_then(|projected| projected.expr.downcast_ref::<Column>());
        let Some(source) = source else { return Ok(None) };
        return match below(projection.input(), source.index(), fetch)? {
            Some(input) => replace_children_if_necessary(Arc::clone(plan), vec![input]).map(Some),
            None => Ok(None),
        };
    }
    let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() else { return Ok(None) };
    // Another function would miss the rows that are dropped.
    let [function] = window.window_expr() else { return Ok(None) };
    let input = window.input();
    let kind = function.as_any().downcast_ref::<StandardWindowExpr>().and_then(|function| {
        let function = function.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>()?;
        match function.fun().name() {
            "row_number" => Some(WindowFnKind::RowNumber),
            "rank" => Some(WindowFnKind::Rank),
            _ => None,
        }
    });
    let Some(kind) = kind.filter(|_| column == input.schema().fields().len()) else { return Ok(None) };
    // The operator keeps a heap for each key, so these must be few: windows.
    let keys = function.partition_by();
    let is_window = |key: &Arc<dyn PhysicalExpr>| {
        key.data_type(&input.schema())
            .is_ok_and(|data_type| matches!(data_type, DataType::Struct(_) | DataType::Timestamp(..)))
    };
    if keys.is_empty() || !keys.iter().all(is_window) {
        return Ok(None);
    }
    let by_key = keys.iter().map(|key| PhysicalSortExpr::new_default(Arc::clone(key)));
    let Some(order) = LexOrdering::new(by_key.chain(function.order_by().iter().cloned())) else { return Ok(None) };
    // An ordering has each expression once.
    if order.len() != keys.len() + function.order_by().len() || function.order_by().is_empty() {
        return Ok(None);
    }
    let input = under_exchange(input, &|input| {
        Ok(Arc::new(PartitionedTopKExec::try_new(input, order.clone(), keys.len(), fetch, kind)?))
    })?;
    replace_children_if_necessary(Arc::clone(plan), vec![input]).map(Some)
}

type Wrap<'a> = &'a dyn Fn(Arc<dyn ExecutionPlan>) -> datafusion::error::Result<Arc<dyn ExecutionPlan>>;

/// Puts an operator below those that sort rows or bring them together.
fn under_exchange(plan: &Arc<dyn ExecutionPlan>, wrap: Wrap<'_>) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let sorts = plan.downcast_ref::<SortExec>().is_some_and(|sort| sort.fetch().is_none());
    if sorts || plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>() {
        let input = under_exchange(plan.children()[0], wrap)?;
        return replace_children_if_necessary(Arc::clone(plan), vec![input]);
    }
    wrap(Arc::clone(plan))
}
