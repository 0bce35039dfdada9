//! The attempts of a query's tasks, and when they ran.

use buzz_protocol::{ErrorKind, StageId, TaskIndex};
use serde::{Deserialize, Serialize};

/// One attempt of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Reruns of the whole query before it.
    pub reruns: u64,
    /// The stage.
    pub stage: StageId,
    /// Name of its step.
    pub step: String,
    /// The task.
    pub task: TaskIndex,
    /// Number of the attempt of this task in this run, from 1.
    pub attempt: u32,
    /// Milliseconds from the start of the query to that of the attempt.
    pub start_ms: u64,
    /// Milliseconds from the start of the query to the end of the attempt.
    pub end_ms: u64,
    /// Milliseconds that the worker measured; the rest is the way there and back. `None` if it has not answered.
    pub worked_ms: Option<u64>,
    /// Rows that it delivered.
    pub rows: u64,
    /// Bytes that it read from storage.
    pub bytes_read: u64,
    /// Its end.
    pub fate: Fate,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It delivered its rows.
    Done,
    /// It failed.
    Failed(ErrorKind),
    /// It was given up: another attempt was faster, or the query ended.
    Abandoned,
}

/// The attempts of a query so far, up to a number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// The first attempts that ended, in that order.
    pub attempts: Vec<Attempt>,
    /// Number of attempts that were left out.
    pub left_out: u64,
}

impl Timeline {
    /// Returns true if no attempt has ended.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.left_out == 0
    }

    /// Leaves out the attempts beyond `attempts_max`.
    #[must_use]
    pub fn at_most(mut self, attempts_max: usize) -> Self {
        self.left_out += self.attempts.len().saturating_sub(attempts_max) as u64;
        self.attempts.truncate(attempts_max);
        self
    }

    /// Adds an attempt, or leaves it out if there are `attempts_max` already.
    pub(crate) fn add(&mut self, attempt: Attempt, attempts_max: usize) {
        if self.attempts.len() < attempts_max {
            self.attempts.push(attempt);
        } else {
            self.left_out += 1;
        }
    }
}
