//! Work done for an answer.

use std::time::Duration;

use buzz_protocol::{Requests, StageId, TaskIndex, TaskOutcome};
use serde::{Deserialize, Serialize};

use crate::{Estimate, Timeline};

/// Work done for an answer.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Rows of the result.
    pub rows: u64,
    /// Files of the tables that map stages read.
    pub files_found: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Tasks.
    pub tasks: u64,
    /// Attempts beyond each task's first.
    pub retries: u64,
    /// Attempts that no worker took. They are among the retries, and nothing of them ran.
    pub refusals: u64,
    /// Attempts beside one that took much longer than the other tasks. They are among the retries.
    pub stragglers: u64,
    /// Runs of the whole query beyond the first.
    pub reruns: u64,
    /// Rows delivered by tasks.
    pub rows_delivered: u64,
    /// Bytes of these rows in memory.
    pub bytes_delivered: u64,
    /// Combs that reduced; 0 if Fuse did.
    pub combs: usize,
    /// Objects in storage through which tasks delivered their rows.
    pub objects: u64,
    /// Summary of each stage's tasks. A query with a LIMIT may end before all its tasks have.
    pub stages: Vec<StageSummary>,
    /// Time to open the catalogs.
    pub opened_in: Duration,
    /// Time to plan.
    pub planned_in: Duration,
    /// Time from dispatch to the last row.
    pub ran_in: Duration,
    /// Time from the question to the answer.
    pub total: Duration,
    /// Requests to buckets, of Fuse and of tasks that succeeded.
    pub requests: Requests,
    /// US dollars by list price of the query's own work; None on one machine, where nothing is billed.
    pub cost_usd: Option<f64>,
    /// Combs that were started for the query.
    pub combs_started: u64,
    /// US dollars by list price of the start and the idle time of these combs, apart from the query's own work; None on
    /// one machine.
    pub started_usd: Option<f64>,
    /// Estimate of a run, with a plan that was not run.
    pub estimate: Option<Estimate>,
    /// Attempts of the tasks, as many as the option `timeline_attempts` keeps.
    pub timeline: Timeline,
    /// Results of earlier queries that were used again.
    pub reused: Reused,
}

/// Results of earlier queries that were used again, with the option `reuse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reused {
    /// True if the whole answer was kept.
    pub answer: bool,
    /// Tasks whose partial aggregates were kept. They are among the tasks, and nothing of them ran.
    pub tasks: u64,
}

impl Reused {
    /// Returns true if nothing was used again.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Summary {
    /// Returns true if something was run.
    pub fn ran(&self) -> bool {
        !self.ran_in.is_zero()
    }

    /// Returns a text about combs that were started for the query, such as `1 comb for $0.008742`; `None` if none
    /// were.
    pub fn started_note(&self) -> Option<String> {
        let usd = self.started_usd.filter(|_| self.combs_started > 0)?;
        let combs = if self.combs_started == 1 { "comb" } else { "combs" };
        Some(format!("{} {combs} for ${usd:.6}", self.combs_started))
    }

    /// Returns a text about what was used again, such as `the answer` or `3 of 4 tasks`; `None` if nothing was.
    pub fn reused_note(&self) -> Option<String> {
        match self.reused {
            Reused { answer: true, .. } => Some("the answer".to_string()),
            Reused { tasks: 0, .. } => None,
            Reused { tasks, .. } => Some(format!("{tasks} of {} tasks", self.tasks)),
        }
    }

    /// Returns a text about the requests to buckets, such as `30 GET, 2 PUT`; `None` if there were none.
    pub fn requests_note(&self) -> Option<String> {
        let Requests { gets, puts } = self.requests;
        (self.requests.total() > 0).then(|| format!("{gets} GET, {puts} PUT"))
    }
}

/// Summary of the accepted tasks of one stage.
#[derive(Debug, Clone)]
pub struct StageSummary {
    /// The stage.
    pub stage: StageId,
    /// Name of its step.
    pub step: String,
    /// Milliseconds that each task took, and the task.
    pub tasks: Vec<(u64, TaskIndex)>,
    /// Attempts of all tasks.
    pub attempts: u32,
    /// Rows that the scans produced.
    pub rows_scanned: u64,
    /// Bytes that the scans read from storage.
    pub bytes_scanned: u64,
    /// Bytes of the delivered rows in memory.
    pub bytes_delivered: u64,
    /// Delivered rows, by partition of all combs.
    pub rows_by_partition: Vec<u64>,
}

impl StageSummary {
    /// Makes the summary of a stage of which no task has been accepted.
    pub(crate) fn new(stage: StageId, step: &str, partitions: usize) -> Self {
        Self {
            stage,
            step: step.to_string(),
            tasks: Vec::new(),
            attempts: 0,
            rows_scanned: 0,
            bytes_scanned: 0,
            bytes_delivered: 0,
            rows_by_partition: vec![0; partitions],
        }
    }

    /// Adds an accepted task.
    pub(crate) fn add(&mut self, task: TaskIndex, outcome: &TaskOutcome, attempts: u32) {
        self.tasks.push((outcome.milliseconds, task));
        self.attempts += attempts;
        self.rows_scanned += outcome.rows_scanned;
        self.bytes_scanned += outcome.bytes_scanned;
        self.bytes_delivered += outcome.bytes_delivered;
        for (sum, rows) in self.rows_by_partition.iter_mut().zip(&outcome.rows) {
            *sum += rows;
        }
    }

    /// Returns the rows that were delivered to each of `combs` combs.
    pub fn rows_by_comb(&self, combs: usize) -> Vec<u64> {
        let share = (self.rows_by_partition.len() / combs.max(1)).max(1);
        self.rows_by_partition.chunks(share).map(|rows| rows.iter().sum()).collect()
    }

    /// Returns the median of the tasks' milliseconds, and the slowest task's with its index. None without tasks.
    pub fn median_and_slowest(&self) -> Option<(u64, u64, TaskIndex)> {
        let mut tasks = self.tasks.clone();
        tasks.sort_unstable();
        let (slowest, task) = *tasks.last()?;
        Some((tasks[(tasks.len() - 1) / 2].0, slowest, task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_left_out_where_there_is_nothing() {
        let none = Summary { cost_usd: Some(0.001), started_usd: Some(0.0), ..Summary::default() };
        assert_eq!((none.started_note(), none.requests_note(), none.reused_note()), (None, None, None));
        let reused = Reused { answer: false, tasks: 3 };
        let parts = Summary { tasks: 4, reused, ..none.clone() };
        assert_eq!(parts.reused_note().as_deref(), Some("3 of 4 tasks"));
        let answer = Summary { reused: Reused { answer: true, tasks: 0 }, ..none.clone() };
        assert_eq!(answer.reused_note().as_deref(), Some("the answer"));
        let requests = Requests { gets: 30, puts: 2 };
        let some = Summary { requests, combs_started: 1, started_usd: Some(0.008_742), ..none };
        assert_eq!(some.started_note().as_deref(), Some("1 comb for $0.008742"));
        assert_eq!(some.requests_note().as_deref(), Some("30 GET, 2 PUT"));
        let two = Summary { combs_started: 2, ..some };
        assert_eq!(two.started_note().as_deref(), Some("2 combs for $0.008742"));
    }
}
