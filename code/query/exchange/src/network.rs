//! Connections to combs: in the same process, or by gRPC.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_protocol::{BUILD_ID, CombAddress, QueryError, QueryToken, Result};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    ProducerHead, SetPlanRequest, Worker, WorkerChannel, WorkerToCoordinatorMsg, grpc,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::HeaderMap;
use parking_lot::{Mutex, RwLock};
use tonic::transport::{Channel, Endpoint};
use url::Url;

use crate::connections::OnConnections;
use crate::exchanged::{ExchangeId, Exchanges};
use crate::flight::FlightInbox;
use crate::inbox::Inboxes;
use crate::plan_codec::encode_request;
use crate::service::InboxService;
use crate::status::from_worker;
use crate::tls::{Fingerprint, PinnedConnector};

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
pub struct NetworkChannelResolver {
    network: Arc<dyn Network>,
    /// Counts the rows that Fuse reads. `None` on a comb, whose plans count.
    exchanges: Option<Arc<Exchanges>>,
}

impl NetworkChannelResolver {
    /// Creates the adapter of a comb.
    pub fn of_comb(network: Arc<dyn Network>) -> Self {
        Self { network, exchanges: None }
    }

    /// Creates the adapter of Fuse, whose rows are counted in `exchanges`.
    pub fn of_fuse(network: Arc<dyn Network>, exchanges: Arc<Exchanges>) -> Self {
        Self { network, exchanges: Some(exchanges) }
    }

    /// Returns the worker of `comb`.
    ///
    /// # Errors
    /// As [`Network::worker`].
    pub async fn worker(&self, comb: &CombAddress) -> Result<Box<dyn WorkerChannel>> {
        let worker = self.network.worker(comb).await?;
        Ok(match &self.exchanges {
            Some(exchanges) => Box::new(CountingWorker { worker, exchanges: Arc::clone(exchanges) }),
            None => worker,
        })
    }
}

#[async_trait]
impl ChannelResolver for NetworkChannelResolver {
    async fn get_worker_client_for_url(&self, url: &Url) -> DataFusionResult<Box<dyn WorkerChannel>> {
        self.worker(&CombAddress(url.clone())).await.map_err(QueryError::into_datafusion)
    }
}

/// A worker from which Fuse reads, and whose rows are counted.
struct CountingWorker {
    worker: Box<dyn WorkerChannel>,
    exchanges: Arc<Exchanges>,
}

#[async_trait]
impl WorkerChannel for CountingWorker {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        request: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> DataFusionResult<BoxStream<'static, DataFusionResult<WorkerToCoordinatorMsg>>> {
        self.worker.coordinator_channel(headers, request, messages, metrics, task_ctx).await
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> DataFusionResult<Vec<BoxStream<'static, DataFusionResult<RecordBatch>>>> {
        let exchange = ExchangeId::from(&request.task_key);
        let all = matches!(request.producer_head, ProducerHead::BroadcastExec { .. });
        let streams = self.worker.execute_task(headers, request, metrics, task_ctx).await?;
        Ok(self.exchanges.counted_streams(streams, exchange, all))
    }

    async fn get_worker_info(&mut self, request: GetWorkerInfoRequest) -> DataFusionResult<GetWorkerInfoResponse> {
        self.worker.get_worker_info(request).await
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
        self.combs.write().insert(address, (inboxes, worker));
    }

    /// Makes a comb unreachable, as if its host were lost.
    pub fn remove(&self, address: &CombAddress) {
        self.combs.write().remove(address);
    }

    fn comb(&self, address: &CombAddress) -> Result<(Arc<Inboxes>, Worker)> {
        let combs = self.combs.read();
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
        request: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> DataFusionResult<BoxStream<'static, DataFusionResult<WorkerToCoordinatorMsg>>> {
        let request = encode_request(request, task_ctx)?;
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

/// The reduce worker of a remote comb. Its errors keep their kind and name the comb.
struct RemoteWorker {
    worker: Box<dyn WorkerChannel>,
    comb: CombAddress,
}

impl RemoteWorker {
    fn failed(&self) -> impl Fn(DataFusionError) -> DataFusionError + Send + Sync + 'static + use<> {
        let comb = self.comb.clone();
        move |error| from_worker(&comb, error)
    }
}

#[async_trait]
impl WorkerChannel for RemoteWorker {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        request: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> DataFusionResult<BoxStream<'static, DataFusionResult<WorkerToCoordinatorMsg>>> {
        let failed = self.failed();
        let request = encode_request(request, task_ctx)?;
        let answers = self.worker.coordinator_channel(headers, request, messages, metrics, task_ctx).await;
        Ok(answers.map_err(&failed)?.map_err(failed).boxed())
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> DataFusionResult<Vec<BoxStream<'static, DataFusionResult<RecordBatch>>>> {
        let failed = self.failed();
        let streams = self.worker.execute_task(headers, request, metrics, task_ctx).await.map_err(failed)?;
        Ok(streams.into_iter().map(|batches| batches.map_err(self.failed()).boxed()).collect())
    }

    async fn get_worker_info(&mut self, request: GetWorkerInfoRequest) -> DataFusionResult<GetWorkerInfoResponse> {
        let failed = self.failed();
        self.worker.get_worker_info(request).await.map_err(failed)
    }
}

/// Interval of the keep-alive pings on every connection. Without them, a caller would wait forever for a host that
/// vanishes without closing its connections.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of the answer to a keep-alive ping.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of a new connection, with its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Remote combs. Keeps one connection per comb, opened on first use and shared by all calls.
#[derive(Debug, Default)]
pub struct TcpNetwork {
    channels: Mutex<HashMap<CombAddress, Channel>>,
}

impl TcpNetwork {
    fn channel(&self, address: &CombAddress) -> Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = connected_lazily(address)?;
        channels.insert(address.clone(), channel.clone());
        Ok(channel)
    }
}

/// Returns a channel to the comb at `address`, which connects when it is first used. An address that names the certificate of
/// its comb is reached with TLS.
fn connected_lazily(address: &CombAddress) -> Result<Channel> {
    let fingerprint = Fingerprint::of_address(address)?;
    let mut url = address.0.clone();
    url.set_fragment(None);
    let endpoint = Endpoint::from_shared(url.to_string())
        .map_err(|error| QueryError::internal(format!("`{address}` is not a valid comb address: {error}")))?;
    let endpoint = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .executor(OnConnections);
    Ok(match fingerprint {
        None => endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy(),
        Some(fingerprint) => {
            endpoint.connect_with_connector_lazy(PinnedConnector::new(address, fingerprint, CONNECT_TIMEOUT)?)
        }
    })
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
        let worker = grpc::create_worker_client(grpc::BoxCloneSyncChannel::new(channel));
        Ok(Box::new(RemoteWorker { worker, comb: address.clone() }))
    }
}
