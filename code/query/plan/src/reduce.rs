//! Planning the reduce side: who reduces, and plans over inboxes for one comb, for several, or for Fuse.
//!
//! With T combs and P partitions on each, HBees divide their rows among P·T partitions, and comb *t* owns
//! `t·P .. (t+1)·P`. T is fixed before dispatch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use buzz_exchange::{InboxCodec, InboxExec, keys_can_be_sent};
use buzz_kernel::{planning_config, yielding};
use buzz_protocol::{CombAddress, Options, QueryError, QueryId, Result, StageId};
use chrono::{DateTime, Utc};
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::displayable;
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DistributedExt, DistributedLeafExec, NetworkCoalesceExec,
    RouteTasksEvent, RouteTasksEventResponse, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse,
    SessionStateBuilderExt, WorkerResolver,
};
use url::Url;

use crate::cut::{Fragment, cut};
use crate::limited::limited_once;
use crate::ordered::ordered;
use crate::query_plan::{QueryPlan, ReduceStep};
use crate::sql::delivered_schema;
use crate::table::InboxTarget;
use crate::trees::PlanTree;
use crate::{Planning, join_keys, standard, wire};

/// The possible reducers of a query.
pub(crate) struct Reducer {
    /// Reason why only Fuse can. None if combs can.
    pub(crate) fuse_only: Option<String>,
    /// Number of combs, if combs can: those that the query asks for, or 1 if a part of it cannot be divided.
    pub(crate) combs: usize,
    /// Warnings for the user.
    pub(crate) warnings: Vec<String>,
}

impl Reducer {
    /// Makes the reducer of a plan that only Fuse can reduce.
    pub(crate) fn fuse(because: impl Into<String>) -> Self {
        Self { fuse_only: Some(because.into()), combs: 1, warnings: Vec::new() }
    }
}

/// Finds out who can reduce. `planned` is the plan over inboxes, if it is already known.
pub(crate) async fn reducer(
    reduces: &[ReduceStep],
    planned: Option<&Arc<dyn ExecutionPlan>>,
    planning: &Planning<'_>,
) -> Result<Reducer> {
    let wanted = planning.question.query.zones;
    let recursion = reduces.iter().any(|step| has_recursion(&step.logical));
    let of_sql = reduces.iter().find_map(|step| wire::unsendable(&step.logical));
    let unsendable = match planned {
        _ if recursion => Some("a recursive query cannot be sent to combs".to_string()),
        _ if of_sql.is_some() => of_sql,
        Some(plan) => wire::unsendable_plan(plan),
        None => unsendable_reduce(reduces, planning).await?,
    };
    if let Some(because) = unsendable {
        let warning = format!("Fuse reduces this query instead of {wanted} combs: {because}");
        let warnings = if wanted > 1 { vec![warning] } else { Vec::new() };
        return Ok(Reducer { warnings, ..Reducer::fuse(because) });
    }
    let combs = comb_count(reduces, planning, wanted).await?;
    let warning = format!("this query cannot be divided among {wanted} combs; one comb reduces it");
    Ok(Reducer { fuse_only: None, combs, warnings: if combs < wanted { vec![warning] } else { Vec::new() } })
}

/// Describes why a reduce plan cannot be sent to combs. `None` if all can.
async fn unsendable_reduce(reduces: &[ReduceStep], planning: &Planning<'_>) -> Result<Option<String>> {
    for reduce in reduces {
        let target = InboxTarget { query: QueryId::fresh(), partitions: planning.capacity.partitions_per_comb(1) };
        let plan = whole(reduce, planning.options(), planning.start, target).await?;
        if let Some(because) = wire::unsendable_plan(&plan) {
            return Ok(Some(because));
        }
    }
    Ok(None)
}

/// Checks if `plan` contains a recursive query, whose operator cannot be encoded.
fn has_recursion(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let visited = plan.each_node(&mut |node| {
        found |= matches!(node, LogicalPlan::RecursiveQuery(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    visited.is_ok() && found
}

/// Returns the number of combs that can reduce: `wanted`, or 1 if a part of a plan cannot be divided among several.
async fn comb_count(reduces: &[ReduceStep], planning: &Planning<'_>, wanted: usize) -> Result<usize> {
    if wanted == 1 {
        return Ok(1);
    }
    let partitions = planning.capacity.partitions_per_comb(wanted);
    let combs = stand_ins(wanted);
    for reduce in reduces {
        let target = InboxTarget { query: QueryId::fresh(), partitions };
        let whole = whole(reduce, planning.options(), planning.start, target).await?;
        if !keys_can_be_sent(&whole) {
            return Ok(1);
        }
        let divider = Divider { options: planning.options(), start: planning.start, partitions };
        let (state, undivided) = divider.session(whole, &combs, Ok)?;
        let planned = state.query_planner().create_physical_plan(&empty(), &state).await;
        let leaves_fuse = planned.as_ref().is_ok_and(|plan| plan.name() == "DistributedExec");
        if undivided.load(Ordering::Relaxed) || !leaves_fuse {
            return Ok(1);
        }
    }
    Ok(wanted)
}

/// Returns addresses for combs that do not exist yet.
pub(crate) fn stand_ins(combs: usize) -> Vec<CombAddress> {
    (0..combs).map(CombAddress::in_memory).collect()
}

/// Plans `reduce` for the run `query`: the undivided plan over the `partitions` partitions of each inbox, with one output
/// partition. It can be executed once.
///
/// # Errors
/// `Invalid` if the step cannot be planned, `Internal` if it was planned otherwise before, for the tasks of `plan`.
pub async fn reduce_plan(
    reduce: &ReduceStep,
    plan: &QueryPlan,
    query: QueryId,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let target = InboxTarget { query, partitions };
    let whole = planned(&reduce.logical, &plan.options, plan.start, target).await?;
    let Some(rules) = &reduce.cut else { return Ok(whole) };
    let cut = cut(whole, rules, target)?;
    for (fragment, id) in cut.fragments.iter().zip(rules.first_stage..) {
        let stage = plan.stages.iter().find(|stage| stage.id == StageId(id));
        // Rows in another order of columns would be read as if they were in this one.
        if stage.is_some_and(|stage| stage.schema != delivered_schema(&fragment.plan.schema())) {
            let why =
                format!("step `{}` was planned in two ways: the tasks of map_{id} deliver other columns", reduce.step);
            return Err(QueryError::internal(why));
        }
    }
    Ok(cut.reduce)
}

/// Checks if `reduce`, planned for `partitions` partitions instead of those of `plan`, would be cut into the same fragments as the
/// map stages of `plan` run, with the same keys. The planner may place other exchanges.
///
/// # Errors
/// `Invalid` if the step cannot be planned.
pub async fn is_cut_alike(reduce: &ReduceStep, plan: &QueryPlan, partitions: usize) -> Result<bool> {
    let Some(rules) = &reduce.cut else {
        return Ok(true);
    };
    let target = InboxTarget { query: QueryId::fresh(), partitions };
    let fragments = cut(planned(&reduce.logical, &plan.options, plan.start, target).await?, rules, target)?.fragments;
    let same = |(fragment, id): (&Fragment, u32)| {
        let stage = plan.stages.iter().find(|stage| stage.id == StageId(id));
        let text = displayable(fragment.plan.as_ref()).indent(false).to_string();
        stage
            .is_some_and(|stage| stage.keys == fragment.keys && without_groups(&stage.display) == without_groups(&text))
    };
    Ok(fragments.iter().zip(rules.first_stage..).all(same))
}

/// Removes from a plan as text the groups of files, which stand for the partitions and are replaced by those of a task.
fn without_groups(plan: &str) -> String {
    let line = |line: &str| {
        let groups = line.split_once("file_groups={");
        match groups.and_then(|(before, groups)| Some((before, groups.split_once('}')?.1))) {
            Some((before, after)) => format!("{before}{after}\n"),
            None => format!("{line}\n"),
        }
    };
    plan.lines().map(line).collect()
}

/// Divides `whole`, a plan of [`reduce_plan`], among `combs`. Returns the plan and the session in which it runs, to which
/// `adjust` adds what reaches the combs. A plan for a single comb is returned as it is.
///
/// # Errors
/// `Internal` if the plan cannot be divided although planning found that it can, and the errors of `adjust`.
pub async fn divide(
    whole: Arc<dyn ExecutionPlan>,
    plan: &QueryPlan,
    combs: &[CombAddress],
    adjust: impl FnOnce(SessionStateBuilder) -> DataFusionResult<SessionStateBuilder>,
) -> Result<(Arc<dyn ExecutionPlan>, SessionState)> {
    let divider = Divider { options: &plan.options, start: plan.start, partitions: plan.partitions_per_comb };
    let (state, _) = divider.session(Arc::clone(&whole), combs, adjust)?;
    let planned = match combs {
        [_] => whole,
        _ => ordered(&state.query_planner().create_physical_plan(&empty(), &state).await?)?,
    };
    Ok((planned, state))
}

/// Plans a step without dividing it.
async fn whole(
    step: &ReduceStep,
    options: &Options,
    start: DateTime<Utc>,
    target: InboxTarget,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = planned(&step.logical, options, start, target).await?;
    match &step.cut {
        Some(rules) => Ok(cut(plan, rules, target)?.reduce),
        None => Ok(plan),
    }
}

/// Returns the physical plan of `logical` for one comb's share, with one output partition.
///
/// # Errors
/// `Invalid` if it cannot be planned.
pub(crate) async fn planned(
    logical: &LogicalPlan,
    options: &Options,
    start: DateTime<Utc>,
    target: InboxTarget,
) -> Result<Arc<dyn ExecutionPlan>> {
    let config = planning_config(options, target.partitions)?.with_extension(Arc::new(target));
    let state = crate::deadline::within_time(standard::session(config, options, start, [])?, options, start);
    let sendable = join_keys::computed_below(wire::sendable_literals(logical.clone())?)?;
    let plan = state.query_planner().create_physical_plan(&sendable, &state).await?;
    let plan = yielding(standard::without_unordered_limits(plan)?)?;
    if plan.properties().partitioning.partition_count() == 1 {
        return Ok(plan);
    }
    Ok(Arc::new(CoalescePartitionsExec::new(plan)))
}

fn empty() -> LogicalPlan {
    LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema: Arc::new(DFSchema::empty()) })
}

/// Makes sessions whose planner divides a plan among combs.
struct Divider<'a> {
    options: &'a Options,
    start: DateTime<Utc>,
    /// Partitions of each comb.
    partitions: usize,
}

impl Divider<'_> {
    /// Makes a session whose planner divides `whole` among `combs`. The flag is set while it plans, if a stage of the
    /// plan is given to fewer combs.
    fn session(
        &self,
        whole: Arc<dyn ExecutionPlan>,
        combs: &[CombAddress],
        adjust: impl FnOnce(SessionStateBuilder) -> DataFusionResult<SessionStateBuilder>,
    ) -> Result<(SessionState, Arc<AtomicBool>)> {
        let (count, partitions) = (combs.len(), self.partitions);
        let urls: Vec<Url> = combs.iter().map(|comb| comb.0.clone()).collect();
        let routed = urls.clone();
        let undivided = Arc::new(AtomicBool::new(false));
        let demoted = Arc::clone(&undivided);
        let whole = if count > 1 { limited_once(whole)? } else { whole };

        let state = buzz_kernel::session(planning_config(self.options, partitions)?, self.start, [])?;
        let builder = SessionStateBuilder::new_from_existing(state)
            .with_query_planner(Arc::new(Fixed(whole)))
            .with_distributed_worker_resolver(Urls(urls))
            .with_distributed_planner()
            .with_distributed_user_codec(InboxCodec)
            .with_distributed_max_tasks_per_stage(count)?
            .with_distributed_children_isolator_unions(false)?
            .with_distributed_desired_task_count_handler(move |event: DesiredTaskCountEvent<'_>| {
                event.plan.downcast_ref::<InboxExec>()?;
                Some(Ok(DesiredTaskCountEventResponse::desired(count)))
            })
            .with_distributed_scale_up_leaf_node_handler(move |event: ScaleUpLeafNodeEvent<'_>| {
                let inbox = event.plan.downcast_ref::<InboxExec>()?;
                if event.task_count != count {
                    demoted.store(true, Ordering::Relaxed);
                }
                Some(divided(event, inbox, count, partitions))
            })
            .with_distributed_route_tasks_handler(move |event: RouteTasksEvent<'_>| {
                let urls = routed.get(..event.task_count)?;
                Some(Ok(RouteTasksEventResponse::new(urls.to_vec())))
            });
        Ok((adjust(builder)?.build(), undivided))
    }
}

/// Makes one variant of the leaf for each comb. A stage that has fewer tasks than there are combs reads them all.
fn divided(
    event: ScaleUpLeafNodeEvent<'_>,
    inbox: &InboxExec,
    count: usize,
    partitions: usize,
) -> DataFusionResult<ScaleUpLeafNodeEventResponse> {
    let variants = (0..count)
        .map(|comb| Arc::new(inbox.over(comb * partitions..(comb + 1) * partitions)) as Arc<dyn ExecutionPlan>);
    let leaf = Arc::new(DistributedLeafExec::try_new(Arc::clone(event.plan), variants)?);
    if event.task_count == count {
        return Ok(ScaleUpLeafNodeEventResponse::new(leaf));
    }
    let gathered = NetworkCoalesceExec::try_new(leaf, count, event.task_count)?;
    Ok(ScaleUpLeafNodeEventResponse::new(Arc::new(gathered)))
}

/// A planner that returns a given plan. `datafusion-distributed` has no function that divides a physical plan, but its
/// planner divides the plan that its inner planner returns.
#[derive(Debug)]
struct Fixed(Arc<dyn ExecutionPlan>);

#[async_trait]
impl QueryPlanner for Fixed {
    async fn create_physical_plan(
        &self,
        _logical: &LogicalPlan,
        _session: &dyn Session,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::clone(&self.0))
    }
}

struct Urls(Vec<Url>);

impl WorkerResolver for Urls {
    fn get_urls(&self) -> DataFusionResult<Vec<Url>> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_compared_without_their_groups_of_files() {
        let plan = |groups: &str, filter: &str| {
            format!("FilterExec: a@0 > {filter}\n  DataSourceExec: file_groups={{{groups}}}, projection=[a, b]\n")
        };
        let two = without_groups(&plan("2 groups: [[0], [0]]", "1"));
        assert_eq!(two, without_groups(&plan("4 groups: [[0], [0], [0], [0]]", "1")));
        assert_ne!(two, without_groups(&plan("2 groups: [[0], [0]]", "2")));
        assert!(two.contains("projection=[a, b]"));
    }
}
