//! Faults that tests can inject.

use std::time::Duration;

use super::ApiError;

/// A fault injected into one invocation.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The Invoke API rejects the request.
    Refuse(ApiError),
    /// The process dies as soon as it receives the event.
    DieAtStart,
    /// The process completes its work, and dies before its response is accepted.
    DieBeforeAnswer,
    /// The event runs twice concurrently; the later response is returned.
    Twice,
    /// The instance receives the event after a delay.
    Slow(Duration),
    /// The process dies so long after it receives the event, unless it has responded before.
    DieAfter(Duration),
    /// The process stops as soon as it receives the event, and never goes on.
    Freeze,
    /// The service kills the process as soon as it receives the event, as one that exceeds its memory.
    OutOfMemory,
    /// The process completes its work, and another response takes the place of its own.
    Answer(String),
}
