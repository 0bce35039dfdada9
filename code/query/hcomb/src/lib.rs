//! HComb: runs reduce plans.
//!
//! A comb has [`Inboxes`], which receive deliveries, and a [`Worker`] of `datafusion-distributed`, which runs its part
//! of the reduce plan over them. [`serve`] serves both on one port. Within one process, they are passed to a
//! [`MemoryNetwork`](buzz_exchange::MemoryNetwork) instead.

mod compute;
mod traced;
mod unknown;

use std::sync::Arc;
use std::time::Duration;

use buzz_exchange::{
    CombCertificate, InboxCodec, Inboxes, Network, NetworkChannelResolver, TOKEN_HEADER, below_exchange, flight_server,
    incoming, session_of,
};
use buzz_kernel::{MemoryShares, aggregates, guarded_joins, scalar_functions, unpanicked_rows};
use buzz_protocol::{BUILD_ID, QueryError, QueryToken, Result};
use buzz_telemetry::of_headers;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::{
    DistributedExt, Worker, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse, WorkerQueryContext,
};
use http::HeaderMap;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};

use compute::OnCompute;
use traced::traced_rows;
use unknown::{BoundedIfUnknown, is_known};

pub use compute::ComputeRuntime;

/// A change of the plans that a comb runs.
pub type PlanChange = Arc<dyn Fn(Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> + Send + Sync>;

/// One comb.
#[derive(Clone)]
pub struct Comb {
    inboxes: Arc<Inboxes>,
    worker: Worker,
    runtime: Arc<RuntimeEnv>,
}

impl std::fmt::Debug for Comb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comb").field("open_queries", &self.inboxes.open_queries()).finish_non_exhaustive()
    }
}

impl Comb {
    /// Creates a comb whose operators may use `memory_bytes`, and which reaches other combs through `network`.
    ///
    /// # Errors
    /// `Internal` if the runtime cannot be created, for example without a directory for temporary files.
    pub fn new(network: Arc<dyn Network>, memory_bytes: u64) -> Result<Comb> {
        Self::changing_plans(network, memory_bytes, Arc::new(Ok))
    }

    /// Creates a comb as [`Comb::new`] that runs `change` of every plan that it receives. Tests inject faults with it.
    ///
    /// # Errors
    /// As [`Comb::new`].
    pub fn changing_plans(network: Arc<dyn Network>, memory_bytes: u64, change: PlanChange) -> Result<Comb> {
        let inboxes = Arc::new(Inboxes::sharing(MemoryShares::new(memory_bytes)));
        let runtime = RuntimeEnvBuilder::new().build_arc()?;
        let parts = SessionParts { inboxes: Arc::clone(&inboxes), network, change, runtime: Arc::clone(&runtime) };
        let session = move |ctx: WorkerQueryContext| {
            let parts = parts.clone();
            async move { reduce_session(ctx, parts) }
        };
        let worker = Worker::from_session_builder(session).with_version(BUILD_ID);
        Ok(Comb { inboxes, worker, runtime })
    }

    /// Returns the inboxes, which receive deliveries.
    pub fn inboxes(&self) -> &Arc<Inboxes> {
        &self.inboxes
    }

    /// Removes the folders with rows that operators spilled. The comb must have ended. Its plans are in a cache, which frees them
    /// at its leisure and so keeps the folders beyond the end of a process.
    pub fn remove_spilled(&self) {
        for folder in self.runtime.disk_manager.temp_dir_paths() {
            if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, folder = %folder.display(), "a folder with spilled rows is left");
            }
        }
    }

    /// Returns the worker, which runs reduce plans.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }
}

/// The parts of a comb that its sessions share.
#[derive(Clone)]
struct SessionParts {
    inboxes: Arc<Inboxes>,
    network: Arc<dyn Network>,
    change: PlanChange,
    /// Runtime of all queries, but for the memory.
    runtime: Arc<RuntimeEnv>,
}

impl SessionParts {
    /// Returns the runtime of the query whose token is `token`: its operators use its share of the memory.
    fn runtime_of(&self, token: &QueryToken) -> DataFusionResult<Arc<RuntimeEnv>> {
        let Some(share) = self.inboxes.share(token) else {
            return Err(QueryError::unavailable("the query is not open on this comb").into_datafusion());
        };
        RuntimeEnvBuilder::from_runtime_env(&self.runtime).with_memory_pool(share.pool()).build_arc()
    }
}

fn reduce_session(mut ctx: WorkerQueryContext, parts: SessionParts) -> DataFusionResult<SessionState> {
    let token = ctx.headers.get(TOKEN_HEADER).cloned();
    let trace = of_headers(&ctx.headers).map(str::to_string);
    let shown = QueryToken::shown(token.as_ref().and_then(|token| token.to_str().ok()).unwrap_or_default());
    let runtime = parts.runtime_of(&shown)?;
    let SessionParts { inboxes, network, change, .. } = parts;
    let config = ctx.builder.config().get_or_insert_default();
    for (key, value) in session_of(&ctx.headers).map_err(QueryError::into_datafusion)? {
        config.options_mut().set(&key, &value)?;
    }
    config.set_extension(inboxes);
    let mut passed_on = HeaderMap::new();
    if let Some(token) = token {
        config.set_extension(Arc::new(shown));
        passed_on.insert(TOKEN_HEADER, token);
    }
    // Of two functions with one name, the later one counts.
    ctx.builder.scalar_functions().get_or_insert_default().extend(scalar_functions());
    ctx.builder.aggregate_functions().get_or_insert_default().extend(aggregates());
    let builder = ctx
        .builder
        .with_runtime_env(runtime)
        .with_distributed_user_codec(InboxCodec)
        .with_distributed_channel_resolver(NetworkChannelResolver::of_comb(network))
        .with_distributed_worker_plan_rewrite_handler(move |event: WorkerPlanRewriteEvent<'_>| {
            let plan = guarded_joins(change(event.plan)?).map_err(QueryError::into_datafusion)?;
            // A broadcast does not notice that its input panics.
            let plan = below_exchange(plan, |plan| traced_rows(unpanicked_rows(plan), trace.as_deref()))?;
            Ok(WorkerPlanRewriteEventResponse::new(unpanicked_rows(plan)))
        })
        // Sent to the other combs with every request for rows.
        .with_distributed_passthrough_headers(passed_on)?;
    Ok(builder.build())
}

/// Interval of HTTP/2 keep-alive pings to callers, so that connections to a lost host are closed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Time within which a caller must answer a keep-alive ping.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a comb on `listener` until `shutdown` resolves. Operators run on `compute`, so that this runtime always
/// answers keep-alive pings. With a `certificate`, all callers must use TLS.
///
/// # Errors
/// `Unavailable` if the socket fails.
pub async fn serve(
    comb: Comb,
    listener: TcpListener,
    certificate: Option<&CombCertificate>,
    compute: Handle,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let inboxes = Arc::clone(&comb.inboxes);
    let worker = comb.worker.into_worker_server();
    let known = move |call: Request<()>| {
        if is_known(&inboxes, call.metadata().as_ref()) {
            return Ok(call);
        }
        Err(Status::unauthenticated("a reduce call requires the token of a query that is open on this comb"))
    };
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .add_service(BoundedIfUnknown {
            inner: flight_server(Arc::clone(&comb.inboxes)),
            inboxes: Arc::clone(&comb.inboxes),
        })
        .add_service(OnCompute { inner: InterceptedService::new(worker, known), compute })
        .serve_with_incoming_shutdown(incoming(listener, certificate), shutdown)
        .await;
    served.map_err(|error| QueryError::unavailable(format!("a comb cannot serve: {error}")))
}
