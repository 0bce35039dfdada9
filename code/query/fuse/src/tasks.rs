//! Makes the tasks of a plan.

use buzz_plan::{MapStage, QueryPlan};
use buzz_protocol::{BUILD_ID, HBeeTask, Partitioning, QueryId, QueryToken, Result, TaskIndex};

use crate::inboxes::QueryInboxes;

/// Makes a task of the run `query`, which delivers to `inboxes`, or returns up to `inline_bytes` of rows.
///
/// # Errors
/// `Internal` if partition values cannot be converted to arrays.
pub(crate) fn make_task(
    plan: &QueryPlan,
    stage: &MapStage,
    task: usize,
    query: QueryId,
    inboxes: &QueryInboxes,
    inline_bytes: u64,
) -> Result<HBeeTask> {
    Ok(HBeeTask {
        query,
        token: inboxes.token.clone(),
        deadline_ms: Some(inboxes.deadline_ms),
        partitioning: inboxes.partitioning(&stage.keys),
        combs: inboxes.addresses.clone(),
        inline_bytes,
        objects: inboxes.objects.as_ref().map(|place| place.root().to_string()),
        ..bare_task(plan, stage, task)?
    })
}

/// Makes a task without a run: of no query and with no destination.
///
/// # Errors
/// `Internal` if partition values cannot be converted to arrays.
pub(crate) fn bare_task(plan: &QueryPlan, stage: &MapStage, task: usize) -> Result<HBeeTask> {
    let (scans, evaluations) = stage.task_inputs(task)?;
    Ok(HBeeTask {
        build: BUILD_ID.to_string(),
        query: QueryId::fresh(),
        token: QueryToken::fresh(),
        deadline_ms: None,
        stage: stage.id,
        step: stage.step.clone(),
        task: TaskIndex(u32::try_from(task).expect("a stage has fewer than 2^32 tasks")),
        attempt: 1,
        fragment: stage.fragment.clone(),
        scans,
        evaluations,
        session: plan.session.clone(),
        partitioning: Partitioning::RoundRobin { count: 1 },
        combs: Vec::new(),
        inline_bytes: 0,
        objects: None,
        inputs: Vec::new(),
        trace: None,
    })
}
