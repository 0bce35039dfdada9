//! Connections to combs: in the same process, or by gRPC.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_protocol::{BUILD_ID, CombAddress, QueryError, QueryToken, Result};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    MaybeEncoded, SetPlanRequest, Worker, WorkerChannel, WorkerToCoordinatorMsg, grpc,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::HeaderMap;
use tonic::transport::{Channel, Endpoint};
use url::Url;

use crate::flight::FlightInbox;
use crate::inbox::Inboxes;
use crate::service::InboxService;

/// The header of every reduce call that carries the session's DataFusion configuration, as a JSON object of strings.
/// Without it, a comb would use default options, and a wrong time zone changes the result.
pub const SESSION_HEADER: &str = "x-buzz-session";

/// The header of every call to a comb that carries the query's token ([`QueryToken`]).
pub const TOKEN_HEADER: &str = "x-buzz-token";

/// Connects to the inboxes of combs, which is all that an HBee needs. Code without a [`Network`] does not depend on the
/// reduce engine.
#[async_trait]
pub trait InboxNetwork: fmt::Debug + Send + Sync {
    /// Returns the inboxes of the comb at `address`. All calls carry `token`.
    ///
    /// # Errors
    /// `Unavailable` when no comb runs at `address`.
    async fn inbox(&self, address: &CombAddress, token: &QueryToken) -> Result<Arc<dyn InboxService>>;
}

/// Connects to combs.
#[async_trait]
pub trait Network: InboxNetwork {
    /// Returns the build of the comb at `address`. Serves as the health check.
    ///
    /// # Errors
    /// `Unavailable` when no comb responds at `address`.
    async fn build(&self, address: &CombAddress) -> Result<String>;

    /// Returns the reduce worker of the comb at `address`.
    ///
    /// # Errors
    /// `Unavailable` when no comb runs at `address`.
    async fn worker(&self, address: &CombAddress) -> Result<Box<dyn WorkerChannel>>;
}

/// Adapts a [`Network`] for `datafusion-distributed` to connect to its workers.
#[derive(Debug, Clone)]
pub struct NetworkChannelResolver(pub Arc<dyn Network>);

#[async_trait]
impl ChannelResolver for NetworkChannelResolver {
    async fn get_worker_client_for_url(&self, url: &Url) -> DataFusionResult<Box<dyn WorkerChannel>> {
        self.0.worker(&CombAddress(url.clone())).await.map_err(QueryError::into_datafusion)
    }
}

/// Combs in this process. Batches are passed by reference. Plans are encoded nevertheless: tasks that run the same plan
/// object would share the state of its operators.
#[derive(Default)]
pub struct MemoryNetwork {
    combs: RwLock<HashMap<CombAddress, (Arc<Inboxes>, Worker)>>,
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").finish_non_exhaustive()
    }
}

impl MemoryNetwork {
    /// Makes a comb reachable.
    pub fn add(&self, address: CombAddress, inboxes: Arc<Inboxes>, worker: Worker) {
        self.combs.write().unwrap_or_else(PoisonError::into_inner).insert(address, (inboxes, worker));
    }

    /// Makes a comb unreachable, as if its host were lost.
    pub fn remove(&self, address: &CombAddress) {
        self.combs.write().unwrap_or_else(PoisonError::into_inner).remove(address);
    }

    fn comb(&self, address: &CombAddress) -> Result<(Arc<Inboxes>, Worker)> {
        let combs = self.combs.read().unwrap_or_else(PoisonError::into_inner);
        combs.get(address).cloned().ok_or_else(|| QueryError::unavailable(format!("no comb runs at {address}")))
    }
}

#[async_trait]
impl InboxNetwork for MemoryNetwork {
    async fn inbox(&self, address: &CombAddress, _token: &QueryToken) -> Result<Arc<dyn InboxService>> {
        Ok(Arc::new(self.comb(address)?.0))
    }
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn build(&self, address: &CombAddress) -> Result<String> {
        self.comb(address).map(|_| BUILD_ID.to_string())
    }

    async fn worker(&self, address: &CombAddress) -> Result<Box<dyn WorkerChannel>> {
        Ok(Box::new(InProcessWorker(self.comb(address)?.1)))
    }
}

struct InProcessWorker(Worker);

#[async_trait]
impl WorkerChannel for InProcessWorker {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        mut request: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> DataFusionResult<BoxStream<'static, DataFusionResult<WorkerToCoordinatorMsg>>> {
        request.plan = MaybeEncoded::Encoded(request.plan.encode(task_ctx)?);
        self.0.coordinator_channel(headers, request, messages.map(Ok).boxed()).await
    }

    async fn execute_task(
        &mut self,
        _headers: HeaderMap,
        request: ExecuteTaskRequest,
        _metrics: ExecutionPlanMetricsSet,
        _task_ctx: &Arc<TaskContext>,
    ) -> DataFusionResult<Vec<BoxStream<'static, DataFusionResult<RecordBatch>>>> {
        let (streams, _) = self.0.execute_task(request).await?;
        Ok(streams.into_iter().map(StreamExt::boxed).collect())
    }

    async fn get_worker_info(&mut self, _request: GetWorkerInfoRequest) -> DataFusionResult<GetWorkerInfoResponse> {
        Ok(GetWorkerInfoResponse { version: self.0.version().to_string() })
    }
}

/// Interval of the keep-alive pings on every connection. Without them, a caller would wait forever for a host that
/// vanishes without closing its connections.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of the answer to a keep-alive ping.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Remote combs. Keeps one connection per comb, opened on first use and shared by all calls.
#[derive(Debug, Default)]
pub struct TcpNetwork {
    channels: Mutex<HashMap<CombAddress, Channel>>,
}

impl TcpNetwork {
    fn channel(&self, address: &CombAddress) -> Result<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(address.to_string())
            .map_err(|error| QueryError::internal(format!("`{address}` is not a valid comb address: {error}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(32 << 20)
            .tcp_nodelay(true)
            .connect_lazy();
        channels.insert(address.clone(), channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl InboxNetwork for TcpNetwork {
    async fn inbox(&self, address: &CombAddress, token: &QueryToken) -> Result<Arc<dyn InboxService>> {
        Ok(Arc::new(FlightInbox::new(address.clone(), self.channel(address)?, token.clone())))
    }
}

#[async_trait]
impl Network for TcpNetwork {
    async fn build(&self, address: &CombAddress) -> Result<String> {
        let nobody = QueryToken::shown("");
        FlightInbox::new(address.clone(), self.channel(address)?, nobody).build().await
    }

    async fn worker(&self, address: &CombAddress) -> Result<Box<dyn WorkerChannel>> {
        let channel = self.channel(address)?;
        Ok(grpc::create_worker_client(grpc::BoxCloneSyncChannel::new(channel)))
    }
}
