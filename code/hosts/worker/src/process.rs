//! Shared by all processes: the memory of operators, the clock, and the conversion of failures.

use std::panic::AssertUnwindSafe;

use buzz_protocol::{QueryError, Result, THREAD_STACK_BYTES};
use futures::FutureExt;
use lambda_runtime::Diagnostic;

/// Percentage of a process's memory that sorts, joins and aggregates may use. The rest is for decoded batches,
/// connections and code.
pub const POOL_PERCENT: u64 = 60;

/// Runs the main function of a process on a runtime whose threads have stacks of [`THREAD_STACK_BYTES`].
///
/// # Panics
/// If the system refuses threads, and if `work` panics.
pub fn run_main<T, F>(work: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let run = move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_all().thread_stack_size(THREAD_STACK_BYTES).build();
        runtime.expect("the system has threads for the runtime").block_on(work())
    };
    // The stack of the first thread depends on the system.
    let main = std::thread::Builder::new().name("main".to_string()).stack_size(THREAD_STACK_BYTES).spawn(run);
    match main.expect("the system has a thread for the main function").join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Converts an error to the response of a failed Lambda function, which has a type and a text only. It is for people and
/// for other programs; programs of Buzz exchange [`QueryError`]s.
pub fn failed(error: &QueryError) -> Diagnostic {
    Diagnostic { error_type: error.kind.to_string(), error_message: error.to_string() }
}

/// Awaits `work` and converts a panic to an error, so that a bug fails the event and not the process.
///
/// # Errors
/// `Internal` if `work` panics, otherwise the error of `work`.
pub async fn unpanicked<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(QueryError::panicked(panic.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_becomes_an_error() {
        let error = unpanicked::<()>(async { panic!("oh") }).await.unwrap_err();
        assert_eq!(error.to_string(), "a bug in Buzz stopped the query: oh");
    }
}
