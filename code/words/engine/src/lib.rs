//! The door to Buzz: one trait that every way in calls and every engine implements.
//!
//! A door (the command line, Fuse's Lambda function, a server) makes a [`Question`], gives it to an [`Engine`], watches
//! the [`Running`] query, and takes its [`Answer`]. Two engines exist: Fuse in this process (`buzz-fuse`) and a client of
//! a deployed stack (`buzz-client`). Both pass the tests in [`contract`].
//!
//! ```text
//! Question ──▶ Engine::start ──▶ Running ──▶ Answer { content: Rows or a plan, summary }
//!                                   │
//!                                   ├ progress()   counts that grow while the query runs, warnings
//!                                   └ cancel()     also happens when it is dropped
//! ```
//!
//! [`Names`] is the registry of names of an engine's tables.
//!
//! Messages between a client and Fuse's function are in [`wire`], one type for both ends.

mod answer;
pub mod contract;
mod cost;
mod names;
mod progress;
mod question;
mod rows;
mod running;
mod summary;
mod timeline;
pub mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use buzz_protocol::Result;

pub use answer::{Answer, Content, FileDescription, TableDescription};
pub use cost::{Between, CombStarts, Cost, Estimate, Used};
pub use names::{Existing, NameChange, NameChanged, NameKind, NameList, Names};
pub use progress::{Phase, Progress, ProgressReport, Status};
pub use question::{Question, Want};
pub use rows::{Batches, ResultBytes, RowSink, Rows, SinkOnce};
pub use running::Running;
pub use summary::{Reused, StageSummary, Summary};
pub use timeline::{Attempt, Fate, Timeline};

/// Answers questions. One engine may answer any number of them at the same time; they do not influence each other.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync {
    /// Opens the catalogs of the question's query and describes each, in the query's order. Runs nothing.
    ///
    /// # Errors
    /// `Invalid` if an entry contradicts itself, `Data` if a table cannot be read, `Unavailable` if a store does not
    /// respond.
    async fn describe(&self, question: &Question) -> Result<Vec<TableDescription>>;

    /// Starts answering `question` and returns at once. Failures, also those of planning, come from
    /// [`Running::answer`]. Must be called within a Tokio runtime.
    ///
    /// If the answer cannot be written in the question's format, the query fails with `Invalid` before any task runs.
    fn start(&self, question: Question) -> Running {
        let progress = Arc::new(Progress::of(question.id));
        self.start_with(question, progress)
    }

    /// Starts answering `question` as [`Engine::start`] does, counting in `progress`.
    fn start_with(&self, question: Question, progress: Arc<Progress>) -> Running;
}
