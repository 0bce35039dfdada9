//! The inboxes of one run: reserved before it, sent the commits during it, released after it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use buzz_exchange::{Commit, DeliveryHeader, Exchanges, InboxService, OpenQuery, StageSpec, lost_in_exchange};
use buzz_host::Host;
use buzz_kernel::encode_schema;
use buzz_plan::QueryPlan;
use buzz_protocol::{
    BUILD_ID, CombAddress, DeliveryId, ErrorKind, InlineRows, Partitioning, QueryError, QueryId, QueryToken, Result,
    StageId, TaskIndex,
};
use futures::FutureExt;

use crate::reducers::Reducers;

/// The inboxes of a query, in the order in which they own partitions: one on each comb, or a single one at Fuse.
#[derive(Debug, Clone)]
pub(crate) struct QueryInboxes {
    /// The address of each comb, for deliveries; empty if the inbox is Fuse's own.
    pub(crate) addresses: Vec<CombAddress>,
    /// Fuse's own inbox. None if combs reduce.
    pub(crate) own: Option<Arc<buzz_exchange::Inboxes>>,
    /// The inboxes themselves.
    pub(crate) services: Vec<Arc<dyn InboxService>>,
    /// Partitions of each comb.
    pub(crate) partitions_per_comb: usize,
    /// The counts of the rows that Fuse reads from combs.
    pub(crate) exchanges: Arc<Exchanges>,
    /// The token that calls to combs carry.
    pub(crate) token: QueryToken,
    /// The deadline of the query, in milliseconds since 1970.
    pub(crate) deadline_ms: u64,
}

impl QueryInboxes {
    /// Connects to the inboxes of `reducers`, to which a run of `plan` delivers.
    ///
    /// # Errors
    /// `Unavailable` if a comb cannot be reached.
    pub(crate) async fn connect(host: &Host, plan: &QueryPlan, reducers: &Reducers, deadline_ms: u64) -> Result<Self> {
        let (token, addresses) = (QueryToken::fresh(), reducers.addresses().to_vec());
        let mut services = Vec::new();
        for address in &addresses {
            services.push(host.network.inbox(address, &token).await?);
        }
        let own = matches!(reducers, Reducers::Fuse { .. }).then(Arc::<buzz_exchange::Inboxes>::default);
        services.extend(own.iter().map(|own| Arc::new(Arc::clone(own)) as Arc<dyn InboxService>));
        let (partitions_per_comb, exchanges) = (plan.partitions_per_comb, Arc::default());
        Ok(Self { addresses, own, services, partitions_per_comb, exchanges, token, deadline_ms })
    }

    /// Opens the inboxes for `query`. A failure also carries the positions of all combs that failed.
    ///
    /// # Errors
    /// As [`InboxService::open`].
    pub(crate) async fn open(
        &self,
        plan: &QueryPlan,
        query: QueryId,
        flowing: bool,
        readers: &HashMap<StageId, u32>,
    ) -> Result<(), (QueryError, Vec<usize>)> {
        let maps = plan.stages.iter().map(|stage| (stage.id, &stage.step, &stage.schema, stage.tasks.len()));
        let steps = plan.reduces.iter().filter_map(|step| Some((step.target?, &step.step, &step.schema, 1)));
        let stages: Vec<StageSpec> = maps
            .chain(steps)
            .map(|(stage, step, schema, tasks)| StageSpec {
                stage,
                step: step.clone(),
                schema: encode_schema(schema).into(),
                partitions: 0..0,
                tasks: u32::try_from(tasks).expect("a stage has fewer than 2^32 tasks"),
                readers: readers.get(&stage).copied().unwrap_or_default(),
            })
            .collect();

        let share = self.partitions_per_comb;
        let calls = self.services.iter().enumerate().map(|(comb, service)| {
            let owned = comb * share..(comb + 1) * share;
            let stages = stages.iter().map(|stage| StageSpec { partitions: owned.clone(), ..stage.clone() }).collect();
            let open = OpenQuery {
                build: BUILD_ID.to_string(),
                query,
                token: self.token.clone(),
                deadline_ms: Some(self.deadline_ms),
                stages,
                flowing,
                paced: self.services.len() == 1,
                memory_bytes: plan.options.inbox_memory_bytes,
                disk_bytes: plan.options.inbox_disk_bytes,
            };
            async move { service.open(open).await.err().map(|error| (error, comb)) }
        });
        let mut failed: Vec<(QueryError, usize)> =
            futures::future::join_all(calls).await.into_iter().flatten().collect();
        // A failure that is not a refusal comes first: it fails the query.
        failed.sort_by_key(|(error, comb)| (error.kind == ErrorKind::Unavailable, *comb));
        let Some((error, _)) = failed.first() else {
            return Ok(());
        };
        Err((error.clone(), failed.iter().map(|(_, comb)| *comb).collect()))
    }

    /// Returns the partitioning of the tasks' rows: by hash of the columns `keys`, or round-robin without keys.
    pub(crate) fn partitioning(&self, keys: &[usize]) -> Partitioning {
        let count = self.services.len() * self.partitions_per_comb;
        match keys {
            [] => Partitioning::RoundRobin { count },
            keys => Partitioning::Hash { columns: keys.to_vec(), count },
        }
    }

    /// Sends `commit` to every comb. Its `rows` are by partition, over all combs.
    ///
    /// # Errors
    /// As [`InboxService::commit`].
    pub(crate) async fn commit(&self, query: QueryId, commit: Commit) -> Result<()> {
        let calls = self.services.iter().zip(commit.rows.chunks(self.partitions_per_comb)).map(|(service, rows)| {
            let own = Commit { rows: rows.to_vec(), ..commit.clone() };
            async move {
                match service.commit(query, vec![own.clone()]).await {
                    // The connection broke, or the comb is lost. A commit is idempotent, so it can be sent again.
                    Err(error) if error.kind == ErrorKind::Unavailable => service.commit(query, vec![own]).await,
                    done => done,
                }
            }
        });
        futures::future::try_join_all(calls).await.map(|_| ())
    }

    /// Checks that the reduce plans have read all rows of all inboxes, except those of the stages `unread`, and that no
    /// rows were lost between combs or on their way to Fuse.
    ///
    /// # Errors
    /// As [`InboxService::check_read`]; `Internal` if rows were lost.
    pub(crate) async fn check_read(&self, query: QueryId, unread: &BTreeSet<StageId>) -> Result<()> {
        let calls = self.services.iter().map(|service| service.check_read(query, unread.clone()));
        let mut counts: Vec<_> = futures::future::try_join_all(calls).await?.into_iter().flatten().collect();
        counts.extend(self.exchanges.counts());
        match lost_in_exchange(&counts) {
            Some(lost) => Err(QueryError::internal(lost)),
            None => Ok(()),
        }
    }

    /// Writes the rows of an outcome to Fuse's own inbox, as a delivery that is not yet committed.
    ///
    /// # Errors
    /// As [`InboxService::deliver`].
    pub(crate) async fn deliver(
        &self,
        query: QueryId,
        stage: StageId,
        task: TaskIndex,
        delivery: DeliveryId,
        rows: InlineRows,
    ) -> Result<()> {
        let (Some((_, first)), [own]) = (rows.batches.first(), self.services.as_slice()) else {
            return Ok(());
        };
        let header = DeliveryHeader { build: BUILD_ID.to_string(), query, stage, task, delivery };
        let mut sink = own.deliver(header, first.schema()).await?;
        for (partition, batch) in rows.batches {
            sink.send(partition as usize, batch).await?;
        }
        sink.finish().await
    }
}

/// The query's reservation of its combs. If it is dropped before [`Self::close`] or [`Self::abort`] (by Ctrl-C, for
/// example), it is released in the background.
pub(crate) struct OpenInboxes {
    query: QueryId,
    inboxes: QueryInboxes,
    closed: bool,
}

impl OpenInboxes {
    pub(crate) fn new(query: QueryId, inboxes: QueryInboxes) -> Self {
        Self { query, inboxes, closed: false }
    }

    pub(crate) async fn close(&mut self) {
        self.closed = true;
        close_all(&self.inboxes, self.query, None, CLOSE_TIMEOUT).await;
    }

    pub(crate) async fn abort(&mut self, reason: QueryError) {
        self.closed = true;
        close_all(&self.inboxes, self.query, Some(reason), CLOSE_TIMEOUT).await;
    }
}

impl Drop for OpenInboxes {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (inboxes, query) = (self.inboxes.clone(), self.query);
            let reason = QueryError::cancelled("the query was cancelled");
            runtime.spawn(async move { close_all(&inboxes, query, Some(reason), CLOSE_TIMEOUT_BACKGROUND).await });
        }
    }
}

/// Timeout of closing a query on its combs while the user waits: the user should not wait for a lost comb.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeout of closing a query on its combs in the background.
const CLOSE_TIMEOUT_BACKGROUND: Duration = Duration::from_secs(30);

async fn close_all(inboxes: &QueryInboxes, query: QueryId, reason: Option<QueryError>, timeout: Duration) {
    let calls = inboxes.services.iter().map(|service| {
        let reason = reason.clone();
        let closed = async move {
            if let Some(reason) = reason {
                service.abort(query, reason).await?;
            }
            service.close(query).await
        };
        tokio::time::timeout(timeout, closed)
            .map(|closed| closed.unwrap_or_else(|_| Err(QueryError::unavailable("the comb did not respond"))))
    });
    for outcome in futures::future::join_all(calls).await {
        // The outcome of the query is already decided. The comb drops the query when it stops.
        if let Err(error) = outcome {
            tracing::warn!(query_id = %query, %error, "failed to close the query on a comb");
        }
    }
}
