//! Runs reduce plans: on one comb, on several through `datafusion-distributed`, in Fuse, or as tasks whose rows Fuse reads.
//!
//! A single comb receives the whole plan directly: the distributed planner would return a plan of one task for Fuse to
//! run, and Fuse's inboxes are empty.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow::array::RecordBatch;
use buzz_exchange::{InboxExec, Network, NetworkChannelResolver, unread_stages};
use buzz_kernel::{guarded_joins, guarded_joins_above, planning_config, session};
use buzz_plan::{QueryPlan, ReduceStep, TaskStage, divide, reduce_plan, task_stages};
use buzz_protocol::{CombAddress, QueryError, QueryId, Result, StageId, now};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion_distributed::{
    DistributedExt, DistributedLeafExec, ExecuteTaskRequest, MaybeEncoded, ProducerHead, SetPlanRequest, TaskKey,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::HeaderMap;
use tokio::sync::oneshot;

use crate::inboxes::QueryInboxes;

/// A reduce plan that is ready for one run.
pub(crate) struct Reduction {
    plan: Arc<dyn ExecutionPlan>,
    state: SessionState,
    /// The comb that runs the whole plan, the headers of calls to it and the way to it. None if the plan is divided or runs in Fuse.
    whole_on: Option<(CombAddress, HeaderMap, NetworkChannelResolver)>,
    /// The plan divided into tasks, if deliveries are objects and it has parts that tasks can run.
    tasks: Option<Tasks>,
    /// Stages that the plan does not read as often as its inboxes expect, because it reads others instead.
    skipped: BTreeSet<StageId>,
}

/// A reduce plan that was divided into tasks.
struct Tasks {
    stages: Vec<TaskStage>,
    /// The plan over the last stages.
    rest: Arc<dyn ExecutionPlan>,
}

impl Reduction {
    /// Plans a reduce step for the run `query`, which delivers to `inboxes`.
    ///
    /// # Errors
    /// `Invalid` if the step cannot be planned, `Internal` if it cannot be divided although planning found that it can.
    pub(crate) async fn prepare(
        step: &ReduceStep,
        plan: &QueryPlan,
        query: QueryId,
        inboxes: &QueryInboxes,
        network: &Arc<dyn Network>,
    ) -> Result<Self> {
        let partitions = inboxes.partitions_per_comb;
        let whole = reduce_plan(step, plan, query, partitions).await?;
        if let Some(own) = &inboxes.own {
            let alone = plan.reduces.len() == 1 && plan.fuse_only.is_none();
            let tasks = match &inboxes.objects {
                Some(_) if alone => Tasks::of(&whole, plan, query, partitions)?,
                _ => None,
            };
            let (plan, state) = (guarded_joins(whole)?, own_state(plan, own, partitions)?);
            return Ok(Self { plan, state, whole_on: None, tasks, skipped: BTreeSet::new() });
        }
        let headers = buzz_exchange::session_headers(&plan.session, &inboxes.token)?;
        let channels = NetworkChannelResolver::of_fuse(Arc::clone(network), Arc::clone(&inboxes.exchanges));
        let (passed_on, channels_of_plan) = (headers.clone(), channels.clone());
        let combs = &inboxes.addresses;
        let (planned, state) = divide(whole, plan, combs, |builder| {
            let builder = builder.with_distributed_passthrough_headers(passed_on)?;
            Ok(builder.with_distributed_channel_resolver(channels_of_plan))
        })
        .await?;
        if let [comb] = combs.as_slice() {
            let whole_on = Some((comb.clone(), headers, channels));
            return Ok(Self { plan: planned, state, whole_on, tasks: None, skipped: BTreeSet::new() });
        }
        // Fuse runs the operators above the exchanges with the combs. They also see the combs' lack of memory.
        let planned = guarded_joins_above(planned, |node| node.name().starts_with("Network"))?;
        Ok(Self { plan: planned, state, whole_on: None, tasks: None, skipped: BTreeSet::new() })
    }

    /// Returns how often the plan reads each stage. A recursion reads the stages below it any number of times.
    pub(crate) fn readers(&self) -> Vec<(StageId, u32)> {
        let mut read = stages_read(&self.plan);
        let of_tasks = |tasks: &Tasks| {
            let (stages, all) = (tasks.ids(), stages_read(&tasks.rest));
            all.into_iter().filter(move |(stage, _)| stages.contains(stage))
        };
        read.extend(self.tasks.iter().flat_map(of_tasks));
        read
    }

    /// Returns the stages of the tasks into which the plan is divided; empty if it is not.
    pub(crate) fn task_stages(&self) -> &[TaskStage] {
        self.tasks.as_ref().map_or(&[], |tasks| &tasks.stages)
    }

    /// Makes the plan read the stages of its tasks.
    ///
    /// # Errors
    /// `Internal` if the plan is inconsistent.
    pub(crate) fn over_tasks(mut self) -> Result<Self> {
        if let Some(tasks) = self.tasks.take() {
            let (rest, direct) = (stages_read(&tasks.rest), stages_read(&self.plan));
            let by_tasks = |stage: &StageId| count(&rest, *stage) < count(&direct, *stage);
            self.skipped = direct.iter().map(|(stage, _)| *stage).filter(by_tasks).collect();
            self.plan = guarded_joins(tasks.rest)?;
        }
        Ok(self)
    }

    /// Makes the plan read the deliveries of map tasks itself.
    pub(crate) fn without_tasks(mut self) -> Self {
        if let Some(tasks) = self.tasks.take() {
            self.skipped = tasks.ids();
        }
        self
    }

    /// Returns the stages of which the plan may leave rows unread: those below a limit, on the probe side of a join, in a
    /// recursion, or of the alternative that was not chosen.
    pub(crate) fn may_leave_unread(&self) -> BTreeSet<StageId> {
        let mut unread = unread_stages(&self.plan);
        unread.extend(&self.skipped);
        unread
    }

    /// Runs the plan. The rows come in the order of the plan.
    ///
    /// # Errors
    /// `Unavailable` if a comb does not respond. The stream fails as the plan does.
    pub(crate) async fn run(self) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        if let Some((comb, headers, channels)) = self.whole_on {
            return run_on_one(self.plan, &self.state, &comb, headers, &channels).await;
        }
        let batches = self.plan.execute(0, self.state.task_ctx())?;
        // The plan owns the connections that keep its tasks on the combs alive.
        let plan = self.plan;
        let held = batches.map_err(QueryError::from).inspect(move |_| {
            let _held = &plan;
        });
        Ok(held.boxed())
    }
}

impl Tasks {
    /// Divides `whole`, the reduce plan of the run `query` of `plan`. Returns `None` if it has no part that tasks can run.
    fn of(whole: &Arc<dyn ExecutionPlan>, plan: &QueryPlan, query: QueryId, partitions: usize) -> Result<Option<Self>> {
        let last = plan.stages.iter().map(|stage| stage.id.0).max().unwrap_or_default();
        let first = last.checked_add(1).ok_or_else(|| QueryError::internal("a plan with 2^32 stages"))?;
        let (rest, stages) = task_stages(whole, query, StageId(first), partitions)?;
        Ok((!stages.is_empty()).then_some(Self { stages, rest }))
    }

    fn ids(&self) -> BTreeSet<StageId> {
        self.stages.iter().map(|stage| stage.id).collect()
    }
}

/// Returns the stage that each leaf of `plan` reads, and how often.
pub(crate) fn stages_read(plan: &Arc<dyn ExecutionPlan>) -> Vec<(StageId, u32)> {
    let mut stages = Vec::new();
    let times = if is_recursive(plan) { u32::MAX } else { 1 };
    let visited = plan.apply(|node| {
        let leaf = node.downcast_ref::<DistributedLeafExec>().map_or(node, DistributedLeafExec::original);
        stages.extend(leaf.downcast_ref::<InboxExec>().map(|inbox| (inbox.stage(), times)));
        Ok(TreeNodeRecursion::Continue)
    });
    visited.expect("a visitor that never fails");
    stages
}

/// Returns the number of leaves that read `stage`.
fn count(leaves: &[(StageId, u32)], stage: StageId) -> usize {
    leaves.iter().filter(|(read, _)| *read == stage).count()
}

/// Makes a session in which Fuse runs a reduce plan itself. Operators are limited to the option `memory_bytes`.
fn own_state(plan: &QueryPlan, inboxes: &Arc<buzz_exchange::Inboxes>, partitions: usize) -> Result<SessionState> {
    let bytes = usize::try_from(plan.options.memory_bytes).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(bytes))).build_arc()?;
    // Each partition of a sort reserves this for its merge, at the same time as the others.
    let merge = (bytes / (partitions.max(1) * 8)).clamp(64 << 10, 10 << 20);
    let config = planning_config(&plan.options, partitions)?.with_extension(Arc::clone(inboxes));
    let config = config.with_sort_spill_reservation_bytes(merge);
    let state = session(config, plan.start, [])?;
    Ok(SessionStateBuilder::new_from_existing(state).with_runtime_env(runtime).build())
}

/// Sends the whole plan to one comb, over the protocol of the engine's own tasks.
async fn run_on_one(
    plan: Arc<dyn ExecutionPlan>,
    state: &SessionState,
    comb: &CombAddress,
    headers: HeaderMap,
    channels: &NetworkChannelResolver,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let ctx = state.task_ctx();
    let mut worker = channels.worker(comb).await?;
    let task_key = TaskKey { query_id: QueryId::fresh().0, stage_id: 1, task_number: 0 };
    let started = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let request = SetPlanRequest {
        task_key,
        task_count: 1,
        plan: MaybeEncoded::Decoded(plan),
        work_unit_feed_declarations: Vec::new(),
        target_worker_url: comb.0.clone(),
        query_start_time_ns: usize::try_from(started.as_nanos()).unwrap_or_default(),
    };
    // The worker keeps the plan for as long as this channel is open. The channel sends nothing and ends with the rows.
    let (open, closed) = oneshot::channel::<()>();
    let silence = futures::stream::once(closed).filter_map(|_| async { None }).boxed();
    let metrics = ExecutionPlanMetricsSet::new();
    let answers = worker.coordinator_channel(headers.clone(), request, silence, metrics.clone(), &ctx).await?;
    let request = ExecuteTaskRequest {
        task_key,
        target_partition_start: 0,
        target_partition_end: 1,
        producer_head: ProducerHead::None,
    };
    let mut streams = worker.execute_task(headers, request, metrics, &ctx).await?;
    let rows = streams.pop().ok_or_else(|| QueryError::internal("a comb returned no stream for its plan"))?;
    let held = (open, answers, worker);
    Ok(rows
        .map_err(QueryError::from)
        .inspect(move |_| {
            let _held = &held;
        })
        .boxed())
}

fn is_recursive(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.exists(|node| Ok(node.downcast_ref::<RecursiveQueryExec>().is_some())).unwrap_or(false)
}
