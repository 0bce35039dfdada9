//! Joins whose left input the planner collects into one partition.
//!
//! One task computes that input and delivers its rows as an object. If each row of the join belongs to one row of the right input, the
//! tasks of all partitions of that input read the object as a whole. If rows of the left input also appear on their own, such as those
//! without a match, only a task that has all rows with the same keys knows them: then both inputs are divided by the keys.

use std::sync::Arc;

use buzz_exchange::InboxExec;
use datafusion::common::JoinType;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

use super::{Divider, PlanNode, with_children};
use crate::trees::Tree;

impl Divider {
    /// Makes the left input of `node` a stage of one task if `node` is a join that collects it and tasks can run the right one.
    pub(super) fn collected(&mut self, node: PlanNode) -> DataFusionResult<PlanNode> {
        let children: Vec<PlanNode> = node.children().into_iter().cloned().collect();
        let Ok([left, right]) = <[PlanNode; 2]>::try_from(children) else { return Ok(node) };
        if !self.is_of_tasks(&right) || !self.is_whole(&left)? {
            return Ok(node);
        }
        if reads_all_left_rows(&node) {
            let collected = CoalescePartitionsExec::new(self.stage_of_one(&left, Vec::new())?);
            return with_children(&node, vec![Arc::new(collected), right]);
        }
        let Some((join, left_keys, right_keys)) = divisible(&node) else { return Ok(node) };
        let left = self.stage_of_one(&left, left_keys)?;
        let right = match right.downcast_ref::<InboxExec>() {
            Some(inbox) if inbox.keys() == right_keys => right,
            _ => self.stage(&right, right_keys)?,
        };
        let divided = join.builder().with_new_children(vec![left, right])?;
        divided.with_partition_mode(PartitionMode::Partitioned).reset_state().recompute_properties().build_exec()
    }

    /// Checks if `node` is a join whose left input is a whole stage and whose right one can be divided among tasks.
    pub(super) fn is_collected(&self, node: &PlanNode) -> bool {
        let children = node.children();
        let [left, right] = children.as_slice() else { return false };
        let gathered = left.downcast_ref::<CoalescePartitionsExec>().map(CoalescePartitionsExec::input);
        let of_stage = gathered.and_then(|input| input.downcast_ref::<InboxExec>());
        reads_all_left_rows(node)
            && of_stage.is_some_and(|inbox| inbox.partitions() == (0..self.partitions))
            && self.is_of_tasks(right)
    }

    /// Checks if one task can compute `plan`: it has one partition and reads nothing but all partitions of stages.
    fn is_whole(&self, plan: &PlanNode) -> DataFusionResult<bool> {
        let other = plan.any(&mut |node| {
            let inbox = node.downcast_ref::<InboxExec>();
            Ok(node.children().is_empty() && inbox.is_none_or(|inbox| inbox.partitions() != (0..self.partitions)))
        })?;
        Ok(!other && plan.properties().partitioning.partition_count() == 1)
    }
}

/// Returns true if `node` is a join that a task can run with all rows of the left input and some of the right one: each of its rows
/// belongs to one row of the right input.
fn reads_all_left_rows(node: &PlanNode) -> bool {
    let follows_right = |kind: &JoinType| {
        use JoinType::{Inner, Right, RightAnti, RightMark, RightSemi};
        matches!(kind, Inner | Right | RightSemi | RightAnti | RightMark)
    };
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return *join.partition_mode() == PartitionMode::CollectLeft && follows_right(join.join_type());
    }
    let nested = node.downcast_ref::<NestedLoopJoinExec>();
    nested.is_some_and(|join| follows_right(join.join_type())) || node.downcast_ref::<CrossJoinExec>().is_some()
}

/// Returns the join `node` and the columns of its keys on both sides if it collects its left input, but would return the same rows
/// if both inputs were divided by the keys. `NOT IN` would not: it depends on nulls in any row.
fn divisible(node: &PlanNode) -> Option<(&HashJoinExec, Vec<usize>, Vec<usize>)> {
    let join = node.downcast_ref::<HashJoinExec>()?;
    if *join.partition_mode() != PartitionMode::CollectLeft || join.null_aware {
        return None;
    }
    let column = |key: &PhysicalExprRef| key.downcast_ref::<Column>().map(Column::index);
    let keys = join.on().iter().map(|(left, right)| Some((column(left)?, column(right)?)));
    let (left, right) = keys.collect::<Option<Vec<_>>>()?.into_iter().unzip();
    Some((join, left, right))
}

/// Returns the leaves of `plan` that read stages, and for each if it reads all partitions for each task: those below an operator that
/// merges partitions.
pub(super) fn leaves(plan: &PlanNode) -> Vec<(InboxExec, bool)> {
    fn add(node: &PlanNode, whole: bool, found: &mut Vec<(InboxExec, bool)>) {
        found.extend(node.downcast_ref::<InboxExec>().map(|inbox| (inbox.clone(), whole)));
        let merges = node.downcast_ref::<CoalescePartitionsExec>().is_some()
            || node.downcast_ref::<SortPreservingMergeExec>().is_some();
        for child in node.children() {
            add(child, whole || merges, found);
        }
    }
    let mut found = Vec::new();
    add(plan, false, &mut found);
    found
}
