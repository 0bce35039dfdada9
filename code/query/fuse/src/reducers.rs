//! Chooses who reduces a run, and how rows get there: combs, Fuse itself, or Fuse and tasks through objects. The choice
//! follows from the expected number of rows and the combs that are running.

use std::collections::HashMap;

use buzz_host::Host;
use buzz_plan::{MapStage, QueryPlan, is_cut_alike};
use buzz_protocol::{CombAddress, ErrorKind, InlineRows, ReducerChoice, Result, StageId, TaskIndex, TaskOutcome};
use parking_lot::Mutex;

/// Bytes of files for each partition of the rows that are exchanged through objects.
const PARTITION_BYTES: u64 = 64 << 20;

/// Bounds of the number of these partitions. Each task writes a range for each, and each reader requests every range.
const PARTITIONS_MIN: usize = 4;
const PARTITIONS_MAX: usize = 64;

/// The reducers of one run of a query.
#[derive(Debug, Clone)]
pub(crate) enum Reducers {
    /// Fuse; others may take over if the rows do not fit.
    Fuse {
        /// True if combs, or objects, may take over.
        or_combs: bool,
    },
    /// These combs.
    Combs(Vec<CombAddress>),
    /// Fuse and tasks, which read deliveries from objects.
    Objects {
        /// Number of partitions of the rows.
        partitions: usize,
    },
}

impl Reducers {
    /// Chooses for the first run of `plan`.
    ///
    /// # Errors
    /// `Unavailable` if combs are needed and none can be started.
    pub(crate) async fn choose(host: &Host, plan: &QueryPlan) -> Result<Self> {
        let choice = plan.options.reducer;
        if plan.fuse_only.is_some() && (choice != ReducerChoice::Objects || plan.stages.is_empty()) {
            // No comb can take over, but Fuse can read more rows from objects than from outcomes.
            return Ok(Self::Fuse { or_combs: choice == ReducerChoice::Auto && host.objects.is_for_all() });
        }
        match choice {
            ReducerChoice::Inline => Ok(Self::Fuse { or_combs: false }),
            ReducerChoice::Comb => Self::combs(host, plan).await,
            ReducerChoice::Objects => Self::objects(plan).await,
            ReducerChoice::Auto => {
                match host.combs.warm(plan.comb_count).await {
                    Ok(warm) if warm.len() == plan.comb_count => return Ok(Self::Combs(warm)),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "failed to list the running combs"),
                }
                if plan.expects_few_rows() {
                    return Ok(Self::Fuse { or_combs: true });
                }
                if host.objects.is_for_all() { Self::objects(plan).await } else { Self::combs(host, plan).await }
            }
        }
    }

    /// Chooses for another run of `plan`, after one with these reducers: objects if deliveries were objects, else combs. If the
    /// run is the last one or there are no combs, Fuse reduces it, if the options leave that open and it
    /// `may_reduce_itself`.
    ///
    /// # Errors
    /// `Unavailable` if combs are needed and none can be started.
    pub(crate) async fn again(
        &self,
        host: &Host,
        plan: &QueryPlan,
        may_reduce_itself: bool,
        last: bool,
    ) -> Result<Self> {
        if matches!(self, Self::Objects { .. }) {
            return Ok(self.clone());
        }
        let auto = plan.options.reducer == ReducerChoice::Auto;
        // Rows of any number fit in objects.
        if auto && host.objects.is_for_all() && (last || !may_reduce_itself || !host.combs.are_possible()) {
            return Self::objects(plan).await;
        }
        if may_reduce_itself && auto && last {
            return Ok(Self::Fuse { or_combs: false });
        }
        match Self::combs(host, plan).await {
            Err(error) if auto && error.kind == ErrorKind::Unavailable && host.objects.is_for_all() => {
                tracing::warn!(%error, "there are no combs; rows are exchanged through objects");
                Self::objects(plan).await
            }
            Err(error) if may_reduce_itself && auto && error.kind == ErrorKind::Unavailable => {
                tracing::warn!(%error, "there are no combs; Fuse reduces the query");
                Ok(Self::Fuse { or_combs: false })
            }
            combs => combs,
        }
    }

    /// Returns the exchange through objects, with a number of partitions that follows from the bytes of the files.
    ///
    /// # Errors
    /// `Invalid` if a reduce step cannot be planned.
    async fn objects(plan: &QueryPlan) -> Result<Self> {
        let (planned, partitions) = (plan.partitions_per_comb, partitions_of(plan));
        for step in &plan.reduces {
            if !is_cut_alike(step, plan, partitions).await? {
                return Ok(Self::Objects { partitions: planned });
            }
        }
        Ok(Self::Objects { partitions })
    }

    /// Returns the number of partitions of the rows of `plan` if they are expected to go through objects in a bucket. In one process,
    /// objects are files, and requests for them are not counted.
    pub(crate) async fn expected_partitions(host: &Host, plan: &QueryPlan) -> Option<usize> {
        let by_objects = match plan.options.reducer {
            ReducerChoice::Objects => true,
            ReducerChoice::Auto => plan.fuse_only.is_none() && !plan.expects_few_rows(),
            ReducerChoice::Comb | ReducerChoice::Inline => false,
        };
        if !by_objects || !host.objects.is_for_all() {
            return None;
        }
        match Self::objects(plan).await {
            Ok(Self::Objects { partitions }) => Some(partitions),
            _ => None,
        }
    }

    /// Describes the choice for the first run of `plan`, as far as it is known before the run, for `EXPLAIN`.
    pub(crate) fn expected(host: &Host, plan: &QueryPlan) -> String {
        let objects = "objects in storage, which Fuse reads if they are small, and tasks if they are large";
        if plan.stages.is_empty() {
            return "Fuse, since no task runs".to_string();
        }
        let combs = if plan.comb_count == 1 { "1 comb".to_string() } else { format!("{} combs", plan.comb_count) };
        match (plan.options.reducer, &plan.fuse_only) {
            (ReducerChoice::Objects, _) => format!("{objects} (by the option `reducer`)"),
            (_, Some(because)) => format!("Fuse, to which tasks return their rows ({because})"),
            (ReducerChoice::Inline, _) => {
                "Fuse, to which tasks return their rows (by the option `reducer`)".to_string()
            }
            (ReducerChoice::Comb, _) => format!("{combs} (by the option `reducer`)"),
            (ReducerChoice::Auto, _) => {
                let otherwise = match (plan.expects_few_rows(), host.objects.is_for_all()) {
                    (true, _) => "Fuse, to which tasks return their rows, since few are expected".to_string(),
                    (false, true) => format!("{objects}, since many rows are expected and combs take time to start"),
                    (false, false) => format!("{combs} that are started, since many rows are expected"),
                };
                if !host.combs.are_possible() {
                    return otherwise;
                }
                format!("{combs} if running already; otherwise {otherwise}")
            }
        }
    }

    /// Returns combs that are ready, starting them if necessary.
    ///
    /// # Errors
    /// `Unavailable` if fewer combs can be had than the plan requires.
    async fn combs(host: &Host, plan: &QueryPlan) -> Result<Self> {
        host.combs.ready(plan.comb_count).await.map(Self::Combs)
    }

    /// Returns the combs that reduce; empty for Fuse.
    pub(crate) fn addresses(&self) -> &[CombAddress] {
        match self {
            Self::Fuse { .. } | Self::Objects { .. } => &[],
            Self::Combs(combs) => combs,
        }
    }

    /// Returns true if combs, or objects, may take over from Fuse.
    pub(crate) fn or_combs(&self) -> bool {
        matches!(self, Self::Fuse { or_combs: true })
    }
}

/// Returns the number of partitions of rows that go through objects: one for each [`PARTITION_BYTES`] of the files.
fn partitions_of(plan: &QueryPlan) -> usize {
    let bytes: u64 = plan.stages.iter().map(MapStage::bytes).sum();
    let wanted = usize::try_from(bytes.div_ceil(PARTITION_BYTES)).unwrap_or(PARTITIONS_MAX);
    wanted.clamp(PARTITIONS_MIN, PARTITIONS_MAX).max(plan.partitions_per_comb)
}

/// Rows that Fuse keeps in case the query is rerun on combs. Then only the tasks whose rows are not kept run again.
#[derive(Debug)]
pub(crate) struct TaskCache {
    bytes_max: u64,
    tasks: Mutex<CachedTasks>,
}

#[derive(Debug, Default)]
struct CachedTasks {
    by_task: HashMap<(StageId, TaskIndex), (TaskOutcome, InlineRows)>,
    bytes: u64,
}

impl TaskCache {
    /// Makes an empty store of at most `bytes_max` bytes.
    pub(crate) fn up_to(bytes_max: u64) -> Self {
        Self { bytes_max, tasks: Mutex::default() }
    }

    /// Keeps the rows of a task that ended with `outcome` if they fit in the bound.
    pub(crate) fn keep(&self, stage: StageId, task: TaskIndex, outcome: &TaskOutcome, rows: &InlineRows) {
        let mut kept = self.tasks.lock();
        if kept.bytes + outcome.bytes_delivered <= self.bytes_max {
            kept.bytes += outcome.bytes_delivered;
            kept.by_task.insert((stage, task), (outcome.clone(), rows.clone()));
        }
    }

    /// Removes and returns the kept rows of a task.
    pub(crate) fn take(&self, stage: StageId, task: TaskIndex) -> Option<(TaskOutcome, InlineRows)> {
        self.tasks.lock().by_task.remove(&(stage, task))
    }
}
