//! The holding side: what was delivered, what of it counts, and who has read it.
//!
//! A delivery is held aside under its name until Fuse accepts it. Then, and only then, its batches can be read; all
//! other deliveries of the same task are dropped. A stage ends for its readers once a delivery is accepted for each of
//! its tasks. A delivery never waits for a reader: beyond the memory bound, batches go to disk.
//!
//! A *flowing* query is one whose tasks are run exactly once: there batches can be read as they come, and accepting a
//! delivery only tells that it is complete. If it is also *paced*, whoever delivers waits for slow readers.

mod budget;
mod pace;
mod stage;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_protocol::{BUILD_ID, QueryError, QueryId, QueryToken, Result, StageId};
use futures::Stream;
use tokio::sync::watch;

use self::budget::Budget;
use self::stage::{HeldDelivery, Shared, Stage};
use crate::service::{Commit, DeliveryHeader, DeliverySink, InboxService, OpenQuery};
use crate::spill::SpillFile;

/// The inboxes of one comb, one per query.
#[derive(Debug, Default)]
pub struct Inboxes {
    queries: Mutex<HashMap<QueryId, Arc<QueryInbox>>>,
    /// The last queries that were closed: a call to open one that arrives behind its close must not open it for ever.
    closed: Mutex<VecDeque<QueryId>>,
    limits: Mutex<Limits>,
    closed_count: AtomicU64,
}

/// What a comb takes on.
#[derive(Debug, Clone, Copy)]
pub struct InboxLimits {
    /// Bytes in memory, of all queries together; beyond it they spill.
    pub memory_bytes: u64,
    /// Queries at the same time.
    pub queries: usize,
}

#[derive(Debug, Default)]
struct Limits {
    /// None for a comb that takes what comes.
    memory: Option<Arc<Budget>>,
    /// None for a comb that takes what comes.
    queries: Option<usize>,
    /// Whether the comb is about to stop.
    refusing: bool,
}

/// Closed queries that are remembered.
const CLOSED_REMEMBERED: usize = 1024;

/// What a comb holds for one query.
#[derive(Debug)]
struct QueryInbox {
    token: QueryToken,
    deadline_ms: Option<u64>,
    opened: Instant,
    stages: HashMap<StageId, Arc<Stage>>,
    shared: Shared,
}

impl Inboxes {
    /// Number of queries that are open: the comb is in use while it is not 0.
    pub fn open_queries(&self) -> usize {
        locked(&self.queries).len()
    }

    /// Takes no more on than `limits` from now on.
    pub fn limit(&self, limits: InboxLimits) {
        let InboxLimits { memory_bytes, queries } = limits;
        let mut held = locked(&self.limits);
        (held.memory, held.queries) = (Some(Budget::new(memory_bytes, None)), Some(queries));
    }

    /// Takes no query from now on.
    pub fn refuse(&self) {
        locked(&self.limits).refusing = true;
    }

    /// Takes no query from now on, unless there is one; whether it is so.
    pub fn refuse_if_idle(&self) -> bool {
        let queries = locked(&self.queries);
        if queries.is_empty() {
            locked(&self.limits).refusing = true;
        }
        queries.is_empty()
    }

    /// How many queries were closed so far, to notice those that come and go.
    pub fn closed_count(&self) -> u64 {
        self.closed_count.load(Ordering::Relaxed)
    }

    /// Ends and forgets the queries whose deadline is before `now_ms`, milliseconds since 1970: whoever opened them is gone.
    pub fn end_overdue(&self, now_ms: u64) {
        let mut overdue = Vec::new();
        locked(&self.queries).retain(|query, inbox| {
            let over = inbox.deadline_ms.is_some_and(|deadline_ms| deadline_ms < now_ms);
            if over {
                overdue.push((*query, Arc::clone(inbox)));
            }
            !over
        });
        for (query, inbox) in overdue {
            tracing::warn!(query_id = %query, "the query's time is over and nobody closed it");
            inbox.end(&QueryError::limit("the query's time is over"));
        }
    }

    /// Whether whoever shows `token` may have to do with `query`. A query that is not open is nobody's.
    ///
    /// # Errors
    /// `Invalid` when the token is not the query's.
    pub fn check(&self, query: QueryId, token: &QueryToken) -> Result<()> {
        match locked(&self.queries).get(&query) {
            Some(inbox) if !same_token(&inbox.token, token) => {
                Err(QueryError::invalid(format!("the token shown is not that of query {query}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether `token` is that of any open query.
    pub fn knows(&self, token: &QueryToken) -> bool {
        locked(&self.queries).values().any(|inbox| same_token(&inbox.token, token))
    }

    /// Ends every query with `reason` and forgets it, as when the comb stops.
    pub fn stop(&self, reason: &QueryError) {
        let queries: Vec<Arc<QueryInbox>> = locked(&self.queries).drain().map(|(_, inbox)| inbox).collect();
        for inbox in queries {
            inbox.end(reason);
        }
    }

    /// Bytes that a query has spilled so far, on this comb.
    pub fn spilled_bytes(&self, query: QueryId) -> u64 {
        let inbox = locked(&self.queries).get(&query).cloned();
        inbox.map(|inbox| inbox.shared.spill.bytes()).unwrap_or_default()
    }

    /// What was accepted in one partition (of those of all combs) of a stage, in no particular order, as it comes. The
    /// stream ends when the stage is whole; it fails when the query is aborted or closed.
    ///
    /// # Errors
    /// `Unavailable` when the query is not open here, `Internal` when the partition is another comb's.
    pub fn read(
        &self,
        query: QueryId,
        stage: StageId,
        partition: usize,
    ) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + use<>> {
        let stage = self.stage(query, stage)?;
        let index = stage.local(partition)?;
        let changed = stage.changes();
        Ok(futures::stream::try_unfold((stage, changed, 0), move |(stage, mut changed, cursor)| async move {
            let next = stage.next(index, cursor, &mut changed).await?;
            Ok(next.map(|batch| (batch, (stage, changed, cursor + 1))))
        }))
    }

    fn query(&self, query: QueryId) -> Result<Arc<QueryInbox>> {
        let found = locked(&self.queries).get(&query).cloned();
        found.ok_or_else(|| QueryError::unavailable(format!("query {query} is not open on this comb")))
    }

    fn stage(&self, query: QueryId, stage: StageId) -> Result<Arc<Stage>> {
        let inbox = self.query(query)?;
        let found = inbox.stages.get(&stage).cloned();
        found.ok_or_else(|| QueryError::internal(format!("query {query} has no stage {stage}")))
    }
}

#[async_trait]
impl InboxService for Arc<Inboxes> {
    async fn open(&self, mut open: OpenQuery) -> Result<()> {
        if open.build != BUILD_ID {
            return Err(QueryError::unavailable(format!("this comb is of build {BUILD_ID}, not {}", open.build)));
        }
        let within = locked(&self.limits).memory.clone();
        let shared = Shared {
            flowing: open.flowing,
            pace: (open.flowing && open.paced).then(Arc::default),
            budget: Budget::new(open.memory_bytes, within),
            spill: Arc::new(SpillFile::new(open.disk_bytes)),
            demand: watch::Sender::new(BTreeSet::new()),
        };
        let mut stages = HashMap::new();
        for spec in std::mem::take(&mut open.stages) {
            stages.insert(spec.stage, Arc::new(Stage::new(spec, shared.clone())?));
        }
        let mut queries = locked(&self.queries);
        if locked(&self.closed).contains(&open.query) {
            return Err(QueryError::cancelled(format!("query {} is over", open.query)));
        }
        if queries.contains_key(&open.query) {
            return Ok(());
        }
        let Limits { refusing, queries: queries_max, .. } = &*locked(&self.limits);
        if *refusing {
            return Err(QueryError::unavailable("this comb is about to stop"));
        }
        if let Some(most) = queries_max.filter(|most| queries.len() >= *most) {
            return Err(QueryError::unavailable(format!("this comb has {most} queries already")));
        }
        let OpenQuery { query, token, deadline_ms, .. } = open;
        queries.insert(query, Arc::new(QueryInbox { token, deadline_ms, stages, shared, opened: Instant::now() }));
        Ok(())
    }

    async fn deliver(&self, header: DeliveryHeader, schema: SchemaRef) -> Result<Box<dyn DeliverySink>> {
        let stage = self.stage(header.query, header.stage)?;
        Ok(Box::new(HeldDelivery::begin(stage, &header, &schema)?))
    }

    fn demand(&self, query: QueryId) -> Option<watch::Receiver<BTreeSet<StageId>>> {
        Some(self.query(query).ok()?.shared.demand.subscribe())
    }

    async fn commit(&self, query: QueryId, commits: Vec<Commit>) -> Result<()> {
        self.query(query)?;
        for commit in commits {
            self.stage(query, commit.stage)?.accept(commit)?;
        }
        Ok(())
    }

    async fn abort(&self, query: QueryId, reason: QueryError) -> Result<()> {
        let inbox = locked(&self.queries).get(&query).cloned();
        if let Some(inbox) = inbox {
            inbox.end(&reason);
        }
        Ok(())
    }

    async fn close(&self, query: QueryId) -> Result<()> {
        let inbox = {
            let mut queries = locked(&self.queries);
            let mut closed = locked(&self.closed);
            if !closed.contains(&query) {
                closed.push_back(query);
            }
            if closed.len() > CLOSED_REMEMBERED {
                closed.pop_front();
            }
            queries.remove(&query)
        };
        if let Some(inbox) = inbox {
            self.closed_count.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                query_id = %query,
                tasks = inbox.stages.values().map(|stage| stage.accepted_tasks()).sum::<usize>(),
                spilled_bytes = inbox.shared.spill.bytes(),
                milliseconds = u64::try_from(inbox.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
                "query closed"
            );
            inbox.end(&QueryError::cancelled(format!("query {query} was closed")));
        }
        Ok(())
    }
}

impl QueryInbox {
    fn end(&self, reason: &QueryError) {
        for stage in self.stages.values() {
            stage.end(reason.clone());
        }
    }
}

/// Compares in a time that does not tell how much of a guess is right.
fn same_token(a: &QueryToken, b: &QueryToken) -> bool {
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves counts that are still consistent: every change below is one statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
