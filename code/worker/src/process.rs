//! What is the same in all processes: the memory they give to operators, the clock, how a failure is told.

use std::panic::AssertUnwindSafe;

use buzz_protocol::{QueryError, Result};
use buzz_storage::panic_message;
use futures::FutureExt;
use lambda_runtime::Diagnostic;

/// Share of a process's memory that sorts, joins and aggregates may fill. The rest is for decoded batches on their way,
/// connections and code.
pub const POOL_PERCENT: u64 = 60;

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A failed event, as a Lambda function says it.
pub fn failed(error: &QueryError) -> Diagnostic {
    Diagnostic { error_type: error.kind.to_string(), error_message: error.to_string() }
}

/// What `work` comes to; a panic is a bug that the caller hears of, not the end of the process.
///
/// # Errors
/// `Internal` when it panics, else its own.
pub async fn unpanicked<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(QueryError::internal(format!("a bug in Buzz: {}", panic_message(panic.as_ref())))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer_too() {
        let error = unpanicked::<()>(async { panic!("oh") }).await.unwrap_err();
        assert_eq!(error.to_string(), "a bug in Buzz: oh");
    }
}
