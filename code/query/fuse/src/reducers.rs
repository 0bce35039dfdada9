//! Chooses who reduces a run, combs or Fuse itself, by the expected number of rows and the combs that are running.

use std::collections::HashMap;

use buzz_host::Host;
use buzz_plan::QueryPlan;
use buzz_protocol::{CombAddress, ErrorKind, InlineRows, ReducerChoice, Result, StageId, TaskIndex, TaskOutcome};
use parking_lot::Mutex;

/// The reducers of one run of a query.
#[derive(Debug, Clone)]
pub(crate) enum Reducers {
    /// Fuse; combs may take over if the rows do not fit.
    Fuse {
        /// True if combs may take over.
        or_combs: bool,
    },
    /// These combs.
    Combs(Vec<CombAddress>),
}

impl Reducers {
    /// Chooses for the first run of `plan`.
    ///
    /// # Errors
    /// `Unavailable` if combs are needed and none can be started.
    pub(crate) async fn choose(host: &Host, plan: &QueryPlan) -> Result<Self> {
        if plan.fuse_only.is_some() {
            return Ok(Self::Fuse { or_combs: false });
        }
        match plan.options.reducer {
            ReducerChoice::Inline => Ok(Self::Fuse { or_combs: false }),
            ReducerChoice::Comb => Self::combs(host, plan).await,
            ReducerChoice::Auto if !host.combs.are_possible() => Ok(Self::Fuse { or_combs: false }),
            ReducerChoice::Auto => {
                match host.combs.warm(plan.comb_count).await {
                    Ok(warm) if warm.len() == plan.comb_count => return Ok(Self::Combs(warm)),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "failed to list the running combs"),
                }
                if plan.expects_few_rows() {
                    return Ok(Self::Fuse { or_combs: true });
                }
                Self::combs(host, plan).await
            }
        }
    }

    /// Chooses for another run of `plan`: combs. If the run is the last one or there are no combs, Fuse reduces it, if the
    /// options leave that open and it `may_reduce_itself`.
    ///
    /// # Errors
    /// `Unavailable` if combs are needed and none can be started.
    pub(crate) async fn again(host: &Host, plan: &QueryPlan, may_reduce_itself: bool, last: bool) -> Result<Self> {
        let may = may_reduce_itself && plan.options.reducer == ReducerChoice::Auto;
        if may && last {
            return Ok(Self::Fuse { or_combs: false });
        }
        match Self::combs(host, plan).await {
            Err(error) if may && error.kind == ErrorKind::Unavailable => {
                tracing::warn!(%error, "there are no combs; Fuse reduces the query");
                Ok(Self::Fuse { or_combs: false })
            }
            combs => combs,
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
            Self::Fuse { .. } => &[],
            Self::Combs(combs) => combs,
        }
    }

    /// Returns true if combs may take over from Fuse.
    pub(crate) fn or_combs(&self) -> bool {
        matches!(self, Self::Fuse { or_combs: true })
    }
}

/// Rows that Fuse keeps in case the query is rerun on combs. Then only the tasks whose rows are not kept run again.
#[derive(Debug)]
pub(crate) struct Kept {
    bytes_max: u64,
    tasks: Mutex<KeptTasks>,
}

#[derive(Debug, Default)]
struct KeptTasks {
    by_task: HashMap<(StageId, TaskIndex), (TaskOutcome, InlineRows)>,
    bytes: u64,
}

impl Kept {
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
