//! Finds the parts of a plan that each task can compute on its own.

use std::sync::Arc;

use buzz_protocol::QueryError;
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};

use super::rules::CutRules;
use super::scan::{Scan, ScanSource};
use crate::table::scan_number;
use crate::trees::Tree;

type PlanNode = Arc<dyn ExecutionPlan>;

/// The scans of a fragment, in pre-order.
#[derive(Default)]
pub(super) struct Scans {
    /// The scan whose files are divided among the tasks.
    pub(super) shared_out: Option<Scan>,
    /// The scans that every task runs completely.
    pub(super) builds: Vec<Scan>,
    /// The source of each leaf.
    pub(super) sources: Vec<ScanSource>,
}

impl Scans {
    pub(super) fn visit(&mut self, node: &PlanNode, shared_out: bool) -> DataFusionResult<()> {
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

fn file_scan(node: &PlanNode) -> Option<&FileScanConfig> {
    let source = node.downcast_ref::<DataSourceExec>()?;
    source.data_source().downcast_ref::<FileScanConfig>().filter(|scan| scan_number(scan).is_some())
}

/// Returns the input of `node` and its key columns if `node` is a hash exchange on plain columns over a fragment.
pub(super) fn hashed_fragment(node: &PlanNode, rules: &CutRules) -> Option<(PlanNode, Vec<usize>)> {
    let exchange = node.downcast_ref::<RepartitionExec>()?;
    let Partitioning::Hash(keys, _) = exchange.partitioning() else {
        return None;
    };
    scan_of_fragment(exchange.input(), rules)?;
    let columns = keys.iter().map(|key| key.downcast_ref::<Column>().map(Column::index)).collect::<Option<Vec<_>>>()?;
    Some((Arc::clone(exchange.input()), columns))
}

/// Returns the scan whose files are divided among the tasks, if each task can compute `node` from its own splits.
pub(super) fn scan_of_fragment<'a>(node: &'a PlanNode, rules: &CutRules) -> Option<&'a FileScanConfig> {
    if node.downcast_ref::<DataSourceExec>().is_some() {
        return file_scan(node);
    }
    if let Some((build, probe)) = join_sides(node) {
        let scan = scan_of_fragment(probe, rules)?;
        let table = rules.tables.get(scan_number(scan)?)?;
        return rules.affords(bytes_of_build(build, rules)?, *table).then_some(scan);
    }
    let alone = if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        // Partial states that depend on the order are computed from sorted rows.
        if let Some(sort) = aggregate.input().downcast_ref::<SortExec>()
            && *aggregate.mode() == AggregateMode::Partial
        {
            return scan_of_fragment(sort.input(), rules);
        }
        if aggregate.group_expr().has_grouping_set() && reads_no_file(node, rules) {
            // The total over no rows is a row, and a stage without files has no task to compute it.
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

/// Checks if the table whose files would be divided among the tasks has no files.
fn reads_no_file(node: &PlanNode, rules: &CutRules) -> bool {
    let mut scans = Scans::default();
    let table = scans.visit(node, true).ok().and(scans.shared_out).and_then(|scan| rules.tables.get(scan.table));
    table.is_some_and(|table| table.tasks == 0)
}

/// Returns the build and the probe side of a join that can be computed for parts of the probe side. Such a join reads
/// its whole build side first, and each output row comes from one probe row.
fn join_sides(node: &PlanNode) -> Option<(&PlanNode, &PlanNode)> {
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

/// Returns the bytes of the files that `build` reads, if every task can compute it with the same result.
fn bytes_of_build(build: &PlanNode, rules: &CutRules) -> Option<u64> {
    if !is_determined(build) {
        return None;
    }
    if let Some(scan) = file_scan(build) {
        return Some(rules.tables.get(scan_number(scan)?)?.bytes);
    }
    if let Some((left, right)) = join_sides(build) {
        return bytes_of_build(left, rules)?.checked_add(bytes_of_build(right, rules)?);
    }
    let same_everywhere = if let Some(exchange) = build.downcast_ref::<RepartitionExec>() {
        matches!(exchange.partitioning(), Partitioning::RoundRobinBatch(_))
    } else {
        build.downcast_ref::<FilterExec>().is_some()
            || build.downcast_ref::<ProjectionExec>().is_some()
            || build.downcast_ref::<CoalescePartitionsExec>().is_some()
            || build.downcast_ref::<CooperativeExec>().is_some()
    };
    match build.children().as_slice() {
        [child] if same_everywhere => bytes_of_build(child, rules),
        _ => None,
    }
}

/// Returns true if the rows of `node` follow from those of its children: it has no limit and no volatile expression.
fn is_determined(node: &PlanNode) -> bool {
    let mut volatile = false;
    let visited = node.apply_expressions(&mut |expression| {
        volatile |= is_volatile(expression);
        Ok(TreeNodeRecursion::Continue)
    });
    visited.is_ok() && !volatile && node.fetch().is_none()
}

/// Removes exchanges between partitions: a task reads its files as one partition.
pub(super) fn without_exchanges(plan: &PlanNode) -> DataFusionResult<PlanNode> {
    Arc::clone(plan)
        .rewrite_up(&mut |node| {
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
