//! The status of a pipeline, as its owner has written it down.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Messages that are kept of a pipeline.
const MESSAGES_MAX: usize = 100;

/// Maximum length of a message that is kept.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The state of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// No server runs it yet.
    #[default]
    Created,
    /// Its owner plans the script and loads the state.
    Scheduling,
    /// It runs.
    Running,
    /// It ends its epoch to stop.
    Stopping,
    /// It ends its epoch to go on with other settings.
    Rescaling,
    /// It waits, because a store or a sink does not answer, and tries again.
    Recovering,
    /// It was stopped.
    Stopped,
    /// Its sources have ended.
    Finished,
    /// It has failed, and waits for a restart.
    Failed,
    /// It was deleted.
    Deleted,
}

impl JobState {
    /// Returns true if nothing happens until other settings are wanted.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Stopped | JobState::Finished | JobState::Failed | JobState::Deleted)
    }

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Created => "Created",
            JobState::Scheduling => "Scheduling",
            JobState::Running => "Running",
            JobState::Stopping => "Stopping",
            JobState::Rescaling => "Rescaling",
            JobState::Recovering => "Recovering",
            JobState::Stopped => "Stopped",
            JobState::Finished => "Finished",
            JobState::Failed => "Failed",
            JobState::Deleted => "Deleted",
        }
    }
}

/// The weight of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something to know.
    Info,
    /// Something to look at.
    Warn,
    /// The job has failed, or waits.
    Error,
}

/// A message of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Counts the messages of a pipeline.
    pub n: u64,
    /// The time in milliseconds since 1970.
    pub at_ms: u64,
    /// The weight.
    pub level: Level,
    /// The text.
    pub text: String,
}

/// The status of a pipeline. Its owner overwrites it, so it may be old.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The number of the document of what is wanted to which this status belongs.
    pub wanted: u64,
    /// The state.
    pub state: JobState,
    /// The error of a job that has failed or waits.
    pub error: Option<String>,
    /// Counts the runs.
    pub run: u64,
    /// The start of the last run, in milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// The end of the last run, in milliseconds since 1970.
    pub ended_ms: Option<u64>,
    /// The server that has written this.
    pub server: String,
    /// Number of workers.
    pub workers: usize,
    /// Length of an epoch in microseconds.
    pub epoch_micros: u64,
    /// Sources, stages and sinks, as the JSON of a graph.
    pub graph: Value,
    /// The last messages.
    pub messages: Vec<Message>,
}

impl Status {
    /// Returns true if nothing is left to do for document `n` of what is wanted.
    pub fn settles(&self, n: u64) -> bool {
        self.wanted == n && self.state.is_final()
    }

    /// Adds a message, and forgets the oldest ones beyond a bound.
    pub(crate) fn add(&mut self, level: Level, text: &str) {
        let n = self.messages.last().map_or(1, |last| last.n + 1);
        let text = match text.char_indices().find(|(index, char)| index + char.len_utf8() > MESSAGE_BYTES_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_string(),
        };
        self.messages.push(Message { n, at_ms: buzz_protocol::now_ms(), level, text });
        let more = self.messages.len().saturating_sub(MESSAGES_MAX);
        self.messages.drain(..more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded() {
        let mut status = Status::default();
        for n in 0..150 {
            status.add(Level::Warn, &format!("{n}{}", "é".repeat(3000)));
        }
        assert_eq!(status.messages.len(), 100);
        assert_eq!((status.messages[0].n, status.messages[99].n), (51, 150));
        assert!(status.messages[0].text.starts_with("50é") && status.messages[0].text.len() < 4200);
    }

    #[test]
    fn only_a_final_state_settles_what_is_wanted() {
        let status = |wanted, state| Status { wanted, state, ..Default::default() };
        assert!(status(3, JobState::Failed).settles(3));
        assert!(!status(2, JobState::Failed).settles(3), "a newer document is wanted");
        assert!(!status(3, JobState::Running).settles(3), "its owner may be gone");
    }
}
