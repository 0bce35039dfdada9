//! The holding side: holds deliveries, accepts one for each task, and serves its batches to readers.
//!
//! A delivery is held back under its id until Fuse accepts it. Only then can its batches be read; all other deliveries
//! of the same task are dropped. A stage ends for its readers once a delivery is accepted for each of its tasks. A
//! delivery never waits for a reader: batches beyond the memory bound are spilled to disk.
//!
//! A query is *flowing* if each of its tasks has one attempt only. Its batches can be read as they arrive, and
//! accepting a delivery only confirms that it is complete. If the query is also *paced*, deliveries wait for slow
//! readers.

mod budget;
mod held;
mod pace;
mod read;
mod stage;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_kernel::{MemoryShares, OpenShare, QueryShare};
use buzz_protocol::{BUILD_ID, ErrorKind, QueryError, QueryId, QueryToken, Result, StageId, milliseconds};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::budget::Budget;
use self::held::HeldDelivery;
use self::read::READ_AHEAD;
use self::stage::{Shared, Stage};
use crate::exchanged::{ExchangeCount, Exchanges};
use crate::service::{Commit, DeliveryHeader, DeliverySink, InboxService, OpenQuery};
use crate::spill::SpillFile;

/// The inboxes of one comb, one per query.
#[derive(Debug, Default)]
pub struct Inboxes {
    queries: Mutex<HashMap<QueryId, Arc<QueryInbox>>>,
    /// The last closed queries. A delayed call must not open one of them again, since nothing would close it.
    closed: Mutex<VecDeque<QueryId>>,
    limits: Mutex<Limits>,
    /// The memory of the operators; `None` if nothing divides it.
    shares: Option<Arc<MemoryShares>>,
    closed_count: AtomicU64,
    /// Called with each query that is closed.
    told: Mutex<Option<fn(&ClosedQuery)>>,
}

/// The work of a query on a comb, reported when it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedQuery {
    /// The run of the query.
    pub query: QueryId,
    /// Time since it was opened.
    pub milliseconds: u64,
    /// Rows of all batches that it received.
    pub rows: u64,
    /// Size of these in memory, in bytes.
    pub bytes: u64,
    /// Kind of the error with which it ended early, if it did.
    pub failed: Option<ErrorKind>,
}

/// The limits of a comb.
#[derive(Debug, Clone, Copy)]
pub struct InboxLimits {
    /// Bytes in memory, over all queries; batches beyond this bound are spilled.
    pub memory_bytes: u64,
    /// Maximum number of open queries.
    pub queries: usize,
}

#[derive(Debug, Default)]
struct Limits {
    /// `None` for a comb without a memory bound.
    memory: Option<Arc<Budget>>,
    /// `None` for a comb without a bound on open queries.
    queries: Option<usize>,
    /// True if the comb is stopping and refuses new queries.
    refusing: bool,
}

/// Time that a query waits for its share of the memory before the comb refuses it.
const SHARE_WITHIN: Duration = Duration::from_secs(2);

/// Maximum number of closed queries that are remembered.
const CLOSED_REMEMBERED: usize = 1024;

/// The inbox of one query on one comb.
#[derive(Debug)]
struct QueryInbox {
    token: QueryToken,
    deadline_ms: Option<u64>,
    lease: Option<Lease>,
    opened: Instant,
    stages: HashMap<StageId, Arc<Stage>>,
    shared: Shared,
    exchanges: Arc<Exchanges>,
    /// Its share of the memory of operators.
    share: Option<OpenShare>,
}

/// The time for which a query may stay open without a call of its Fuse.
#[derive(Debug)]
struct Lease {
    time: Duration,
    renewed: Mutex<Instant>,
}

impl Inboxes {
    /// Creates the inboxes of a comb whose operators share `shares`.
    pub fn sharing(shares: Arc<MemoryShares>) -> Self {
        Self { shares: Some(shares), ..Self::default() }
    }

    /// Returns the share of the memory of operators that the query whose token is `token` has, if it is open.
    pub fn share(&self, token: &QueryToken) -> Option<Arc<QueryShare>> {
        let queries = self.queries.lock();
        let inbox = queries.values().find(|inbox| same_token(&inbox.token, token))?;
        inbox.share.as_ref().map(|open| Arc::clone(open.share()))
    }

    /// Checks that the comb accepts another query beside `open` others.
    ///
    /// # Errors
    /// `Unavailable` if it is stopping or has as many as it may have.
    fn check_accepts(&self, open: usize) -> Result<()> {
        let Limits { refusing, queries: queries_max, .. } = &*self.limits.lock();
        if *refusing {
            return Err(QueryError::unavailable("this comb is stopping"));
        }
        match queries_max.filter(|most| open >= *most) {
            Some(most) => Err(QueryError::unavailable(format!("this comb already has {most} queries"))),
            None => Ok(()),
        }
    }

    /// Waits for the share of a new query.
    ///
    /// # Errors
    /// `Unavailable` if other queries use the memory for too long.
    async fn admit(&self) -> Result<Option<OpenShare>> {
        let Some(shares) = &self.shares else { return Ok(None) };
        let admitted = tokio::time::timeout(SHARE_WITHIN, shares.admit()).await;
        admitted.map(Some).map_err(|_| QueryError::unavailable("the queries of this comb use its memory"))
    }

    /// Returns the number of open queries. The comb is in use unless it is 0.
    pub fn open_queries(&self) -> usize {
        self.queries.lock().len()
    }

    /// Sets the limits of the comb for queries opened from now on.
    pub fn limit(&self, limits: InboxLimits) {
        let InboxLimits { memory_bytes, queries } = limits;
        let mut held = self.limits.lock();
        (held.memory, held.queries) = (Some(Budget::new(memory_bytes, None)), Some(queries));
        if let Some(shares) = &self.shares {
            shares.bound(queries);
        }
    }

    /// Calls `told` with each query that is closed from now on.
    pub fn tell_closed(&self, told: fn(&ClosedQuery)) {
        *self.told.lock() = Some(told);
    }

    /// Reports that `query` is closed, early if `failed` or an earlier error says so.
    fn tell(&self, query: QueryId, inbox: &QueryInbox, failed: Option<ErrorKind>) {
        let told = *self.told.lock();
        if let Some(told) = told {
            told(&inbox.closed(query, failed));
        }
    }

    /// Refuses all new queries from now on.
    pub fn refuse(&self) {
        self.limits.lock().refusing = true;
    }

    /// Refuses all new queries from now on if no query is open. Returns true in that case.
    pub fn refuse_if_idle(&self) -> bool {
        let queries = self.queries.lock();
        if queries.is_empty() {
            self.limits.lock().refusing = true;
        }
        queries.is_empty()
    }

    /// Returns the number of queries closed so far, to detect queries that opened and closed between two checks.
    pub fn closed_count(&self) -> u64 {
        self.closed_count.load(Ordering::Relaxed)
    }

    /// Ends and closes the queries whose deadline is before `now_ms`, in milliseconds since 1970, or whose lease has run
    /// out. Their Fuse is lost, or could not reach this comb at their end.
    pub fn end_overdue(&self, now_ms: u64) {
        let mut ended = Vec::new();
        self.queries.lock().retain(|query, inbox| {
            let Some(reason) = inbox.reason_to_end(now_ms) else { return true };
            self.remember_closed(*query);
            ended.push((*query, Arc::clone(inbox), reason));
            false
        });
        for (query, inbox, reason) in ended {
            tracing::warn!(query_id = %query, %reason, "closing a query that its Fuse has not closed");
            self.closed_count.fetch_add(1, Ordering::Relaxed);
            self.tell(query, &inbox, Some(reason.kind));
            inbox.end(&reason);
        }
    }

    /// Records that `query` is closed. It cannot be opened again.
    fn remember_closed(&self, query: QueryId) {
        let mut closed = self.closed.lock();
        if !closed.contains(&query) {
            closed.push_back(query);
        }
        if closed.len() > CLOSED_REMEMBERED {
            closed.pop_front();
        }
    }

    /// Checks `token` against the query's token. Succeeds for a query that is not open.
    ///
    /// # Errors
    /// `Invalid` when the token is not the query's.
    pub fn check(&self, query: QueryId, token: &QueryToken) -> Result<()> {
        match self.queries.lock().get(&query) {
            Some(inbox) if !same_token(&inbox.token, token) => {
                Err(QueryError::invalid(format!("the token does not match query {query}")))
            }
            _ => Ok(()),
        }
    }

    /// Checks if `token` is the token of any open query.
    pub fn knows(&self, token: &QueryToken) -> bool {
        self.queries.lock().values().any(|inbox| same_token(&inbox.token, token))
    }

    /// Returns the counts of rows between combs of the query whose token is `token`, if it is open.
    pub(crate) fn exchanges(&self, token: &QueryToken) -> Option<Arc<Exchanges>> {
        let queries = self.queries.lock();
        let inbox = queries.values().find(|inbox| same_token(&inbox.token, token))?;
        Some(Arc::clone(&inbox.exchanges))
    }

    /// Ends every query with `reason` and removes it, for example when the comb stops.
    pub fn stop(&self, reason: &QueryError) {
        let queries: Vec<(QueryId, Arc<QueryInbox>)> = self.queries.lock().drain().collect();
        for (query, inbox) in queries {
            self.tell(query, &inbox, Some(reason.kind));
            inbox.end(reason);
        }
    }

    /// Returns the bytes that a query has spilled so far on this comb.
    pub fn spilled_bytes(&self, query: QueryId) -> u64 {
        let inbox = self.queries.lock().get(&query).cloned();
        inbox.map(|inbox| inbox.shared.spill.bytes()).unwrap_or_default()
    }

    fn query(&self, query: QueryId) -> Result<Arc<QueryInbox>> {
        let found = self.queries.lock().get(&query).cloned();
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
        {
            let queries = self.queries.lock();
            if queries.contains_key(&open.query) {
                return Ok(());
            }
            self.check_accepts(queries.len())?;
        }
        let share = self.admit().await?;
        let within = self.limits.lock().memory.clone();
        let shared = Shared {
            flowing: open.flowing,
            ahead: if open.ahead { READ_AHEAD } else { 1 },
            pace: (open.flowing && open.paced).then(Arc::default),
            budget: Budget::new(open.memory_bytes, within),
            spill: Arc::new(SpillFile::new(open.disk_bytes)),
            received: Arc::default(),
            demand: watch::Sender::new(BTreeSet::new()),
        };
        let mut stages = HashMap::new();
        for spec in std::mem::take(&mut open.stages) {
            stages.insert(spec.stage, Arc::new(Stage::new(spec, shared.clone())?));
        }
        let mut queries = self.queries.lock();
        if self.closed.lock().contains(&open.query) {
            return Err(QueryError::cancelled(format!("query {} has ended", open.query)));
        }
        if queries.contains_key(&open.query) {
            return Ok(());
        }
        self.check_accepts(queries.len())?;
        let OpenQuery { query, token, deadline_ms, lease_ms, .. } = open;
        let (opened, exchanges) = (Instant::now(), Arc::default());
        let lease = lease_ms.map(|ms| Lease { time: Duration::from_millis(ms), renewed: Mutex::new(opened) });
        tracing::info!(query_id = %query, stages = stages.len(), open = queries.len() + 1, "query opened");
        let inbox = QueryInbox { token, deadline_ms, lease, stages, shared, opened, exchanges, share };
        queries.insert(query, Arc::new(inbox));
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
        if let Some(lease) = &self.query(query)?.lease {
            *lease.renewed.lock() = Instant::now();
        }
        for commit in commits {
            self.stage(query, commit.stage)?.accept(commit)?;
        }
        Ok(())
    }

    async fn check_read(&self, query: QueryId, unread: BTreeSet<StageId>) -> Result<Vec<ExchangeCount>> {
        let inbox = self.query(query)?;
        let mut stages = inbox.stages.iter().filter(|(stage, _)| !unread.contains(stage));
        stages.try_for_each(|(_, stage)| stage.check_read())?;
        Ok(inbox.exchanges.counts())
    }

    async fn check_open(&self, query: QueryId) -> Result<()> {
        match self.queries.lock().contains_key(&query) {
            true => Ok(()),
            false => Err(QueryError::cancelled(format!("query {query} has ended"))),
        }
    }

    async fn abort(&self, query: QueryId, reason: QueryError) -> Result<()> {
        let inbox = self.queries.lock().get(&query).cloned();
        if let Some(inbox) = inbox {
            inbox.end(&reason);
        }
        Ok(())
    }

    async fn close(&self, query: QueryId) -> Result<()> {
        let inbox = {
            let mut queries = self.queries.lock();
            self.remember_closed(query);
            queries.remove(&query)
        };
        if let Some(inbox) = inbox {
            self.closed_count.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                query_id = %query,
                tasks = inbox.stages.values().map(|stage| stage.accepted_tasks()).sum::<usize>(),
                spilled_bytes = inbox.shared.spill.bytes(),
                milliseconds = milliseconds(inbox.opened.elapsed()),
                "query closed"
            );
            self.tell(query, &inbox, None);
            inbox.end(&QueryError::cancelled(format!("query {query} was closed")));
        }
        Ok(())
    }
}

impl QueryInbox {
    /// Returns the reason to end the query, if its time or its lease is over.
    fn reason_to_end(&self, now_ms: u64) -> Option<QueryError> {
        if self.deadline_ms.is_some_and(|deadline_ms| deadline_ms < now_ms) {
            return Some(QueryError::limit("the query exceeded its deadline"));
        }
        let lease = self.lease.as_ref()?;
        let silent = lease.renewed.lock().elapsed();
        (silent > lease.time).then(|| {
            let seconds = silent.as_secs();
            QueryError::unavailable(format!("the Fuse of the query has not called this comb for {seconds} seconds"))
        })
    }

    fn closed(&self, query: QueryId, failed: Option<ErrorKind>) -> ClosedQuery {
        let received = &self.shared.received;
        ClosedQuery {
            query,
            milliseconds: milliseconds(self.opened.elapsed()),
            rows: received.rows.load(Ordering::Relaxed),
            bytes: received.bytes.load(Ordering::Relaxed),
            failed: self.stages.values().find_map(|stage| stage.failed()).or(failed),
        }
    }

    fn end(&self, reason: &QueryError) {
        for stage in self.stages.values() {
            stage.end(reason.clone());
        }
    }
}

/// Compares two tokens without an early exit, so that the time does not reveal how much of a guess is right.
fn same_token(a: &QueryToken, b: &QueryToken) -> bool {
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
