//! Partial aggregates of tasks. A task of such a stage reads one split of one file, so that a table with a new file has one
//! new task.

use std::sync::Arc;

use buzz_host::{Host, ResultCache};
use buzz_plan::{MapStage, PartReuse, QueryPlan};
use buzz_protocol::{HBeeTask, InlineRows, Result};

use super::hash_of_build;
use crate::tasks::bare_task;

/// Maximum bytes of the rows of a task, in memory, that are kept.
const PART_BYTES_MAX: u64 = 16 << 20;

/// Fields of a task that do not change its rows: of its run, its place in the plan, and the destination of its rows.
const OF_THE_RUN: [&str; 12] = [
    "objects",
    "build",
    "query",
    "token",
    "deadline_ms",
    "stage",
    "step",
    "task",
    "attempt",
    "partitioning",
    "combs",
    "inline_bytes",
];

/// The partial aggregates that a run uses and keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    place: Option<&'a ResultCache>,
    keeps: bool,
}

impl<'a> Parts<'a> {
    /// Makes the parts of a run of `plan`.
    pub(crate) fn of(host: &'a Host, plan: &QueryPlan) -> Self {
        let place = host.cache.as_deref().filter(|_| plan.part_reuse != PartReuse::Off);
        Self { place, keeps: plan.part_reuse == PartReuse::UseAndKeep }
    }

    /// Returns the part of `task`, which belongs to `stage`. `None` if its rows are neither used nor kept.
    pub(crate) fn part(&self, stage: &MapStage, task: &HBeeTask) -> Option<Part<'a>> {
        let place = self.place.filter(|_| stage.keeps_parts)?;
        Some(Part { place, key: part_key(task)?, keeps: self.keeps })
    }
}

/// The rows of one task.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    place: &'a ResultCache,
    key: String,
    keeps: bool,
}

impl Part<'_> {
    /// Returns the kept rows.
    pub(crate) async fn rows(&self) -> Option<InlineRows> {
        serde_json::from_slice(&self.place.get(&self.key).await?).ok()
    }

    /// Returns true if the rows of a run may be kept.
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Keeps `rows`. A failure is logged: the query does not need it.
    pub(crate) async fn keep(&self, rows: &InlineRows) {
        let kept = async {
            let bytes = serde_json::to_vec(rows).map_err(|error| error.to_string())?;
            self.place.put(&self.key, &bytes).await.map_err(|error| error.to_string())
        };
        if let Err(error) = kept.await {
            tracing::warn!(error, "the rows of a task were not kept");
        }
    }
}

/// Changes `task` so that its rows come back in its outcome, undivided. They are then kept, and delivered where they belong.
pub(crate) fn to_fuse(task: &HBeeTask, inline_bytes: u64) -> HBeeTask {
    HBeeTask {
        partitioning: buzz_protocol::Partitioning::RoundRobin { count: 1 },
        combs: Vec::new(),
        inline_bytes: inline_bytes.min(PART_BYTES_MAX),
        objects: None,
        ..task.clone()
    }
}

/// Returns the key of the rows of `task`: a hash of all of it that determines them. `None` if a file has no tag.
fn part_key(task: &HBeeTask) -> Option<String> {
    let mut files = task.scans.iter().flat_map(|scan| &scan.files);
    if !files.all(|file| file.e_tag.is_some()) {
        return None;
    }
    let mut json = serde_json::to_value(task).ok()?;
    let fields = json.as_object_mut()?;
    for field in OF_THE_RUN {
        fields.remove(field);
    }
    let mut hash = hash_of_build();
    hash.add("kind", "part");
    hash.add("task", json.to_string());
    Some(hash.key())
}

/// Counts the tasks of `plan` whose rows are kept, by stage: the name of the step, the kept ones and all.
///
/// # Errors
/// `Internal` if a task cannot be made.
pub(super) async fn found(place: &Arc<ResultCache>, plan: &QueryPlan) -> Result<Vec<(String, usize, usize)>> {
    let mut stages = Vec::new();
    for stage in plan.stages.iter().filter(|stage| stage.keeps_parts) {
        let mut found = 0;
        for task in 0..stage.task_count() {
            if let Some(key) = part_key(&bare_task(plan, stage, task)?) {
                found += usize::from(place.has(&key).await);
            }
        }
        stages.push((stage.step.clone(), found, stage.task_count()));
    }
    Ok(stages)
}
