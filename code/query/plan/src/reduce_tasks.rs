//! Divides a reduce plan into stages of tasks, for functions that exchange rows through objects.
//!
//! The parts of the plan that compute each partition on its own, up to the next exchange, become stages: partial and final
//! aggregates, partitioned joins, windows. Each partition of a stage is a task, which reads that partition of the stages
//! below and delivers its rows by the keys of the exchange above. Fuse runs what is left, over the last stages.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use buzz_exchange::{InboxExec, LeafCodec};
use buzz_kernel::{encode_plan, encode_schema};
use buzz_protocol::{QueryError, QueryId, Result, StageId, StageInput};
use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNodeRecursion};
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

use crate::cut::{divided_alike, in_order, is_window};
use crate::trees::Tree;

type PlanNode = Arc<dyn ExecutionPlan>;

/// A part of a reduce plan, of which each partition is a task.
#[derive(Debug)]
pub struct TaskStage {
    /// Its id in messages between the roles.
    pub id: StageId,
    /// Its name.
    pub step: String,
    /// Columns by which delivered rows are hash-partitioned; empty for round-robin.
    pub keys: Vec<usize>,
    /// Schema of the rows that it delivers.
    pub schema: SchemaRef,
    /// Number of its partitions, of which each is a task, and of those that it delivers to.
    pub partitions: usize,
    plan: PlanNode,
}

impl TaskStage {
    /// Encodes the plan of the task of `partition`, whose leaves read that partition.
    ///
    /// # Errors
    /// `Internal` if an operator has no encoding.
    pub fn fragment(&self, partition: usize) -> Result<Bytes> {
        let one = Arc::clone(&self.plan).rewrite_up(&mut |node| match node.downcast_ref::<InboxExec>() {
            Some(inbox) => Ok(Transformed::yes(Arc::new(inbox.over(partition..partition + 1)) as PlanNode)),
            None => Ok(Transformed::no(node)),
        });
        encode_plan(one.data()?, &LeafCodec)
            .map_err(|error| QueryError::internal(format!("a part of a reduce plan cannot be encoded: {error}")))
    }

    /// Returns the stages that its plan reads, without deliveries and for partition 0.
    pub fn inputs(&self) -> Vec<StageInput> {
        let mut inputs: Vec<StageInput> = Vec::new();
        for inbox in inboxes(&self.plan) {
            match inputs.iter_mut().find(|input| input.stage == inbox.stage()) {
                Some(input) => input.readers += 1,
                None => inputs.push(StageInput {
                    stage: inbox.stage(),
                    step: inbox.step().to_string(),
                    schema: encode_schema(&inbox.schema()).into(),
                    partition: 0,
                    readers: 1,
                    deliveries: Vec::new(),
                }),
            }
        }
        inputs
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
    if divider.stages.iter().any(|stage| stage.fragment(0).is_err()) {
        return Ok(whole());
    }
    Ok((rest, divider.stages))
}

/// Returns the leaves of `plan` that read stages.
fn inboxes(plan: &PlanNode) -> Vec<InboxExec> {
    let mut found = Vec::new();
    let visited = plan.each(&mut |node| {
        found.extend(node.downcast_ref::<InboxExec>().cloned());
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "a visitor that never fails");
    found
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

    /// Makes `plan` a stage and returns the leaf that reads it.
    fn stage(&mut self, plan: &PlanNode, keys: Vec<usize>) -> DataFusionResult<PlanNode> {
        let number = u32::try_from(self.stages.len()).ok().and_then(|number| self.first.0.checked_add(number));
        let number = number.ok_or_else(|| QueryError::internal("a plan with 2^32 stages").into_datafusion())?;
        let (id, step, schema) = (StageId(number), format!("reduce_{number}"), plan.schema());
        let partitions = 0..self.partitions;
        let inbox = InboxExec::divided_by(keys.clone(), self.query, id, step.clone(), partitions, Arc::clone(&schema));
        let plan = Arc::clone(plan);
        self.stages.push(TaskStage { id, step, keys, schema, partitions: self.partitions, plan });
        Ok(Arc::new(inbox))
    }

    /// Checks if `node` computes each partition from the same partition of stages, so that a task can run one.
    fn is_of_tasks(&self, node: &PlanNode) -> bool {
        if let Some(inbox) = node.downcast_ref::<InboxExec>() {
            return inbox.partitions() == (0..self.partitions);
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
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use buzz_kernel::{decode_plan, planning_config};
    use buzz_protocol::Options;
    use datafusion::execution::TaskContext;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::table::{InboxTable, InboxTarget};

    const PARTITIONS: usize = 4;

    /// Divides the plan of `sql` over the stages `a` (1) and `b` (2), each with the columns `k` and `v`. Returns the rest and the
    /// stages.
    async fn divided(sql: &str) -> (String, Vec<TaskStage>, Arc<TaskContext>) {
        let query = QueryId::fresh();
        let target = InboxTarget { query, partitions: PARTITIONS };
        let config = planning_config(&Options::default(), PARTITIONS).unwrap().with_extension(Arc::new(target));
        let ctx = SessionContext::new_with_config(config);
        let schema = Arc::new(Schema::new(["k", "v"].map(|name| Field::new(name, DataType::Int64, true)).to_vec()));
        for (name, stage) in [("a", 1), ("b", 2)] {
            let (stage, step) = (StageId(stage), name.to_string());
            ctx.register_table(name, Arc::new(InboxTable { stage, step, schema: Arc::clone(&schema) })).unwrap();
        }
        let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let (rest, stages) = task_stages(&plan, query, StageId(3), PARTITIONS).unwrap();
        (displayable(rest.as_ref()).indent(false).to_string(), stages, ctx.task_ctx())
    }

    fn read(stage: &TaskStage) -> Vec<u32> {
        stage.inputs().iter().map(|input| input.stage.0).collect()
    }

    #[tokio::test]
    async fn joins_and_aggregates_become_stages_that_read_the_ones_before() {
        let sql = "SELECT a.k, SUM(b.v) AS v FROM a JOIN b ON a.k = b.k GROUP BY a.k ORDER BY v";
        let (rest, stages, _) = divided(sql).await;
        // Both sides are exchanged by the key, and then joined and grouped.
        assert_eq!(stages.iter().map(|stage| stage.id.0).collect::<Vec<_>>(), [3, 4, 5], "{rest}");
        assert_eq!((read(&stages[0]), read(&stages[1])), (vec![1], vec![2]));
        assert_eq!((stages[0].keys.len(), stages[1].keys.len(), stages[2].keys.len()), (1, 1, 0));
        let mut last = read(&stages[2]);
        last.sort_unstable();
        assert_eq!(last, [3, 4]);
        assert!(!rest.contains("JoinExec") && !rest.contains("AggregateExec"), "{rest}");
        assert!(rest.contains("SortExec") && rest.contains("step=reduce_5"), "{rest}");
    }

    #[tokio::test]
    async fn task_reads_one_partition_of_each_input() {
        let (_, stages, ctx) = divided("SELECT k, COUNT(*) AS n FROM a GROUP BY k").await;
        let last = stages.last().expect("a stage of groups");
        for partition in 0..PARTITIONS {
            let plan = decode_plan(&last.fragment(partition).unwrap(), &ctx, &LeafCodec).unwrap();
            assert_eq!(plan.properties().partitioning.partition_count(), 1);
            for inbox in inboxes(&plan) {
                assert_eq!(inbox.partitions(), partition..partition + 1);
            }
        }
    }

    #[tokio::test]
    async fn operators_that_need_all_rows_stay_at_fuse() {
        let (rest, stages, _) = divided("SELECT k, ROW_NUMBER() OVER (ORDER BY v) AS n FROM a").await;
        assert!(stages.is_empty() && rest.contains("WindowAggExec"), "{rest}");
        // Rows that are only passed on make no task.
        let (rest, stages, _) = divided("SELECT k FROM a UNION ALL SELECT v FROM b").await;
        assert!(stages.is_empty() && rest.contains("step=a"), "{rest}");
        // Each task has its part of a top-k, and Fuse the rest.
        let (rest, stages, _) = divided("SELECT k, COUNT(*) AS n FROM a GROUP BY k ORDER BY n DESC, k LIMIT 3").await;
        assert!(!stages.is_empty() && rest.contains("TopK(fetch=3)"), "{rest}");
    }
}
