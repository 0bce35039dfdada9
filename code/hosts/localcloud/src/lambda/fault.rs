//! What can be made to go wrong.

use std::time::Duration;

use super::ApiError;

/// A fault of one invocation.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The Invoke API refuses it.
    Refuse(ApiError),
    /// The process dies as soon as it has the event.
    DieAtStart,
    /// The process does its work and dies before its answer is heard.
    DieBeforeAnswer,
    /// The event runs twice at once; the later answer is the one that is given.
    Twice,
    /// The instance has the event only after a while.
    Slow(Duration),
}
