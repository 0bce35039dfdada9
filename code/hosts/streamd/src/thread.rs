//! Threads of their own for what plans and runs scripts: planning recurses and needs a large stack, and an epoch computes
//! for long.

use std::panic::{AssertUnwindSafe, catch_unwind};

use buzz_protocol::{QueryError, Result, THREAD_STACK_BYTES};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Runs the future that `make` returns in a thread of its own, and hands what it returns to `done`.
///
/// # Errors
/// `Unavailable` if the system has no thread.
pub(crate) fn spawn<T, F: Future<Output = T>>(
    name: &str,
    make: impl FnOnce() -> F + Send + 'static,
    done: impl FnOnce(Result<T>) + Send + 'static,
) -> Result<()> {
    let runtime = Handle::current();
    let run = move || {
        let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(make())));
        done(ended.map_err(|panic| QueryError::panicked(panic.as_ref())));
    };
    let thread = std::thread::Builder::new().name(name.to_string()).stack_size(THREAD_STACK_BYTES).spawn(run);
    thread.map_err(|error| QueryError::unavailable(format!("no thread can be started: {error}; try again")))?;
    Ok(())
}

/// Runs the future that `make` returns in a thread of its own, and returns its result.
///
/// # Errors
/// Errors of the future; `Internal` if it panics; `Unavailable` if the system has no thread.
pub(crate) async fn run<T: Send + 'static, F: Future<Output = Result<T>>>(
    name: &str,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    spawn(name, make, move |done| drop(sender.send(done)))?;
    receiver.await.map_err(|_| QueryError::internal("a thread ended without a result"))??
}
