//! The state of a pipeline between two epochs, and the names of its stages.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};

use crate::feed::Rows;
use crate::stage::StageState;

/// The state of a pipeline between two epochs.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) stages: Vec<Vec<StageState>>,
    /// Event time by source.
    pub sources: BTreeMap<String, SourceTime>,
    /// The watermark of each statement, in nanoseconds.
    pub watermarks: Vec<i64>,
    /// Rows of lookup tables by their feed.
    pub(super) lookups: BTreeMap<String, Rows>,
}

/// The progress of the event time of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceTime {
    /// The highest watermark seen, by partition, in nanoseconds.
    pub partitions: BTreeMap<String, i64>,
    /// The watermark of the source. It never moves back.
    pub watermark: Option<i64>,
    /// The largest distance between a row's time and its watermark.
    pub delay: i64,
}

/// Identifies a stage in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId {
    /// The statement.
    pub statement: usize,
    /// The stage in it.
    pub stage: usize,
}

impl std::fmt::Display for StageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}-{}", self.statement, self.stage)
    }
}

impl std::str::FromStr for StageId {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.strip_prefix('s').and_then(|rest| rest.split_once('-'));
        let parsed = parts.and_then(|(a, b)| Some(Self { statement: a.parse().ok()?, stage: b.parse().ok()? }));
        parsed.ok_or_else(|| QueryError::data(format!("`{text}` is not the name of a stage")))
    }
}
