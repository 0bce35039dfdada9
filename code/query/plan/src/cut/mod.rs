//! Cuts the plan of one statement: the parts that each HBee can compute on its own become fragments. The rest becomes
//! the reduce plan, which reads the fragments' rows from inboxes.
//!
//! A fragment begins at a scan and includes the operators above it whose rows do not depend on rows of other tasks:
//! filters, projections, unnesting, *partial* aggregates, local top-k and limits, and broadcast joins whose build side
//! is small enough for every task to read ([`CutRules`]). A top-k stays on both sides. If the next operator requires
//! hash-partitioned rows, tasks deliver them hash-partitioned and the exchange is removed. Partial aggregates over a
//! UNION are first moved below it.
//!
//! Read in this order: this file (the cut), `fragment` (finding fragments), `planner` (adjustments, since the planner
//! planned one plan).

mod fragment;
mod planner;
mod rules;
mod scan;

use std::sync::Arc;

use buzz_exchange::InboxExec;
use buzz_protocol::{QueryError, Result, StageId};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use self::fragment::{Scans, hashed_fragment, scan_of_fragment, without_exchanges};
use self::planner::below_unions;
pub(crate) use self::planner::{divided_alike, in_order, is_window, missing_order, sorted};
pub(crate) use self::rules::CutRules;
pub(crate) use self::rules::TableCost;
pub(crate) use self::scan::Scan;
pub use self::scan::ScanSource;
use crate::table::InboxTarget;

/// A plan that was cut.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The reduce plan; its leaves are inboxes.
    pub reduce: Arc<dyn ExecutionPlan>,
    /// The fragments that HBees run; the stage of the first is [`CutRules::first_stage`].
    pub fragments: Vec<Fragment>,
}

/// The plan that the tasks of one stage run.
#[derive(Debug)]
pub(crate) struct Fragment {
    /// The plan; its leaves are scans.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The scan whose files are divided among the tasks.
    pub scan: Scan,
    /// The scans that every task runs completely.
    pub builds: Vec<Scan>,
    /// The source of each leaf, in pre-order.
    pub sources: Vec<ScanSource>,
    /// Columns by which delivered rows are hash-partitioned; empty for round-robin.
    pub keys: Vec<usize>,
}

/// Cuts `plan` into fragments and a reduce plan. The same plan is always cut in the same way.
///
/// # Errors
/// `Internal` when a fragment is inconsistent.
pub(crate) fn cut(plan: Arc<dyn ExecutionPlan>, rules: &CutRules, target: InboxTarget) -> Result<Cut> {
    let mut cutter = Cutter { rules, target, fragments: Vec::new() };
    let reduce = cutter.node(below_unions(plan)?)?;
    Ok(Cut { reduce, fragments: cutter.fragments })
}

struct Cutter<'a> {
    rules: &'a CutRules,
    target: InboxTarget,
    fragments: Vec<Fragment>,
}

impl Cutter<'_> {
    fn node(&mut self, node: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if let Some((input, keys)) = hashed_fragment(&node, self.rules) {
            return self.leaf(&input, keys);
        }
        if scan_of_fragment(&node, self.rules).is_some() {
            let inbox = self.leaf(&node, Vec::new())?;
            return again(&node, inbox);
        }
        let children: Vec<_> = node.children().into_iter().cloned().collect();
        if children.is_empty() {
            return Ok(node);
        }
        let children = children.into_iter().map(|child| self.node(child)).collect::<Result<Vec<_>, _>>()?;
        let children = children.into_iter().zip(node.required_input_ordering());
        let children =
            children.map(|(child, order)| in_order(child, order, is_window(&node))).collect::<Result<Vec<_>, _>>()?;
        let children = divided_alike(&node, children)?;
        node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    /// Makes `input` a fragment and returns the inbox that receives its rows.
    fn leaf(&mut self, input: &Arc<dyn ExecutionPlan>, keys: Vec<usize>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let stage = u32::try_from(self.fragments.len())
            .map_err(|_| QueryError::internal("a plan with 2^32 scans").into_datafusion())?;
        let stage = self.rules.first_stage + stage;
        let (partitions, step) = (0..self.target.partitions, format!("map_{stage}"));
        let inbox =
            InboxExec::divided_by(keys.clone(), self.target.query, StageId(stage), step, partitions, input.schema());
        let mut scans = Scans::default();
        scans.visit(input, true)?;
        let scan =
            scans.shared_out.ok_or_else(|| QueryError::internal("a fragment without a scan").into_datafusion())?;
        let (builds, sources) = (scans.builds, scans.sources);
        self.fragments.push(Fragment { plan: without_exchanges(input)?, scan, builds, sources, keys });
        Ok(Arc::new(inbox))
    }
}

/// Repeats a top-k above the inbox, since the top-k of each task is not yet the global one.
fn again(node: &Arc<dyn ExecutionPlan>, inbox: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    match node.downcast_ref::<SortExec>() {
        Some(_) => {
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Arc::clone(node).replace_children(vec![inbox], options)
        }
        None => Ok(inbox),
    }
}
