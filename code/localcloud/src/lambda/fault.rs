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
}
