//! Counts the attempts of tasks, and the time that is paid for.

use std::sync::atomic::{AtomicU32, Ordering};

use buzz_engine::{Attempt, Fate, Progress};
use buzz_protocol::{HBeeTask, Result, TaskOutcome, milliseconds};

/// Attempts of one task.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// Attempts that were started.
    started: AtomicU32,
    /// Attempts that no worker accepted.
    refused: AtomicU32,
}

impl Attempts {
    /// Returns the number of the next attempt, from 1.
    pub(crate) fn next(&self) -> u32 {
        self.started.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds an attempt that has no number.
    pub(crate) fn add(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u32 {
        self.started.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed)
    }
}

/// Adds an attempt and its time to the progress when it is dropped.
pub(crate) struct Paid<'a> {
    progress: &'a Progress,
    /// The attempt, which counts as abandoned until it ends.
    attempt: Attempt,
}

impl<'a> Paid<'a> {
    pub(crate) fn start(progress: &'a Progress, task: &HBeeTask) -> Self {
        let now = milliseconds(progress.elapsed());
        let attempt = Attempt {
            reruns: Progress::get(&progress.reruns),
            stage: task.stage,
            step: task.step.clone(),
            task: task.task,
            attempt: task.attempt,
            start_ms: now,
            end_ms: now,
            worked_ms: None,
            rows: 0,
            bytes_read: 0,
            fate: Fate::Abandoned,
        };
        Self { progress, attempt }
    }

    pub(crate) fn end(&mut self, ran: &Result<TaskOutcome>) {
        match ran {
            Ok(outcome) => {
                self.attempt.fate = Fate::Done;
                // Otherwise only the caller can measure the time.
                self.attempt.worked_ms = Some(outcome.milliseconds);
                self.attempt.rows = outcome.rows.iter().sum();
                self.attempt.bytes_read = outcome.bytes_scanned;
            }
            Err(error) => self.attempt.fate = Fate::Failed(error.kind),
        }
    }
}

impl Drop for Paid<'_> {
    fn drop(&mut self) {
        self.attempt.end_ms = milliseconds(self.progress.elapsed());
        let waited = self.attempt.end_ms.saturating_sub(self.attempt.start_ms);
        Progress::add(&self.progress.task_milliseconds, self.attempt.worked_ms.unwrap_or(waited));
        self.progress.attempt_ended(|| self.attempt.clone());
    }
}
