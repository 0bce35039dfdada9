//! Divides a reduce plan into stages of tasks, for functions that exchange rows through objects.
//!
//! The parts of the plan that compute each partition on its own, up to the next exchange, become stages: partial and final
//! aggregates, joins, windows. Each partition of a stage is a task, which reads that partition of the stages below and delivers
//! its rows by the keys of the exchange above. The input that a join collects is a stage of one task (`collected`). Fuse runs
//! what is left, over the last stages.

mod collected;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use buzz_exchange::{InboxExec, LeafCodec};
use buzz_kernel::{encode_plan, encode_schema};
use buzz_protocol::{QueryError, QueryId, Result, StageId, StageInput, nullable};
use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, Distribution, ExecutionPlan, Partitioning, ReplaceChildrenOptions,
};

use self::collected::leaves;
use crate::cut::{divided_alike, in_order, is_window};
use crate::trees::Tree;

type PlanNode = Arc<dyn ExecutionPlan>;

/// A part of a reduce plan that tasks run.
#[derive(Debug)]
pub struct TaskStage {
    /// Its id in messages between the roles.
    pub id: StageId,
    /// Its name.
    pub step: String,
    /// Columns by which delivered rows are hash-partitioned; empty for round-robin.
    pub keys: Vec<usize>,
    /// Schema of the rows that it delivers. Any column may be null.
    pub schema: SchemaRef,
    /// Number of its tasks: one for each of its partitions, or a single one.
    pub tasks: usize,
    /// Number of the partitions that it delivers to.
    pub partitions: usize,
    plan: PlanNode,
}

impl TaskStage {
    /// Encodes the plan of the task `task`, whose leaves read that partition, or all of them.
    ///
    /// # Errors
    /// `Internal` if an operator has no encoding.
    pub fn fragment(&self, task: usize) -> Result<Bytes> {
        let whole: Vec<StageId> =
            leaves(&self.plan).into_iter().filter_map(|(inbox, whole)| whole.then(|| inbox.stage())).collect();
        let one = Arc::clone(&self.plan).rewrite_up(&mut |node| match node.downcast_ref::<InboxExec>() {
            Some(inbox) if !whole.contains(&inbox.stage()) => {
                Ok(Transformed::yes(Arc::new(inbox.over(task..task + 1)) as PlanNode))
            }
            _ => Ok(Transformed::no(node)),
        });
        encode_plan(one.data()?, &LeafCodec)
            .map_err(|error| QueryError::internal(format!("a part of a reduce plan cannot be encoded: {error}")))
    }

    /// Returns the stages that the plan of the task `task` reads, without deliveries.
    ///
    /// # Errors
    /// `Internal` if a partition does not fit a message.
    pub fn inputs(&self, task: usize) -> Result<Vec<StageInput>> {
        let number = |partition: usize| {
            u32::try_from(partition).map_err(|_| QueryError::internal("a stage with 2^32 partitions"))
        };
        let mut inputs: Vec<StageInput> = Vec::new();
        for (inbox, whole) in leaves(&self.plan) {
            if let Some(input) = inputs.iter_mut().find(|input| input.stage == inbox.stage()) {
                input.readers += 1;
                continue;
            }
            let read = if whole { inbox.partitions() } else { task..task + 1 };
            inputs.push(StageInput {
                stage: inbox.stage(),
                step: inbox.step().to_string(),
                // The rows of map tasks may have nulls that their plan does not declare.
                schema: encode_schema(&nullable(&inbox.schema())).into(),
                partitions: number(read.start)?..number(read.end)?,
                readers: 1,
                deliveries: Vec::new(),
            });
        }
        Ok(inputs)
    }

    /// Checks if a stage is read as a whole by one leaf and by partition by another, which no inbox of a task allows.
    fn reads_in_two_ways(&self) -> bool {
        let leaves = leaves(&self.plan);
        let other = |(inbox, whole): &(InboxExec, bool)| {
            leaves.iter().any(|(other, alike)| other.stage() == inbox.stage() && alike != whole)
        };
        leaves.iter().any(other)
    }
}

/// Divides `plan`, an undivided reduce plan of the run `query` over `partitions` partitions, into stages. The first of them
/// has the id `first`; each reads only stages before it. Returns also the plan that reads the last ones. Without stages, the
/// plan has no part that tasks could run.
///
/// # Errors
/// `Internal` if a plan is inconsistent.
pub fn task_stages(
    plan: &PlanNode,
    query: QueryId,
    first: StageId,
    partitions: usize,
) -> Result<(PlanNode, Vec<TaskStage>)> {
    let whole = || (Arc::clone(plan), Vec::new());
    if partitions < 2 {
        return Ok(whole());
    }
    let mut divider = Divider { query, first, partitions, stages: Vec::new() };
    let rest = divider.node(plan)?;
    // A plan that cannot be encoded is run by Fuse as a whole.
    if divider.stages.iter().any(|stage| stage.reads_in_two_ways() || stage.fragment(0).is_err()) {
        return Ok(whole());
    }
    Ok((rest, divider.stages))
}

struct Divider {
    query: QueryId,
    first: StageId,
    partitions: usize,
    stages: Vec<TaskStage>,
}

impl Divider {
    fn node(&mut self, node: &PlanNode) -> DataFusionResult<PlanNode> {
        let children = node.children();
        if children.is_empty() {
            return Ok(Arc::clone(node));
        }
        let children = children.into_iter().map(|child| self.node(child)).collect::<DataFusionResult<Vec<_>>>()?;
        let children = children.into_iter().zip(node.required_input_ordering());
        let children = children.map(|(child, order)| in_order(child, order, is_window(node)));
        let node = with_children(node, divided_alike(node, children.collect::<DataFusionResult<Vec<_>>>()?)?)?;
        if let Some((input, keys)) = self.exchanged(&node) {
            return self.stage(&input, keys);
        }
        let node = self.collected(node)?;
        self.merged(node)
    }

    /// Returns the input of `node` and its key columns if `node` is an exchange by hash of plain columns over a part that tasks
    /// can run.
    fn exchanged(&self, node: &PlanNode) -> Option<(PlanNode, Vec<usize>)> {
        let exchange = node.downcast_ref::<RepartitionExec>().filter(|exchange| !exchange.preserve_order())?;
        let Partitioning::Hash(keys, count) = exchange.partitioning() else {
            return None;
        };
        let keys =
            keys.iter().map(|key| key.downcast_ref::<Column>().map(Column::index)).collect::<Option<Vec<_>>>()?;
        let input = exchange.input();
        (*count == self.partitions && self.is_of_tasks(input)).then(|| (Arc::clone(input), keys))
    }

    /// Makes the input of `node` a stage if `node` gathers all partitions of a part that tasks can run and that does more than
    /// pass rows on.
    fn merged(&mut self, node: PlanNode) -> DataFusionResult<PlanNode> {
        let sorted = node.downcast_ref::<SortPreservingMergeExec>().is_some();
        if !sorted && node.downcast_ref::<CoalescePartitionsExec>().is_none() {
            return Ok(node);
        }
        let Some(input) = node.children().first().map(|input| Arc::clone(input)) else { return Ok(node) };
        // Objects do not keep the order of rows, so the rows are sorted above the stage. Of a top-k, tasks run their part.
        let (mut above, mut part) = (Vec::new(), Arc::clone(&input));
        while sorted && part.downcast_ref::<ProjectionExec>().is_some() {
            let below = Arc::clone(part.children()[0]);
            above.push(std::mem::replace(&mut part, below));
        }
        if let Some(sort) = part.downcast_ref::<SortExec>() {
            above.push(Arc::clone(&part));
            if sort.fetch().is_none() {
                part = Arc::clone(sort.input());
            }
        } else if sorted {
            return Ok(node);
        }
        if !self.is_of_tasks(&part) || !works(&part)? {
            return Ok(node);
        }
        let inbox = self.stage(&part, Vec::new())?;
        let input = above.into_iter().rev().try_fold(inbox, |input, node| with_children(&node, vec![input]))?;
        with_children(&node, vec![input])
    }

    /// Makes `plan` a stage of one task for each partition, and returns the leaf that reads it.
    fn stage(&mut self, plan: &PlanNode, keys: Vec<usize>) -> DataFusionResult<PlanNode> {
        self.stage_of(plan, keys, self.partitions)
    }

    /// Makes `plan`, which has one partition, a stage of a single task, and returns the leaf that reads it.
    fn stage_of_one(&mut self, plan: &PlanNode, keys: Vec<usize>) -> DataFusionResult<PlanNode> {
        self.stage_of(plan, keys, 1)
    }

    fn stage_of(&mut self, plan: &PlanNode, keys: Vec<usize>, tasks: usize) -> DataFusionResult<PlanNode> {
        let number = u32::try_from(self.stages.len()).ok().and_then(|number| self.first.0.checked_add(number));
        let number = number.ok_or_else(|| QueryError::internal("a plan with 2^32 stages").into_datafusion())?;
        // Declarations of operators change when they are divided and encoded; nulls that never occur are harmless.
        let (id, step, schema) = (StageId(number), format!("reduce_{number}"), nullable(&plan.schema()));
        let (plan, partitions) = (Arc::clone(plan), self.partitions);
        let inbox =
            InboxExec::divided_by(keys.clone(), self.query, id, step.clone(), 0..partitions, Arc::clone(&schema));
        self.stages.push(TaskStage { id, step, keys, schema, tasks, partitions, plan });
        Ok(Arc::new(inbox))
    }

    /// Checks if `node` computes each partition from the same partition of stages, so that a task can run one.
    fn is_of_tasks(&self, node: &PlanNode) -> bool {
        if let Some(inbox) = node.downcast_ref::<InboxExec>() {
            return inbox.partitions() == (0..self.partitions);
        }
        if self.is_collected(node) {
            return true;
        }
        let counted = node.properties().partitioning.partition_count() == self.partitions;
        let needs = node.input_distribution_requirements();
        let alone = (0..node.children().len())
            .all(|child| !matches!(needs.child_distribution(child), Some(Distribution::SinglePartition)));
        let children = node.children();
        runs_alone(node)
            && counted
            && alone
            && !children.is_empty()
            && children.into_iter().all(|c| self.is_of_tasks(c))
    }
}

/// Checks if `node` is an operator that computes each partition of its output from the same partition of its inputs.
fn runs_alone(node: &PlanNode) -> bool {
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return match aggregate.mode() {
            AggregateMode::Partial
            | AggregateMode::PartialReduce
            | AggregateMode::FinalPartitioned
            | AggregateMode::SinglePartitioned => true,
            AggregateMode::Final | AggregateMode::Single => false,
        };
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return *join.partition_mode() == PartitionMode::Partitioned;
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return sort.preserve_partitioning();
    }
    is_window(node)
        || node.downcast_ref::<FilterExec>().is_some()
        || node.downcast_ref::<ProjectionExec>().is_some()
        || node.downcast_ref::<CooperativeExec>().is_some()
        || node.downcast_ref::<SortMergeJoinExec>().is_some()
}

/// Checks if `plan` aggregates, joins or computes windows, so that tasks save Fuse work.
fn works(plan: &PlanNode) -> DataFusionResult<bool> {
    plan.any(&mut |node| {
        Ok(node.downcast_ref::<AggregateExec>().is_some() || node.name().ends_with("JoinExec") || is_window(node))
    })
}

fn with_children(node: &PlanNode, children: Vec<PlanNode>) -> DataFusionResult<PlanNode> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(node).replace_children(children, options)
}

#[cfg(test)]
mod tests;
