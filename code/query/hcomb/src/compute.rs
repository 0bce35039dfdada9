//! The threads that run operators.
//!
//! An operator can occupy its thread for seconds. The threads of the server must answer keep-alive pings meanwhile, or
//! callers would take the comb for lost. So calls that run a plan are executed on another runtime.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use buzz_protocol::{QueryError, Result, THREAD_STACK_BYTES};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// The runtime on which a comb runs operators. Dropping it abandons them.
#[derive(Debug)]
pub struct ComputeRuntime(Option<Runtime>);

impl ComputeRuntime {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// `Unavailable` if the system refuses threads.
    pub fn start(threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("compute")
            .thread_stack_size(THREAD_STACK_BYTES)
            .enable_all()
            .build();
        let failed = |error| QueryError::unavailable(format!("a comb cannot start its threads: {error}"));
        Ok(Self(Some(runtime.map_err(failed)?)))
    }

    /// Returns the handle of the runtime.
    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken only when it is dropped").handle()
    }
}

impl Drop for ComputeRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The end of the path of calls that run a plan: `ExecuteTask` of the worker protocol.
const RUNS_A_PLAN: &str = "/ExecuteTask";

/// A gRPC service whose calls that run a plan are executed on another runtime.
#[derive(Debug, Clone)]
pub(crate) struct OnCompute<S> {
    pub(crate) inner: S,
    pub(crate) compute: Handle,
}

impl<S: NamedService> NamedService for OnCompute<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for OnCompute<S>
where
    S: Service<http::Request<Body>, Error = Infallible>,
    S::Response: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(ctx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let runs_a_plan = request.uri().path().ends_with(RUNS_A_PLAN);
        let answer = self.inner.call(request);
        if !runs_a_plan {
            return Box::pin(answer);
        }
        // Dropped with the call, which aborts the task.
        let mut task = JoinSet::new();
        task.spawn_on(answer, &self.compute);
        Box::pin(async move {
            match task.join_next().await {
                Some(Ok(answered)) => answered,
                Some(Err(ended)) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
                // The runtime is stopping, and so are the connections.
                _ => std::future::pending().await,
            }
        })
    }
}
