//! Cuts the plan of one statement: what each HBee can do on its own becomes fragments, the rest reads their results from
//! inboxes.
//!
//! A fragment begins at a scan and takes in what stands above it for as long as its rows do not depend on rows of other
//! tasks: filters, projections, unnesting, *partial* aggregates, local top-k and limits, and joins whose build side every
//! task can afford to read whole. A top-k stays on both sides. Where the planner wants the rows hashed, they are delivered
//! hashed and the exchange is gone. Partial aggregates over a UNION are first moved below it.
//!
//! Read in this order: this file (the cut), `fragment` (what a task can do on its own), `planner` (what has to be
//! mended, since the planner saw one plan).

mod fragment;
mod planner;

use std::sync::Arc;

use buzz_exchange::InboxExec;
use buzz_protocol::{QueryError, Result, StageId};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use self::fragment::{Scans, hashed_fragment, scan_of_fragment, without_exchanges};
use self::planner::{below_unions, divided_alike, in_order, is_window};
use crate::plan::ScanSource;
use crate::table::InboxTarget;

/// What decides where a plan is cut. The same rules always cut the same plan alike.
#[derive(Debug, Clone, Default)]
pub struct CutRules {
    /// Of each table, by its number, what it would cost to read it.
    pub tables: Vec<TableCost>,
    /// Bytes of a join's build side, times the tasks that read it, up to which HBees do the join.
    pub build_bytes: u64,
}

impl CutRules {
    /// Whether each task over `table` can afford to read a build side of `bytes`: together they read no more than the
    /// option says, and not more for it than of their own table, unless it is next to nothing.
    fn affords(&self, bytes: u64, table: TableCost) -> bool {
        let together = bytes.saturating_mul(table.tasks);
        together <= self.build_bytes.min(table.bytes.max(BUILD_BYTES_FREE))
    }
}

/// Bytes of build sides that cost less to read than what an exchange of both sides takes.
const BUILD_BYTES_FREE: u64 = 8 << 20;

/// What it costs to read a table.
#[derive(Debug, Clone, Copy)]
pub struct TableCost {
    /// Bytes of its files.
    pub bytes: u64,
    /// Tasks that share them out.
    pub tasks: u64,
}

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
    /// The plan; its leaves are scans.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The scan whose files tasks share out.
    pub scan: Scan,
    /// The scans that every task does whole.
    pub builds: Vec<Scan>,
    /// Which of these each leaf is, in pre-order.
    pub sources: Vec<ScanSource>,
    /// Columns by whose hash its rows are delivered; none to deliver them in turn.
    pub keys: Vec<usize>,
}

/// A scan of a fragment.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The number of the table that is scanned.
    pub table: usize,
    /// What the rows must pass, over the columns of the table.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
}

/// Cuts `plan`. The same plan is always cut in the same way.
///
/// # Errors
/// `Internal` when a fragment contradicts itself.
pub fn cut(plan: Arc<dyn ExecutionPlan>, rules: &CutRules, target: InboxTarget) -> Result<Cut> {
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

    /// The inbox that takes the rows of `input`, which becomes a fragment.
    fn leaf(&mut self, input: &Arc<dyn ExecutionPlan>, keys: Vec<usize>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let stage = u32::try_from(self.fragments.len())
            .map_err(|_| QueryError::internal("a plan with 2^32 scans").into_datafusion())?;
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
