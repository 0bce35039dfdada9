//! The inboxes of one run: reserved before it, sent the commits during it, released after it.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use buzz_exchange::{
    Commit, DeliveryHeader, Exchanges, InboxService, ObjectPlace, OpenQuery, StageSpec, lost_in_exchange,
};
use buzz_host::Host;
use buzz_kernel::encode_schema;
use buzz_plan::{QueryPlan, TaskStage};
use buzz_protocol::{
    BUILD_ID, CombAddress, DeliveredObject, DeliveryId, ErrorKind, HBeeTask, InlineRows, Partitioning, QueryError,
    QueryId, QueryToken, Result, Segment, StageId, TaskIndex,
};

use crate::objects::{Delivered, remove};
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
    /// The place of the objects to which tasks deliver; `None` if they deliver to combs or return their rows.
    pub(crate) objects: Option<ObjectPlace>,
    /// The accepted objects.
    pub(crate) delivered: Arc<Delivered>,
}

impl QueryInboxes {
    /// Connects to the inboxes of `reducers`, to which the run `query` of `plan` delivers.
    ///
    /// # Errors
    /// `Unavailable` if a comb cannot be reached.
    pub(crate) async fn connect(
        host: &Host,
        plan: &QueryPlan,
        query: QueryId,
        reducers: &Reducers,
        deadline_ms: u64,
    ) -> Result<Self> {
        let (token, addresses) = (QueryToken::fresh(), reducers.addresses().to_vec());
        let mut services = Vec::new();
        for address in &addresses {
            services.push(host.network.inbox(address, &token).await?);
        }
        let own = addresses.is_empty().then(Arc::<buzz_exchange::Inboxes>::default);
        services.extend(own.iter().map(|own| Arc::new(Arc::clone(own)) as Arc<dyn InboxService>));
        let (mut partitions_per_comb, mut objects) = (plan.partitions_per_comb, None);
        if let Reducers::Objects { partitions } = reducers {
            partitions_per_comb = *partitions;
            objects = Some(ObjectPlace::new(host.stores.for_stack(), host.objects.of_query(query)?));
        }
        let (exchanges, delivered) = (Arc::default(), Arc::default());
        Ok(Self { addresses, own, services, partitions_per_comb, exchanges, token, deadline_ms, objects, delivered })
    }

    /// Opens the inboxes for `query`, with its map stages, its steps that are stages, and `tasks`: the stages of a divided reduce
    /// plan. A failure also carries the positions of all combs that failed.
    ///
    /// # Errors
    /// As [`InboxService::open`].
    pub(crate) async fn open(
        &self,
        plan: &QueryPlan,
        query: QueryId,
        flowing: bool,
        readers: &HashMap<StageId, u32>,
        tasks: &[TaskStage],
    ) -> Result<(), (QueryError, Vec<usize>)> {
        let maps = plan.stages.iter().map(|stage| (stage.id, &stage.step, &stage.schema, stage.tasks.len()));
        let steps = plan.reduces.iter().filter_map(|step| Some((step.target?, &step.step, &step.schema, 1)));
        let of_tasks = tasks.iter().map(|stage| (stage.id, &stage.step, &stage.schema, stage.tasks));
        let stages: Vec<StageSpec> = maps
            .chain(steps)
            .chain(of_tasks)
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
                lease_ms: Some(LEASE_MS),
                stages,
                flowing,
                paced: self.services.len() == 1,
                ahead: self.objects.is_some(),
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

    /// Renews the leases of the combs until it is dropped.
    pub(crate) async fn keep_leases(&self, query: QueryId) -> Infallible {
        futures::future::join_all(self.services.iter().map(|service| keep_lease(service.as_ref(), query))).await;
        // There is no service.
        std::future::pending().await
    }

    /// Returns true if every comb answers and has the query open.
    pub(crate) async fn are_open(&self, query: QueryId) -> bool {
        let calls = self.services.iter().map(|service| service.commit(query, Vec::new()));
        futures::future::try_join_all(calls).await.is_ok()
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

    /// Gives the object of a delivery to Fuse's own inbox, which does not commit it yet, and records it for tasks that read it.
    ///
    /// # Errors
    /// `Internal` if the query has no objects or the delivery does not fit its stage.
    pub(crate) fn hold_object(&self, task: &HBeeTask, delivery: DeliveryId, segments: Vec<Segment>) -> Result<()> {
        let (Some(place), Some(own)) = (&self.objects, &self.own) else {
            return Err(QueryError::internal("a task delivered an object, but its query has none"));
        };
        let (query, stage, task) = (task.query, task.stage, task.task);
        let header = DeliveryHeader { build: BUILD_ID.to_string(), query, stage, task, delivery };
        own.hold_object(&header, &place.object(stage, task, delivery)?, &segments)?;
        self.delivered.add(stage, &DeliveredObject { task, delivery, segments });
        Ok(())
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

/// Renews the lease of one comb. A comb that does not answer is found by the calls that need its answer.
async fn keep_lease(service: &dyn InboxService, query: QueryId) -> Infallible {
    loop {
        tokio::time::sleep(LEASE_RENEWED_EVERY).await;
        if let Err(error) = service.commit(query, Vec::new()).await {
            tracing::debug!(query_id = %query, %error, "a comb did not renew the query's lease");
        }
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
        close_all(&self.inboxes, self.query, None).await;
    }

    pub(crate) async fn abort(&mut self, reason: QueryError) {
        self.closed = true;
        close_all(&self.inboxes, self.query, Some(reason)).await;
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
            runtime.spawn(async move { close_all(&inboxes, query, Some(reason)).await });
        }
    }
}

/// Milliseconds for which a comb keeps a query whose Fuse does not call.
const LEASE_MS: u64 = 30_000;

/// Interval at which Fuse renews the lease of a query on its combs.
const LEASE_RENEWED_EVERY: Duration = Duration::from_secs(5);

/// Maximum time to wait for the combs to close a query: the user should not wait for a lost comb.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time to try to close a query on a comb. Afterwards, its lease ends it.
const CLOSE_TRIED_FOR: Duration = Duration::from_secs(30);

/// Wait between two attempts to close a query on a comb.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Closes the query on all combs, with `reason` if it failed. Goes on in the background with combs that do not respond.
async fn close_all(inboxes: &QueryInboxes, query: QueryId, reason: Option<QueryError>) {
    let mut closing: Vec<_> = inboxes
        .services
        .iter()
        .map(|service| tokio::spawn(closed_in_time(Arc::clone(service), query, reason.clone())))
        .collect();
    closing.extend(inboxes.objects.clone().map(|place| tokio::spawn(remove(place, query))));
    _ = tokio::time::timeout(CLOSE_TIMEOUT, futures::future::join_all(closing)).await;
}

async fn closed_in_time(service: Arc<dyn InboxService>, query: QueryId, reason: Option<QueryError>) {
    let closed = async {
        while let Err(error) = close(service.as_ref(), query, reason.as_ref()).await {
            tracing::debug!(query_id = %query, %error, "trying again to close the query on a comb");
            tokio::time::sleep(CLOSE_WAIT).await;
        }
    };
    if tokio::time::timeout(CLOSE_TRIED_FOR, closed).await.is_err() {
        tracing::warn!(query_id = %query, "a comb did not close the query; its lease ends it");
    }
}

/// Closes the query on one comb. It can be closed without having been aborted: an abort that fails does not keep it open.
async fn close(service: &dyn InboxService, query: QueryId, reason: Option<&QueryError>) -> Result<()> {
    if let Some(reason) = reason
        && let Err(error) = service.abort(query, reason.clone()).await
    {
        tracing::debug!(query_id = %query, %error, "a comb did not abort the query");
    }
    service.close(query).await
}
