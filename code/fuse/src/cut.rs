//! Cuts the plan of one statement: what each HBee can do on its own becomes fragments, the rest reads their results from
//! inboxes.
//!
//! A fragment begins at a scan and takes in what stands above it for as long as its rows do not depend on rows of other
//! tasks: filters, projections, unnesting, *partial* aggregates, local top-k and limits, and joins whose build side every
//! task can afford to read whole. A top-k stays on both sides. Where the planner wants the rows hashed, they are delivered
//! hashed and the exchange is gone. Partial aggregates over a UNION are first moved below it.

use std::sync::Arc;

use buzz_exchange::InboxExec;
use buzz_protocol::{QueryError, Result, StageId};
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_expr_common::sort_expr::{LexOrdering, OrderingRequirements};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec, can_interleave};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, Partitioning, ReplaceChildrenOptions};

use crate::plan::ScanSource;
use crate::table::{InboxTarget, scan_number};

/// What decides where a plan is cut. The same rules always cut the same plan alike.
#[derive(Debug, Clone, Default)]
pub struct CutRules {
    /// Of each table, by its number, what it would cost to read it.
    pub tables: Vec<TableCost>,
    /// Bytes of a join's build side, times the tasks that read it, up to which HBees do the join.
    pub build_bytes: u64,
}

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
        let children = children.map(|(child, order)| in_order(child, order)).collect::<Result<Vec<_>, _>>()?;
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

/// `input` in an order that its reader asks for. The planner may have found it in order by what it knew of the rows below
/// the cut, as that two of their columns are equal, which an inbox does not know.
fn in_order(
    input: Arc<dyn ExecutionPlan>,
    order: Option<OrderingRequirements>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let Some((alternatives, false)) = order.map(OrderingRequirements::into_alternatives) else {
        return Ok(input);
    };
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

/// The inputs of `node`, which if it interleaves them must be divided alike: also that the planner may only have known.
fn divided_alike(
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

/// `plan` with partial aggregates over a UNION done for each of its parts: then HBees do them.
fn below_unions(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
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

/// The scans of a fragment, in pre-order.
#[derive(Default)]
struct Scans {
    shared_out: Option<Scan>,
    builds: Vec<Scan>,
    sources: Vec<ScanSource>,
}

impl Scans {
    fn visit(&mut self, node: &Arc<dyn ExecutionPlan>, shared_out: bool) -> DataFusionResult<()> {
        if let Some(config) = file_scan(node) {
            let internal = || QueryError::internal("a scan without a table").into_datafusion();
            let table = scan_number(config).ok_or_else(internal)?;
            let scan = Scan { table, predicate: config.file_source().filter() };
            if shared_out {
                self.shared_out = Some(scan);
                self.sources.push(ScanSource::Splits);
            } else {
                self.sources.push(ScanSource::Build(self.builds.len()));
                self.builds.push(scan);
            }
            return Ok(());
        }
        match join_sides(node) {
            Some((build, probe)) => {
                self.visit(build, false)?;
                self.visit(probe, shared_out)
            }
            None => node.children().into_iter().try_for_each(|child| self.visit(child, shared_out)),
        }
    }
}

fn file_scan(node: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source = node.downcast_ref::<DataSourceExec>()?;
    source.data_source().downcast_ref::<FileScanConfig>().filter(|scan| scan_number(scan).is_some())
}

/// The input of an exchange by the hash of plain columns, if that is a fragment.
fn hashed_fragment(node: &Arc<dyn ExecutionPlan>, rules: &CutRules) -> Option<(Arc<dyn ExecutionPlan>, Vec<usize>)> {
    let exchange = node.downcast_ref::<RepartitionExec>()?;
    let Partitioning::Hash(keys, _) = exchange.partitioning() else {
        return None;
    };
    scan_of_fragment(exchange.input(), rules)?;
    let columns = keys.iter().map(|key| key.downcast_ref::<Column>().map(Column::index)).collect::<Option<Vec<_>>>()?;
    Some((Arc::clone(exchange.input()), columns))
}

/// The scan from whose splits `node` can be computed by each task on its own, if it can.
fn scan_of_fragment<'a>(node: &'a Arc<dyn ExecutionPlan>, rules: &CutRules) -> Option<&'a FileScanConfig> {
    if node.downcast_ref::<DataSourceExec>().is_some() {
        return file_scan(node);
    }
    if let Some((build, probe)) = join_sides(node) {
        let scan = scan_of_fragment(probe, rules)?;
        let tasks = rules.tables.get(scan_number(scan)?)?.tasks;
        let bytes = bytes_of_build(build, rules)?;
        return (bytes.saturating_mul(tasks) <= rules.build_bytes).then_some(scan);
    }
    let alone = if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        // Partial states that depend on an order are computed from sorted rows.
        if let Some(sort) = aggregate.input().downcast_ref::<SortExec>()
            && *aggregate.mode() == AggregateMode::Partial
        {
            return scan_of_fragment(sort.input(), rules);
        }
        if aggregate.group_expr().has_grouping_set() && reads_no_file(node, rules) {
            // The total over no rows is a row, and there is no task to make it.
            return None;
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
        [child] if alone => scan_of_fragment(child, rules),
        _ => None,
    }
}

type PlanNode = Arc<dyn ExecutionPlan>;

/// Whether the table whose files tasks would share out for `node` has none.
fn reads_no_file(node: &PlanNode, rules: &CutRules) -> bool {
    let mut scans = Scans::default();
    let table = scans.visit(node, true).ok().and(scans.shared_out).and_then(|scan| rules.tables.get(scan.table));
    table.is_some_and(|table| table.tasks == 0)
}

/// The build and the probe side of a join that reads its whole build side first and of it gives nothing on its own: each
/// row of its result stems from a row of the probe side, so whoever has part of the probe side computes part of the result.
fn join_sides(node: &Arc<dyn ExecutionPlan>) -> Option<(&PlanNode, &PlanNode)> {
    let gives_probe_rows = |kind: &JoinType| {
        use JoinType::{Inner, Right, RightAnti, RightMark, RightSemi};
        matches!(kind, Inner | Right | RightSemi | RightAnti | RightMark)
    };
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        let fits = *join.partition_mode() == PartitionMode::CollectLeft && !join.null_aware;
        return (fits && gives_probe_rows(join.join_type())).then(|| (join.left(), join.right()));
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return gives_probe_rows(join.join_type()).then(|| (join.left(), join.right()));
    }
    node.downcast_ref::<CrossJoinExec>().map(|join| (join.left(), join.right()))
}

/// Bytes of the files that `build` reads, if every task can compute it, and all the same.
fn bytes_of_build(build: &Arc<dyn ExecutionPlan>, rules: &CutRules) -> Option<u64> {
    if let Some(scan) = file_scan(build) {
        return Some(rules.tables.get(scan_number(scan)?)?.bytes);
    }
    if let Some((left, right)) = join_sides(build) {
        return bytes_of_build(left, rules)?.checked_add(bytes_of_build(right, rules)?);
    }
    let same_everywhere = if let Some(filter) = build.downcast_ref::<FilterExec>() {
        !is_volatile(filter.predicate())
    } else if let Some(projection) = build.downcast_ref::<ProjectionExec>() {
        !projection.expr().iter().any(|column| is_volatile(&column.expr))
    } else if let Some(exchange) = build.downcast_ref::<RepartitionExec>() {
        matches!(exchange.partitioning(), Partitioning::RoundRobinBatch(_))
    } else {
        build.downcast_ref::<CoalescePartitionsExec>().is_some() || build.downcast_ref::<CooperativeExec>().is_some()
    };
    match build.children().as_slice() {
        [child] if same_everywhere => bytes_of_build(child, rules),
        _ => None,
    }
}

/// A task reads its files as one partition, which nothing needs to divide or to gather.
fn without_exchanges(plan: &Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan)
        .transform_up(|node| {
            if let Some(exchange) = node.downcast_ref::<RepartitionExec>() {
                return Ok(Transformed::yes(Arc::clone(exchange.input())));
            }
            match node.downcast_ref::<CoalescePartitionsExec>() {
                Some(gathered) if gathered.fetch().is_none() => Ok(Transformed::yes(Arc::clone(gathered.input()))),
                _ => Ok(Transformed::no(node)),
            }
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
