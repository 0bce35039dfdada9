//! The threads of connections.
//!
//! A connection must answer keep-alive pings while operators compute: an operator can occupy its thread for seconds.
//! So the connections of a process have threads of their own.

use std::sync::LazyLock;

use hyper::rt::Executor;
use tokio::runtime::{Builder, Runtime};

/// Threads of the connections of one process. They copy bytes; batches are encoded and decoded elsewhere.
const THREADS: usize = 2;

static CONNECTIONS: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("connections").enable_all().build();
    runtime.expect("the system has threads for connections")
});

/// Runs the tasks of a connection on the threads of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnConnections;

impl<F> Executor<F> for OnConnections
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        CONNECTIONS.spawn(task);
    }
}
