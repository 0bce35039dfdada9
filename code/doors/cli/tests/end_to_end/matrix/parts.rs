//! The network and the operators of a host with a fault.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_exchange::{
    Commit, DeliveryHeader, DeliverySink, ExchangeCount, InboxNetwork, InboxService, Network, OpenQuery,
};
use buzz_kernel::{Guard, guarded};
use buzz_protocol::{CombAddress, QueryError, QueryId, QueryToken, Result, StageId};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_distributed::WorkerChannel;
use futures::StreamExt;

use super::fault::Fault;
use super::host::Trouble;

/// Fuse's way to the combs, which may refuse the query, or be lost after a commit.
#[derive(Debug)]
pub(crate) struct TroubledNetwork {
    pub(crate) inner: Arc<dyn Network>,
    pub(crate) trouble: Arc<Trouble>,
}

#[async_trait]
impl InboxNetwork for TroubledNetwork {
    async fn inbox(&self, address: &CombAddress, token: &QueryToken) -> Result<Arc<dyn InboxService>> {
        let inner = self.inner.inbox(&self.trouble.route_of_fuse(address).await, token).await?;
        Ok(Arc::new(TroubledInbox { inner, trouble: Arc::clone(&self.trouble) }))
    }
}

#[async_trait]
impl Network for TroubledNetwork {
    async fn build(&self, address: &CombAddress) -> Result<String> {
        self.inner.build(&self.trouble.route_of_fuse(address).await).await
    }

    async fn worker(&self, address: &CombAddress) -> Result<Box<dyn WorkerChannel>> {
        self.inner.worker(&self.trouble.route_of_fuse(address).await).await
    }
}

#[derive(Debug)]
struct TroubledInbox {
    inner: Arc<dyn InboxService>,
    trouble: Arc<Trouble>,
}

#[async_trait]
impl InboxService for TroubledInbox {
    async fn open(&self, open: OpenQuery) -> Result<()> {
        if self.trouble.fault == Fault::CombRefuses && self.trouble.first() {
            return Err(QueryError::unavailable("this comb has 8 queries already"));
        }
        self.inner.open(open).await
    }

    async fn deliver(&self, header: DeliveryHeader, schema: SchemaRef) -> Result<Box<dyn DeliverySink>> {
        self.inner.deliver(header, schema).await
    }

    async fn commit(&self, query: QueryId, commits: Vec<Commit>) -> Result<()> {
        let commits_rows = !commits.is_empty();
        self.inner.commit(query, commits).await?;
        if self.trouble.fault == Fault::CombsDieAfterCommit && commits_rows && self.trouble.first() {
            self.trouble.kill_combs();
        }
        Ok(())
    }

    async fn check_open(&self, query: QueryId) -> Result<()> {
        self.inner.check_open(query).await
    }

    fn demand(&self, query: QueryId) -> Option<tokio::sync::watch::Receiver<BTreeSet<StageId>>> {
        self.inner.demand(query)
    }

    async fn check_read(&self, query: QueryId, unread: BTreeSet<StageId>) -> Result<Vec<ExchangeCount>> {
        self.inner.check_read(query, unread).await
    }

    async fn abort(&self, query: QueryId, reason: QueryError) -> Result<()> {
        self.inner.abort(query, reason).await
    }

    async fn close(&self, query: QueryId) -> Result<()> {
        self.inner.close(query).await
    }
}

/// A change of the plans of combs.
pub(crate) type Change = Arc<dyn Fn(Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> + Send + Sync>;

/// Returns the change that makes readers of inboxes slow or busy, if `fault` is one of these. Counts the readers in `met`.
pub(crate) fn pausing(fault: Fault, met: &Arc<AtomicUsize>) -> Change {
    let pause = match fault {
        // A connection is lost if a ping, which is sent after 2 seconds, is not answered within 3 seconds.
        Fault::OperatorComputes => Pause::Computes(Duration::from_millis(6500)),
        Fault::ReaderIsSlow => Pause::Waits(Duration::from_millis(100)),
        _ => return Arc::new(Ok),
    };
    let pausing = Arc::new(Pausing { pause, met: Arc::clone(met) });
    Arc::new(move |plan| {
        plan.transform_up(|node| match node.name() {
            "InboxExec" => Ok(Transformed::yes(guarded(node, Arc::clone(&pausing) as Arc<dyn Guard>))),
            _ => Ok(Transformed::no(node)),
        })
        .data()
    })
}

/// Delays the rows of an operator.
#[derive(Debug, Clone, Copy)]
enum Pause {
    /// Occupies the thread before the first batch.
    Computes(Duration),
    /// Waits before each batch.
    Waits(Duration),
}

#[derive(Debug, Clone)]
struct Pausing {
    pause: Pause,
    met: Arc<AtomicUsize>,
}

impl Guard for Pausing {
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        self.met.fetch_add(1, Ordering::SeqCst);
        let batches = inner.execute(partition, ctx)?;
        let schema = batches.schema();
        Ok(match self.pause {
            Pause::Computes(time) => {
                let computing = futures::stream::poll_fn(move |_| {
                    std::thread::sleep(time);
                    Poll::Ready(None)
                });
                Box::pin(RecordBatchStreamAdapter::new(schema, computing.chain(batches)))
            }
            Pause::Waits(time) => {
                let slow = batches.then(move |batch| async move {
                    tokio::time::sleep(time).await;
                    batch
                });
                Box::pin(RecordBatchStreamAdapter::new(schema, slow))
            }
        })
    }

    fn fresh(&self) -> Arc<dyn Guard> {
        Arc::new(self.clone())
    }
}
