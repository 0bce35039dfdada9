//! The sending side: one task's rows, divided among the partitions of all combs.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use buzz_protocol::{
    BUILD_ID, CombAddress, Delivered, DeliveryId, HBeeTask, InlineRows, Partitioning, QueryError, QueryId, QueryToken,
    Result, StageId, TaskIndex, nullable,
};
use buzz_telemetry::span;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;

use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::network::InboxNetwork;
use crate::objects::{ObjectPlace, ObjectWriter};
use crate::service::{DeliveryHeader, DeliverySink};

/// Values of all columns for which the buffers of all partitions have room: 128 MiB of numbers.
const BUFFERED_VALUES: usize = 16 << 20;

/// The combs, the query and the task of a delivery, and its limits.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The query.
    pub query: QueryId,
    /// The token that calls to the combs carry.
    pub token: QueryToken,
    /// The stage.
    pub stage: StageId,
    /// The task.
    pub task: TaskIndex,
    /// The partitioning of the rows among the partitions of all combs.
    pub partitioning: Partitioning,
    /// The combs; each owns an equal range of partitions. If empty, the rows go into an object or are kept for the outcome.
    pub combs: Vec<CombAddress>,
    /// The place of the object of the delivery; `None` if the rows go to combs or into the outcome.
    pub objects: Option<ObjectPlace>,
    /// Maximum bytes of rows, in memory, that are kept for the outcome.
    pub inline_bytes: u64,
    /// Rows of each batch that is sent.
    pub batch_size: usize,
}

impl From<&HBeeTask> for Destination {
    /// Makes the destination of a task that does not deliver to an object: that place needs stores.
    fn from(task: &HBeeTask) -> Self {
        let batch_size = task.session.get("datafusion.execution.batch_size").and_then(|size| size.parse().ok());
        Self {
            query: task.query,
            token: task.token.clone(),
            stage: task.stage,
            task: task.task,
            partitioning: task.partitioning.clone(),
            combs: task.combs.clone(),
            objects: None,
            inline_bytes: task.inline_bytes,
            batch_size: batch_size.unwrap_or(8192),
        }
    }
}

/// Divides batches among partitions, coalesces them to full size, and sends them to the combs that own the partitions.
pub struct DeliveryWriter {
    network: Arc<dyn InboxNetwork>,
    destination: Destination,
    delivery: DeliveryId,
    schema: SchemaRef,
    coalescers: Vec<Option<BatchCoalescer>>,
    /// The sinks by comb; each is opened with the first batch for its comb.
    sinks: Vec<Option<Box<dyn DeliverySink>>>,
    /// The rows that are kept if there are neither combs nor an object.
    kept: InlineRows,
    /// The object of the delivery, if it has one.
    object: Option<ObjectWriter>,
    /// Divides rows by hash; `None` for round-robin.
    by_hash: Option<BatchPartitioner>,
    /// Position in the round-robin; starts at a different partition for each task.
    turn: usize,
    rows: Vec<u64>,
    bytes: u64,
    /// The span of the delivery, from the begin until it is complete or dropped.
    span: Span,
}

impl fmt::Debug for DeliveryWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryWriter").field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

/// Creates the hash partitioner of DataFusion's own exchanges, so that deliveries and exchanges agree.
fn by_hash(partitioning: &Partitioning, schema: &SchemaRef) -> Result<Option<BatchPartitioner>> {
    let Partitioning::Hash { columns, count } = partitioning else {
        return Ok(None);
    };
    let column = |&index: &usize| match schema.fields().get(index) {
        Some(field) => Ok(Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>),
        None => Err(QueryError::internal(format!("the rows have no column {index}, which is a partitioning key"))),
    };
    let keys = columns.iter().map(column).collect::<Result<Vec<_>>>()?;
    let hash = datafusion::physical_plan::Partitioning::Hash(keys, *count);
    Ok(Some(BatchPartitioner::try_new(hash, Time::new(), 0, 1)?))
}

/// Releases the memory of `batch` beyond its rows, as far as no other batch shares it.
fn shrunk(batch: RecordBatch) -> Result<RecordBatch> {
    let (schema, mut columns, rows) = batch.into_parts();
    for column in &mut columns {
        if let Some(column) = Arc::get_mut(column) {
            column.shrink_to_fit();
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// A complete delivery.
#[derive(Debug)]
pub struct Delivery {
    /// The id of the delivery.
    pub delivery: DeliveryId,
    /// The place of the rows.
    pub delivered: Delivered,
    /// Rows by partition, over all combs.
    pub rows: Vec<u64>,
    /// Size in memory of the batches, in bytes.
    pub bytes: u64,
}

impl DeliveryWriter {
    /// Creates a delivery with a new id, of batches with `schema`. Calls a comb only once there is a batch for it.
    ///
    /// # Errors
    /// `Internal` when a partitioning key is not a column of `schema`.
    pub fn new(network: Arc<dyn InboxNetwork>, mut destination: Destination, schema: SchemaRef) -> Result<Self> {
        // In objects, columns may have nulls that their plan does not declare.
        let schema = if destination.objects.is_some() { nullable(&schema) } else { schema };
        let by_hash = by_hash(&destination.partitioning, &schema)?;
        let count = destination.partitioning.count();
        // Each partition has a buffer of a whole batch for each column.
        let buffers = count.max(1).saturating_mul(schema.fields().len().max(1));
        destination.batch_size = destination.batch_size.min((BUFFERED_VALUES / buffers).max(64));
        let combs = destination.combs.len();
        let (stage, task, delivery) = (destination.stage, destination.task, DeliveryId::fresh());
        let writer = |place: &ObjectPlace| ObjectWriter::new(place.object(stage, task, delivery)?, &schema, count);
        let object = destination.objects.as_ref().map(writer).transpose()?;
        Ok(Self {
            by_hash,
            turn: destination.task.0 as usize % count.max(1),
            network,
            destination,
            delivery,
            schema,
            coalescers: (0..count).map(|_| None).collect(),
            sinks: (0..combs).map(|_| None).collect(),
            kept: InlineRows::default(),
            object,
            rows: vec![0; count],
            bytes: 0,
            span: span!("deliver", combs, rows = Empty, bytes = Empty),
        })
    }

    /// Returns true if the rows exceed what the outcome can carry. The task can then stop early.
    pub fn is_too_large(&self) -> bool {
        let kept = self.destination.combs.is_empty() && self.object.is_none();
        kept && self.bytes > self.destination.inline_bytes
    }

    /// Delivers a batch.
    ///
    /// # Errors
    /// As [`DeliverySink::send`].
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let Some(partitioner) = &mut self.by_hash else {
            let partition = self.in_turn();
            return self.gather(partition, batch).await;
        };
        let divided = partitioner.partition_iter(batch)?.collect::<Result<Vec<_>, _>>()?;
        for (partition, batch) in divided {
            self.gather(partition, batch).await?;
        }
        Ok(())
    }

    /// Returns the next partition of the round-robin. It alternates between combs, so that few batches reach many
    /// combs.
    fn in_turn(&mut self) -> usize {
        let combs = self.destination.combs.len().max(1);
        let share = (self.rows.len() / combs).max(1);
        let partition = self.turn % combs * share + self.turn / combs % share;
        self.turn = (self.turn + 1) % self.rows.len();
        partition
    }

    /// Sends all coalesced rows and waits until every comb holds them.
    ///
    /// # Errors
    /// As [`DeliverySink::finish`].
    pub async fn finish(mut self) -> Result<Delivery> {
        for partition in 0..self.coalescers.len() {
            if let Some(coalescer) = self.coalescers[partition].as_mut() {
                coalescer.finish_buffered_batch()?;
            }
            self.send_gathered(partition).await?;
        }
        for sink in self.sinks.iter_mut().filter_map(Option::take) {
            sink.finish().await?;
        }
        self.span.record("rows", self.rows.iter().sum::<u64>());
        self.span.record("bytes", self.bytes);
        let too_large = self.is_too_large();
        let delivered = if let Some(object) = self.object {
            Delivered::Object(object.finish().await?)
        } else if !self.destination.combs.is_empty() {
            Delivered::ToCombs
        } else if too_large {
            Delivered::TooLarge
        } else {
            Delivered::Inline(self.kept)
        };
        Ok(Delivery { delivery: self.delivery, delivered, rows: self.rows, bytes: self.bytes })
    }

    /// Coalesces the batches of a partition and sends each full one. This copies rows, which releases the large buffers
    /// of the batches from which few rows were selected.
    async fn gather(&mut self, partition: usize, batch: RecordBatch) -> Result<()> {
        if self.schema.fields().is_empty() {
            return self.send(partition, batch).await;
        }
        let coalescer = self.coalescers[partition]
            .get_or_insert_with(|| BatchCoalescer::new(Arc::clone(&self.schema), self.destination.batch_size));
        coalescer.push_batch(batch)?;
        self.send_gathered(partition).await
    }

    async fn send_gathered(&mut self, partition: usize) -> Result<()> {
        while let Some(batch) = self.coalescers[partition].as_mut().and_then(BatchCoalescer::next_completed_batch) {
            self.send(partition, batch).await?;
        }
        Ok(())
    }

    async fn send(&mut self, partition: usize, batch: RecordBatch) -> Result<()> {
        // A coalesced column has the capacity of a full batch, for example 64 KiB for a few integers.
        let batch = if batch.num_rows() < self.destination.batch_size { shrunk(batch)? } else { batch };
        self.rows[partition] += batch.num_rows() as u64;
        self.bytes += get_record_batch_memory_size(&batch) as u64;

        if let Some(object) = &mut self.object {
            return object.append(partition, batch).await;
        }
        if self.destination.combs.is_empty() {
            if !self.is_too_large() {
                self.kept.batches.push((u32::try_from(partition).expect("fewer than 2^32 partitions"), batch));
            }
            return Ok(());
        }
        let comb = partition * self.sinks.len() / self.rows.len();
        let mut sink = match self.sinks[comb].take() {
            Some(sink) => sink,
            None => self.begin(comb).await?,
        };
        sink.send(partition, batch).await?;
        self.sinks[comb] = Some(sink);
        Ok(())
    }

    async fn begin(&mut self, comb: usize) -> Result<Box<dyn DeliverySink>> {
        let address =
            self.destination.combs.get(comb).ok_or_else(|| QueryError::internal("no comb owns this partition"))?;
        let header = DeliveryHeader {
            build: BUILD_ID.to_string(),
            query: self.destination.query,
            stage: self.destination.stage,
            task: self.destination.task,
            delivery: self.delivery,
        };
        let inbox = self.network.inbox(address, &self.destination.token).await?;
        inbox.deliver(header, Arc::clone(&self.schema)).instrument(self.span.clone()).await
    }
}
