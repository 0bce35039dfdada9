//! Deliveries as objects in storage: one object for each, with the rows of each partition in ranges of it.
//!
//! A task writes its object and names the ranges in its outcome. A reducer reads a partition by its ranges, from the objects of
//! accepted deliveries only. So a delivery that is late, partial or of another attempt is never read.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use buzz_protocol::{DeliveryId, QueryError, Requests, Result, Segment, StageId, TaskIndex, delivery_object, nullable};
use buzz_storage::{Location, QueryStores, SegmentRange, SegmentWriter, read_segment};
use datafusion::common::utils::memory::get_record_batch_memory_size;

/// Bytes in memory of the rows of a segment, approximately. A reader decodes a segment as a whole.
const SEGMENT_BYTES: usize = 32 << 20;

/// Encoded bytes of all partitions that a task gathers before it writes them. A reader has as many in memory at most, for
/// each object that it reads ahead.
const GATHERED_BYTES: usize = 16 << 20;

/// The place of the objects of one run of a query.
#[derive(Clone)]
pub struct ObjectPlace {
    stores: Arc<QueryStores>,
    root: Location,
}

impl fmt::Debug for ObjectPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectPlace").field("root", &self.root).finish_non_exhaustive()
    }
}

impl ObjectPlace {
    /// Creates the place `root`, which `stores` reach.
    pub fn new(stores: Arc<QueryStores>, root: Location) -> Self {
        Self { stores, root }
    }

    /// Creates the place at the absolute URI `root`, which `stores` reach.
    ///
    /// # Errors
    /// `Invalid` if `root` is not a location.
    pub fn parse(stores: Arc<QueryStores>, root: &str) -> Result<Self> {
        Ok(Self::new(stores, Location::parse(root, std::path::Path::new("/"))?))
    }

    /// Returns the folder of the objects.
    pub fn root(&self) -> &Location {
        &self.root
    }

    /// Returns the stores that reach the objects.
    pub fn stores(&self) -> &Arc<QueryStores> {
        &self.stores
    }

    /// Returns the requests to buckets for the objects so far.
    pub fn requests(&self) -> Requests {
        self.stores.requests()
    }

    /// Returns the object of a delivery.
    ///
    /// # Errors
    /// `Data` if the place is not a valid path.
    pub fn object(&self, stage: StageId, task: TaskIndex, delivery: DeliveryId) -> Result<ObjectOfDelivery> {
        let place = self.root.join(&delivery_object(stage, task, delivery))?;
        Ok(ObjectOfDelivery { stores: Arc::clone(&self.stores), place })
    }
}

/// The object of one delivery.
#[derive(Clone)]
pub struct ObjectOfDelivery {
    stores: Arc<QueryStores>,
    place: Location,
}

impl fmt::Debug for ObjectOfDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectOfDelivery").field("place", &self.place).finish_non_exhaustive()
    }
}

impl ObjectOfDelivery {
    /// Reads the batches of `segment`.
    ///
    /// # Errors
    /// `Unavailable`, naming the object, if it is missing, was changed or does not have the rows, or if the store does not
    /// respond: the query can run again.
    pub(crate) async fn read(&self, segment: &Segment) -> Result<Vec<RecordBatch>> {
        let Segment { offset, length, crc, rows, .. } = *segment;
        let bytes = read_segment(&self.stores, &self.place, SegmentRange { offset, length, crc }).await?;
        let broken = |why: String| {
            QueryError::unavailable(format!("the object {} of a delivery cannot be decoded: {why}", self.place))
        };
        let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(|error| broken(error.to_string()))?;
        let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| broken(error.to_string()))?;
        let found: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if found != rows {
            return Err(broken(format!("it has {found} instead of {rows} rows")));
        }
        Ok(batches)
    }
}

/// Writes the object of one delivery.
pub(crate) struct ObjectWriter {
    object: ObjectOfDelivery,
    schema: SchemaRef,
    options: IpcWriteOptions,
    /// The encoded rows of each partition that are not written yet.
    gathered: Vec<Option<Gathered>>,
    /// The upload; begins with the first segment.
    upload: Option<SegmentWriter>,
    segments: Vec<Segment>,
}

/// Encoded rows of one partition.
struct Gathered {
    stream: StreamWriter<Vec<u8>>,
    rows: u64,
    /// Bytes of the rows in memory.
    decoded: usize,
}

impl ObjectWriter {
    /// Begins the object of a delivery of rows with `schema` to `partitions` partitions. Sends no request. Columns may have
    /// nulls: the inbox that reads the rows decides if its stage allows them.
    ///
    /// # Errors
    /// `Internal` if the rows cannot be compressed.
    pub(crate) fn new(object: ObjectOfDelivery, schema: &Schema, partitions: usize) -> Result<Self> {
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let gathered = (0..partitions).map(|_| None).collect();
        Ok(Self { object, schema: nullable(schema), options, gathered, upload: None, segments: Vec::new() })
    }

    /// Appends a batch to `partition`.
    ///
    /// # Errors
    /// `Unavailable` if the store does not respond, `Data` if it refuses the write.
    pub(crate) async fn append(&mut self, partition: usize, batch: RecordBatch) -> Result<()> {
        let slot = self.gathered.get_mut(partition);
        let slot = slot.ok_or_else(|| QueryError::internal(format!("a delivery has no partition {partition}")))?;
        let rows = batch.num_rows() as u64;
        let decoded = get_record_batch_memory_size(&batch);
        // Batches with equal schemas may hold them as different objects.
        let batch = batch.with_schema(Arc::clone(&self.schema))?;
        let mut gathered = match slot.take() {
            Some(gathered) => gathered,
            None => {
                let stream = StreamWriter::try_new_with_options(Vec::new(), &self.schema, self.options.clone())?;
                Gathered { stream, rows: 0, decoded: 0 }
            }
        };
        gathered.stream.write(&batch)?;
        gathered.rows += rows;
        gathered.decoded += decoded;
        let full = gathered.decoded >= SEGMENT_BYTES;
        *slot = Some(gathered);
        if full {
            return self.write(partition).await;
        }
        let bytes: usize = self.gathered.iter().flatten().map(|gathered| gathered.stream.get_ref().len()).sum();
        if bytes >= GATHERED_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes a segment of each partition that has gathered rows.
    async fn flush(&mut self) -> Result<()> {
        for partition in 0..self.gathered.len() {
            self.write(partition).await?;
        }
        Ok(())
    }

    /// Writes the gathered rows of `partition`, if it has any, as a segment.
    async fn write(&mut self, partition: usize) -> Result<()> {
        let Some(Gathered { stream, rows, .. }) = self.gathered.get_mut(partition).and_then(Option::take) else {
            return Ok(());
        };
        let bytes = stream.into_inner()?;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(SegmentWriter::create(&self.object.stores, self.object.place.clone())?),
        };
        let SegmentRange { offset, length, crc } = upload.write(bytes.into()).await?;
        let partition = u32::try_from(partition).map_err(|_| QueryError::internal("a delivery has 2^32 partitions"))?;
        self.segments.push(Segment { partition, rows, offset, length, crc });
        Ok(())
    }

    /// Completes the object and returns its segments. Without rows, there is no object.
    ///
    /// # Errors
    /// As [`ObjectWriter::append`].
    pub(crate) async fn finish(mut self) -> Result<Vec<Segment>> {
        self.flush().await?;
        if let Some(upload) = self.upload.take() {
            upload.finish().await?;
        }
        Ok(self.segments)
    }
}
