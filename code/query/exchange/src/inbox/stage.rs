//! One stage's share of an inbox: deliveries that are held back, and batches that can be read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use buzz_kernel::decode_schema;
use buzz_protocol::{BUILD_ID, DeliveryId, ErrorKind, QueryError, Result, Segment, StageId, TaskIndex};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::budget::{Budget, Chunk, ChunkData};
use super::pace::{Pace, UNREAD_BYTES_MAX, Waiting};
use crate::objects::ObjectOfDelivery;
use crate::service::{Commit, DeliveryHeader, StageSpec};
use crate::spill::SpillFile;

/// The state that the stages of a query share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) flowing: bool,
    /// Batches that a reader of one partition fetches at the same time.
    pub(super) ahead: usize,
    /// `None` if deliveries never wait for readers.
    pub(super) pace: Option<Arc<Pace>>,
    pub(super) budget: Arc<Budget>,
    pub(super) spill: Arc<SpillFile>,
    /// Counts of the batches that the query has received.
    pub(super) received: Arc<Received>,
    /// The stages that are being read.
    pub(super) demand: watch::Sender<BTreeSet<StageId>>,
}

/// Rows and bytes in memory of the batches that a query has received, also of deliveries that were not accepted.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) rows: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// One stage of one query.
#[derive(Debug)]
pub(super) struct Stage {
    spec: StageSpec,
    schema: SchemaRef,
    shared: Shared,
    state: Mutex<StageState>,
    /// Bytes in memory that can be read and are still unread.
    unread_bytes: AtomicU64,
    /// Version that increases with every change that a reader may wait for.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct StageState {
    /// The accepted delivery of each task that has one.
    accepted: HashMap<TaskIndex, DeliveryId>,
    /// Deliveries that are held back until they are accepted.
    held: HashMap<(TaskIndex, DeliveryId), Held>,
    /// The batches that can be read, by partition that this comb owns.
    partitions: Vec<Partition>,
    /// The error with which readers and deliveries end early.
    ended: Option<QueryError>,
}

#[derive(Debug, Default)]
struct Partition {
    /// The batches in order of arrival; `None` for a batch that all readers have taken.
    batches: Vec<Option<Readable>>,
    waiting: Waiting,
    /// Readers that have read the partition to its end.
    finished: u32,
}

#[derive(Debug, Default)]
struct Held {
    batches: Vec<(usize, Arc<Chunk>)>,
    rows: Vec<u64>,
    whole: bool,
}

/// A batch that can be read, and the number of readers that have not taken it yet.
#[derive(Debug)]
struct Readable {
    chunk: Arc<Chunk>,
    readers_left: u32,
}

impl Stage {
    /// Creates an empty stage.
    ///
    /// # Errors
    /// `Internal` when its schema cannot be decoded.
    pub(super) fn new(spec: StageSpec, shared: Shared) -> Result<Self> {
        let partitions = spec.partitions.clone().map(|_| Partition::default()).collect();
        let state = Mutex::new(StageState { partitions, ..StageState::default() });
        Ok(Self {
            schema: decode_schema(&spec.schema)?,
            spec,
            shared,
            state,
            unread_bytes: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        })
    }

    /// Returns the number of tasks with an accepted delivery.
    pub(super) fn accepted_tasks(&self) -> usize {
        self.state.lock().accepted.len()
    }

    /// Returns the kind of the error with which the stage ended early, if it did.
    pub(super) fn failed(&self) -> Option<ErrorKind> {
        self.state.lock().ended.as_ref().map(|error| error.kind)
    }

    /// Returns the number of batches that a reader of one partition fetches at the same time.
    pub(super) fn ahead(&self) -> usize {
        self.shared.ahead
    }

    /// Returns a receiver of every change that a reader may wait for.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Converts a partition in the numbering of all combs to its position among the partitions that this comb owns.
    pub(super) fn local(&self, partition: usize) -> Result<usize> {
        let owned = &self.spec.partitions;
        if owned.contains(&partition) {
            return Ok(partition - owned.start);
        }
        Err(QueryError::internal(format!("partition {partition} of step `{}` is not among {owned:?}", self.spec.step)))
    }

    pub(super) fn begin(&self, header: &DeliveryHeader, schema: &Schema) -> Result<()> {
        let step = &self.spec.step;
        if header.build != BUILD_ID {
            return Err(QueryError::internal(format!("a delivery of build {} reached build {BUILD_ID}", header.build)));
        }
        if header.task.0 >= self.spec.tasks {
            return Err(QueryError::internal(format!("step `{step}` has no task {}", header.task)));
        }
        if !same_columns(schema, &self.schema) {
            return Err(QueryError::internal(format!(
                "task {} of step `{step}` delivers {schema}, but the plan expects {}",
                header.task, self.schema
            )));
        }
        let mut state = self.state.lock();
        state.check_open(header.task, header.delivery)?;
        let rows = vec![0; self.spec.partitions.len()];
        match state.held.insert((header.task, header.delivery), Held { rows, ..Held::default() }) {
            None => Ok(()),
            Some(_) => Err(QueryError::internal(format!("delivery {} was begun twice", header.delivery))),
        }
    }

    pub(super) async fn append(
        &self,
        key: (TaskIndex, DeliveryId),
        partition: usize,
        batch: RecordBatch,
    ) -> Result<()> {
        let index = self.local(partition)?;
        self.room().await;
        let row_count = batch.num_rows();
        let chunk = Arc::new(self.hold(self.as_declared(&batch)?).await?);

        let mut state = self.state.lock();
        state.check_open(key.0, key.1)?;
        let held = state.held.get_mut(&key);
        let held = held.ok_or_else(|| QueryError::internal(format!("delivery {} was never begun", key.1)))?;
        held.rows[index] += row_count as u64;
        if !self.shared.flowing {
            held.batches.push((index, chunk));
            return Ok(());
        }
        self.unread_bytes.fetch_add(chunk.reserved_bytes, Ordering::SeqCst);
        let partition = &mut state.partitions[index];
        partition.batches.push(Some(Readable { chunk, readers_left: self.spec.readers }));
        if let Some(pace) = &self.shared.pace {
            partition.waiting.feed(pace);
        }
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Waits until more rows of the stage may be unread.
    async fn room(&self) {
        let Some(pace) = &self.shared.pace else {
            return;
        };
        let may_grow = || {
            self.unread_bytes.load(Ordering::SeqCst) < UNREAD_BYTES_MAX
                || pace.is_hungry()
                // A stage that is not read yet must not block: its readers may start only after all of it is delivered.
                || !self.shared.demand.borrow().contains(&self.spec.stage)
                || self.state.lock().ended.is_some()
        };
        loop {
            let mut change = std::pin::pin!(pace.change());
            change.as_mut().enable();
            if may_grow() {
                return;
            }
            change.await;
        }
    }

    async fn hold(&self, batch: RecordBatch) -> Result<Chunk> {
        let bytes = get_record_batch_memory_size(&batch) as u64;
        self.shared.received.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        self.shared.received.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (data, reserved_bytes) = if self.shared.budget.reserve(bytes) {
            (ChunkData::Memory(batch), bytes)
        } else {
            (ChunkData::Disk(self.shared.spill.write(batch).await?), 0)
        };
        Ok(Chunk { data, reserved_bytes, budget: Arc::clone(&self.shared.budget) })
    }

    /// Holds the `segments` of the object of a delivery, as a complete delivery.
    pub(super) fn hold_object(
        &self,
        header: &DeliveryHeader,
        object: &ObjectOfDelivery,
        segments: &[Segment],
    ) -> Result<()> {
        if self.shared.flowing {
            return Err(QueryError::internal("an object was delivered to a query whose deliveries flow"));
        }
        self.begin(header, &self.schema)?;
        let key = (header.task, header.delivery);
        for segment in segments {
            let index = self.local(segment.partition as usize)?;
            let data = ChunkData::Object(object.clone(), *segment);
            let chunk = Arc::new(Chunk { data, reserved_bytes: 0, budget: Arc::clone(&self.shared.budget) });
            let mut state = self.state.lock();
            state.check_open(key.0, key.1)?;
            let held = state.held.get_mut(&key);
            let held = held.ok_or_else(|| QueryError::internal(format!("delivery {} was never begun", key.1)))?;
            held.rows[index] = held.rows[index].saturating_add(segment.rows);
            held.batches.push((index, chunk));
        }
        self.finish(key)
    }

    pub(super) fn finish(&self, key: (TaskIndex, DeliveryId)) -> Result<()> {
        let mut state = self.state.lock();
        state.check_open(key.0, key.1)?;
        let held = state.held.get_mut(&key);
        held.ok_or_else(|| QueryError::internal(format!("delivery {} was never begun", key.1)))?.whole = true;
        Ok(())
    }

    pub(super) fn accept(&self, commit: Commit) -> Result<()> {
        let Commit { task, delivery, rows, .. } = commit;
        let mut state = self.state.lock();
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
                "the delivery of task {task} of step `{}` is incomplete",
                self.spec.step
            )));
        }
        state.accepted.insert(task, delivery);
        state.held.retain(|(other, _), _| *other != task);
        let readers_left = self.spec.readers;
        for (partition, chunk) in held.batches {
            state.partitions[partition].batches.push(Some(Readable { chunk, readers_left }));
        }
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    pub(super) fn end(&self, reason: QueryError) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(reason);
        state.held.clear();
        state.partitions.iter_mut().for_each(|partition| partition.batches.clear());
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        if let Some(pace) = &self.shared.pace {
            pace.changed();
        }
    }

    /// Waits for the chunk at `cursor` of a partition. Returns `None` at the end of the stage.
    pub(super) async fn next(
        &self,
        index: usize,
        cursor: usize,
        changed: &mut watch::Receiver<u64>,
    ) -> Result<Option<Arc<Chunk>>> {
        if cursor == 0 {
            self.shared.demand.send_if_modified(|stages| stages.insert(self.spec.stage));
        }
        loop {
            changed.borrow_and_update();
            let (found, _hungry) = {
                let mut state = self.state.lock();
                if let Some(ended) = &state.ended {
                    return Err(ended.clone());
                }
                let whole = state.accepted.len() == self.spec.tasks as usize;
                let partition = &mut state.partitions[index];
                match partition.batches.get_mut(cursor) {
                    Some(slot) => (Some(self.take(slot)?), None),
                    None if whole => return Ok(None),
                    None => (None, self.hungry(index, &mut partition.waiting)),
                }
            };
            if found.is_some() {
                return Ok(found);
            }
            if changed.changed().await.is_err() {
                return Err(QueryError::cancelled("the inbox was dropped"));
            }
        }
    }

    /// Reads the batches of a chunk, with the schema of the stage.
    pub(super) async fn batches(&self, chunk: &Chunk) -> Result<Vec<RecordBatch>> {
        match &chunk.data {
            ChunkData::Memory(batch) => Ok(vec![batch.clone()]),
            ChunkData::Disk(place) => Ok(vec![self.shared.spill.read(*place).await?]),
            ChunkData::Object(object, segment) => {
                let batches = object.read(segment).await?;
                batches.into_iter().map(|batch| self.as_declared(&batch)).collect()
            }
        }
    }

    /// Returns `batch` with the schema of the stage.
    fn as_declared(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), batch.columns().to_vec(), &options)?)
    }

    /// Discards a delivery that is held back.
    pub(super) fn discard(&self, key: (TaskIndex, DeliveryId)) {
        self.state.lock().held.remove(&key);
    }

    /// Records that a reader has read a partition to its end.
    pub(super) fn reader_finished(&self, index: usize) {
        let partition = &mut self.state.lock().partitions[index];
        partition.finished = partition.finished.saturating_add(1);
    }

    /// Checks that every reader has read every partition to its end.
    pub(super) fn check_read(&self) -> Result<()> {
        let state = self.state.lock();
        if let Some(ended) = &state.ended {
            return Err(ended.clone());
        }
        let unread = state.partitions.iter().filter(|partition| partition.finished < self.spec.readers).count();
        if unread == 0 {
            return Ok(());
        }
        let (tasks, accepted) = (self.spec.tasks, state.accepted.len());
        Err(QueryError::internal(format!(
            "the reduce plan ended before it had read all rows of step `{}` ({unread} of {} partitions are unread, \
             {accepted} of {tasks} tasks are accepted)",
            self.spec.step,
            state.partitions.len()
        )))
    }

    /// Records that a reader of a partition waits for rows, until the returned guard is dropped.
    fn hungry(&self, index: usize, waiting: &mut Waiting) -> Option<Hungry<'_>> {
        let pace = self.shared.pace.as_ref()?;
        Some(Hungry { stage: self, index, fed: waiting.join(pace) })
    }

    /// Takes a batch for one reader. The last reader removes it.
    fn take(&self, slot: &mut Option<Readable>) -> Result<Arc<Chunk>> {
        let Some(mut readable) = slot.take() else {
            return Err(QueryError::internal("a partition of an inbox was read more often than planned"));
        };
        let chunk = Arc::clone(&readable.chunk);
        readable.readers_left = readable.readers_left.saturating_sub(1);
        if readable.readers_left > 0 {
            *slot = Some(readable);
        } else if let Some(pace) = &self.shared.pace {
            self.unread_bytes.fetch_sub(chunk.reserved_bytes, Ordering::SeqCst);
            pace.changed();
        }
        Ok(chunk)
    }
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

/// The guard of a reader that waits for rows.
struct Hungry<'a> {
    stage: &'a Stage,
    index: usize,
    fed: u64,
}

impl Drop for Hungry<'_> {
    fn drop(&mut self) {
        if let Some(pace) = &self.stage.shared.pace {
            self.stage.state.lock().partitions[self.index].waiting.leave(pace, self.fed);
        }
    }
}

/// Checks that two schemas have the same column names and types.
fn same_columns(a: &Schema, b: &Schema) -> bool {
    a.fields().len() == b.fields().len()
        && a.fields().iter().zip(b.fields()).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
}
