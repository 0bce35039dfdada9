//! One wait for combs: what was seen at the last look, and what was started.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use buzz_protocol::{CombAddress, ErrorKind, QueryError, Result, milliseconds};
use tokio::time::Instant;

use super::tasks::CombTask;
use super::{FargateCombs, SILENT_MAX};

/// The state of the tasks at one look.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    /// Slots with a live task.
    pub(super) slots: HashSet<usize>,
    /// Combs that answered with this build, ordered by slot.
    pub(super) ready: Vec<(usize, CombAddress)>,
    /// Tasks that do not answer yet.
    pub(super) coming: Vec<(CombTask, Option<CombAddress>)>,
    /// Stopped tasks, of those that [`Wait::known`] returns.
    pub(super) dead: Vec<CombTask>,
}

/// The state of one wait for combs.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// ARN and generation of each task started here, by slot. The list of ECS lags behind.
    pub(super) started: BTreeMap<usize, (String, u64)>,
    /// Number of stopped tasks of each slot.
    pub(super) dead: HashMap<usize, usize>,
    /// Times at which combs were started here.
    pub(super) since: Vec<Instant>,
    /// First time that a running task did not answer, by ARN.
    pub(super) silent: HashMap<String, Instant>,
    /// The last refusal of ECS.
    pub(super) refused: Option<QueryError>,
}

impl Wait {
    /// Records that ECS refused a call.
    ///
    /// # Errors
    /// `error` itself if a later call would fail as well.
    pub(super) fn refused(&mut self, error: QueryError) -> Result<()> {
        if error.kind != ErrorKind::Unavailable {
            return Err(error);
        }
        tracing::warn!(%error, "ECS refused a call, retrying");
        self.refused = Some(error);
        Ok(())
    }

    /// Returns the ARNs of the tasks started here.
    pub(super) fn known(&self) -> HashSet<String> {
        self.started.values().map(|(arn, _)| arn.clone()).collect()
    }

    /// Counts the tasks that may still become ready. Excludes tasks that run for [`SILENT_MAX`] without an answer.
    pub(super) fn coming(&mut self, fleet: &Fleet) -> usize {
        // A task that just started may not be listed yet.
        let listed =
            |slot: &usize, arn: &str| fleet.slots.contains(slot) || fleet.dead.iter().any(|task| task.arn == arn);
        let mut count = self.started.iter().filter(|(slot, (arn, _))| !listed(slot, arn)).count();
        for (task, _) in &fleet.coming {
            if !task.is_running() {
                count += 1;
                continue;
            }
            let since = *self.silent.entry(task.arn.clone()).or_insert_with(Instant::now);
            count += usize::from(since.elapsed() < SILENT_MAX);
        }
        count
    }
}

/// A wait for combs. The time for which those were waited for that it started counts also if it is cancelled.
pub(super) struct Waiting<'a> {
    pub(super) combs: &'a FargateCombs,
    pub(super) wait: Wait,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.wait.since.iter().map(|since| milliseconds(since.elapsed()));
        self.combs.started_ms.fetch_add(waited.fold(0, u64::saturating_add), Ordering::Relaxed);
    }
}
