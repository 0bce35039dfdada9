//! The holding side: what was delivered, what of it counts, and who has read it.
//!
//! A delivery is held aside under its name until Fuse accepts it. Then, and only then, its batches can be read; all
//! other deliveries of the same task are dropped. A stage ends for its readers once a delivery is accepted for each of
//! its tasks. A delivery never waits for a reader: beyond the memory bound, batches go to disk.
//!
//! A *flowing* query is one whose tasks are run exactly once: there batches can be read as they come, and accepting a
//! delivery only tells that it is complete.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use buzz_protocol::plan::decode_schema;
use buzz_protocol::{BUILD_ID, DeliveryId, QueryError, QueryId, QueryToken, Result, StageId, TaskIndex};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use futures::Stream;
use tokio::sync::watch;

use crate::service::{Commit, DeliveryHeader, DeliverySink, InboxService, OpenQuery, StageSpec};
use crate::spill::{SpillFile, SpilledBatch};

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
    stages: HashMap<StageId, Arc<Stage>>,
}

#[derive(Debug)]
struct Stage {
    spec: StageSpec,
    flowing: bool,
    schema: SchemaRef,
    budget: Arc<Budget>,
    spill: Arc<SpillFile>,
    state: Mutex<StageState>,
    /// Grows with every change that a reader may wait for.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct StageState {
    /// The accepted delivery of each task that has one.
    accepted: HashMap<TaskIndex, DeliveryId>,
    /// Deliveries held aside.
    held: HashMap<(TaskIndex, DeliveryId), Held>,
    /// Accepted batches, by partition that this comb owns.
    partitions: Vec<Vec<Option<Readable>>>,
    /// Why readers and deliveries end early, if they do.
    ended: Option<QueryError>,
}

#[derive(Debug, Default)]
struct Held {
    batches: Vec<(usize, Arc<Chunk>)>,
    rows: Vec<u64>,
    whole: bool,
}

/// An accepted batch and how many readers have yet to take it.
#[derive(Debug)]
struct Readable {
    chunk: Arc<Chunk>,
    readers_left: u32,
}

/// Bytes of batches in memory: of one query, within those of the comb if it has a bound.
#[derive(Debug)]
struct Budget {
    used: AtomicU64,
    max: u64,
    within: Option<Arc<Budget>>,
}

impl Budget {
    fn reserve(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        let granted = self.within.as_ref().is_none_or(|within| within.reserve(bytes));
        if !granted {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        granted
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(within) = &self.within {
            within.release(bytes);
        }
    }
}

/// A batch in memory, which gives its bytes back when it is dropped, or on disk.
#[derive(Debug)]
struct Chunk {
    data: ChunkData,
    reserved_bytes: u64,
    budget: Arc<Budget>,
}

#[derive(Debug)]
enum ChunkData {
    Memory(RecordBatch),
    Disk(SpilledBatch),
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.budget.release(self.reserved_bytes);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves counts that are still consistent: every change below is one statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inboxes {
    /// Number of queries that are open: the comb is in use while it is not 0.
    pub fn open_queries(&self) -> usize {
        locked(&self.queries).len()
    }

    /// Takes no more on than `limits` from now on.
    pub fn limit(&self, limits: InboxLimits) {
        let InboxLimits { memory_bytes, queries } = limits;
        let memory = Budget { used: AtomicU64::new(0), max: memory_bytes, within: None };
        let mut held = locked(&self.limits);
        (held.memory, held.queries) = (Some(Arc::new(memory)), Some(queries));
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
            tracing::warn!(%query, "the query's time is over and nobody closed it");
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
        inbox.and_then(|inbox| inbox.stages.values().next().map(|stage| stage.spill.bytes())).unwrap_or_default()
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
        let changed = stage.changed.subscribe();
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
        let budget = Arc::new(Budget { used: AtomicU64::new(0), max: open.memory_bytes, within });
        let spill = Arc::new(SpillFile::new(open.disk_bytes));
        let mut stages = HashMap::new();
        for spec in std::mem::take(&mut open.stages) {
            let partitions = spec.partitions.clone().map(|_| Vec::new()).collect();
            let stage = Stage {
                flowing: open.flowing,
                schema: decode_schema(&spec.schema)?,
                budget: Arc::clone(&budget),
                spill: Arc::clone(&spill),
                state: Mutex::new(StageState { partitions, ..StageState::default() }),
                changed: watch::Sender::new(0),
                spec,
            };
            stages.insert(stage.spec.stage, Arc::new(stage));
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
        queries.insert(query, Arc::new(QueryInbox { token, deadline_ms, stages }));
        Ok(())
    }

    async fn deliver(&self, header: DeliveryHeader, schema: SchemaRef) -> Result<Box<dyn DeliverySink>> {
        let stage = self.stage(header.query, header.stage)?;
        stage.begin(&header, &schema)?;
        let key = (header.task, header.delivery);
        Ok(Box::new(HeldDelivery { stage, key, whole: false }))
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

impl Stage {
    fn local(&self, partition: usize) -> Result<usize> {
        let owned = &self.spec.partitions;
        if owned.contains(&partition) {
            return Ok(partition - owned.start);
        }
        Err(QueryError::internal(format!("partition {partition} of step `{}` is not among {owned:?}", self.spec.step)))
    }

    fn begin(&self, header: &DeliveryHeader, schema: &Schema) -> Result<()> {
        let step = &self.spec.step;
        if header.build != BUILD_ID {
            return Err(QueryError::internal(format!("a delivery of build {} reached build {BUILD_ID}", header.build)));
        }
        if header.task.0 >= self.spec.tasks {
            return Err(QueryError::internal(format!("step `{step}` has no task {}", header.task)));
        }
        if !same_columns(schema, &self.schema) {
            return Err(QueryError::internal(format!(
                "task {} of step `{step}` delivers {schema} where {} was planned",
                header.task, self.schema
            )));
        }
        let mut state = locked(&self.state);
        state.check_open(header.task, header.delivery)?;
        let rows = vec![0; self.spec.partitions.len()];
        match state.held.insert((header.task, header.delivery), Held { rows, ..Held::default() }) {
            None => Ok(()),
            Some(_) => Err(QueryError::internal(format!("delivery {} was begun twice", header.delivery))),
        }
    }

    async fn append(&self, key: (TaskIndex, DeliveryId), partition: usize, batch: RecordBatch) -> Result<()> {
        let index = self.local(partition)?;
        let row_count = batch.num_rows();
        let options = RecordBatchOptions::new().with_row_count(Some(row_count));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), batch.columns().to_vec(), &options)?;
        let chunk = Arc::new(self.hold(batch).await?);

        let mut state = locked(&self.state);
        state.check_open(key.0, key.1)?;
        let held = state.held.get_mut(&key);
        let held = held.ok_or_else(|| QueryError::internal(format!("delivery {} was never begun", key.1)))?;
        held.rows[index] += row_count as u64;
        if !self.flowing {
            held.batches.push((index, chunk));
            return Ok(());
        }
        state.partitions[index].push(Some(Readable { chunk, readers_left: self.spec.readers }));
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    async fn hold(&self, batch: RecordBatch) -> Result<Chunk> {
        let bytes = get_record_batch_memory_size(&batch) as u64;
        let (data, reserved_bytes) = if self.budget.reserve(bytes) {
            (ChunkData::Memory(batch), bytes)
        } else {
            (ChunkData::Disk(self.spill.write(batch).await?), 0)
        };
        Ok(Chunk { data, reserved_bytes, budget: Arc::clone(&self.budget) })
    }

    fn finish(&self, key: (TaskIndex, DeliveryId)) -> Result<()> {
        let mut state = locked(&self.state);
        state.check_open(key.0, key.1)?;
        let held = state.held.get_mut(&key);
        held.ok_or_else(|| QueryError::internal(format!("delivery {} was never begun", key.1)))?.whole = true;
        Ok(())
    }

    fn accept(&self, commit: Commit) -> Result<()> {
        let Commit { task, delivery, rows, .. } = commit;
        let mut state = locked(&self.state);
        if let Some(ended) = &state.ended {
            return Err(ended.clone());
        }
        match state.accepted.get(&task) {
            Some(accepted) if *accepted == delivery => return Ok(()),
            Some(_) => {
                return Err(QueryError::internal(format!(
                    "two deliveries of task {task} of step `{}` were accepted",
                    self.spec.step
                )));
            }
            None => {}
        }
        let held = state.held.remove(&(task, delivery)).unwrap_or_default();
        let expected: u64 = rows.iter().sum();
        // A task without rows for this comb has nothing to deliver to it.
        let complete = if expected == 0 { held.batches.is_empty() } else { held.whole && held.rows == rows };
        if !complete {
            return Err(QueryError::unavailable(format!(
                "the delivery of task {task} of step `{}` did not arrive whole",
                self.spec.step
            )));
        }
        state.accepted.insert(task, delivery);
        state.held.retain(|(other, _), _| *other != task);
        let readers_left = self.spec.readers;
        for (partition, chunk) in held.batches {
            state.partitions[partition].push(Some(Readable { chunk, readers_left }));
        }
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    fn end(&self, reason: QueryError) {
        let mut state = locked(&self.state);
        state.ended.get_or_insert(reason);
        state.held.clear();
        state.partitions.iter_mut().for_each(Vec::clear);
        drop(state);
        self.changed.send_modify(|version| *version += 1);
    }

    /// The batch at `cursor` of a partition, once there is one; None at the end of the stage.
    async fn next(
        &self,
        index: usize,
        cursor: usize,
        changed: &mut watch::Receiver<u64>,
    ) -> Result<Option<RecordBatch>> {
        loop {
            changed.borrow_and_update();
            let found = {
                let mut state = locked(&self.state);
                if let Some(ended) = &state.ended {
                    return Err(ended.clone());
                }
                let whole = state.accepted.len() == self.spec.tasks as usize;
                match state.partitions[index].get_mut(cursor) {
                    Some(slot) => Some(take(slot)?),
                    None if whole => return Ok(None),
                    None => None,
                }
            };
            if let Some(chunk) = found {
                return match &chunk.data {
                    ChunkData::Memory(batch) => Ok(Some(batch.clone())),
                    ChunkData::Disk(place) => self.spill.read(*place).await.map(Some),
                };
            }
            if changed.changed().await.is_err() {
                return Err(QueryError::cancelled("the inbox is gone"));
            }
        }
    }
}

/// Takes a batch for one reader; the last reader leaves nothing behind.
fn take(slot: &mut Option<Readable>) -> Result<Arc<Chunk>> {
    let Some(mut readable) = slot.take() else {
        return Err(QueryError::internal("a partition of an inbox was read more often than planned"));
    };
    let chunk = Arc::clone(&readable.chunk);
    readable.readers_left = readable.readers_left.saturating_sub(1);
    if readable.readers_left > 0 {
        *slot = Some(readable);
    }
    Ok(chunk)
}

impl StageState {
    fn check_open(&self, task: TaskIndex, delivery: DeliveryId) -> Result<()> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        match self.accepted.get(&task) {
            Some(accepted) if *accepted != delivery => {
                Err(QueryError::cancelled(format!("another delivery of task {task} was accepted")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether batches of one schema can stand where the other was planned: the same names and types.
fn same_columns(a: &Schema, b: &Schema) -> bool {
    a.fields().len() == b.fields().len()
        && a.fields().iter().zip(b.fields()).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
}

/// A delivery to an inbox in the same process.
#[derive(Debug)]
struct HeldDelivery {
    stage: Arc<Stage>,
    key: (TaskIndex, DeliveryId),
    whole: bool,
}

#[async_trait]
impl DeliverySink for HeldDelivery {
    async fn send(&mut self, partition: usize, batch: RecordBatch) -> Result<()> {
        self.stage.append(self.key, partition, batch).await
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        self.stage.finish(self.key)?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for HeldDelivery {
    fn drop(&mut self) {
        if !self.whole {
            locked(&self.stage.state).held.remove(&self.key);
        }
    }
}
