//! A topic as a sink: one transaction for each epoch.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::client::{Cluster, REQUEST_MAX, blocking};
use crate::received::MessageFormat;
use crate::sink::{Sink, WriteFormat, Written, encode_lines};

/// Maximum time until the records of an epoch are in the topic.
const WRITE_MAX: Duration = Duration::from_secs(120);

/// Time to wait while the queue of the client is full.
const FULL_WAIT: Duration = Duration::from_millis(5);

/// The partition under which the group of a sink has the epoch as its offset.
const MARKER_PARTITION: i32 = 0;

/// The guarantee of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitMode {
    /// An epoch is one transaction, with the epoch as an offset of the sink's group.
    ExactlyOnce,
    /// Records are sent without a transaction.
    AtLeastOnce,
}

/// Writes rows to a topic.
pub(crate) struct KafkaSink {
    pub(crate) cluster: Cluster,
    pub(crate) format: MessageFormat,
    pub(crate) mode: CommitMode,
    /// The column whose text is the key of a record.
    pub(crate) key: Option<String>,
    /// Identifies the sink: its transactions, and the group whose offset is its newest epoch.
    pub(crate) id: String,
    open: Arc<Mutex<Option<Arc<Open>>>>,
}

/// Notes the first record that no broker has taken.
#[derive(Default)]
struct Deliveries(Mutex<Option<KafkaError>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = delivered {
            self.0.lock().get_or_insert_with(|| error.clone());
        }
    }
}

/// A producer whose transactions no earlier process can write into.
struct Open {
    producer: ThreadedProducer<Deliveries>,
    group: Option<ConsumerGroupMetadata>,
    /// The newest epoch in the topic.
    marker: Mutex<Option<u64>>,
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink").field("topic", &self.cluster.topic).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A record: its key and its value. NULL is a record without a value.
type KeyValue = (Option<String>, Option<Vec<u8>>);

impl KafkaSink {
    /// Makes a sink. Nothing is connected before its first use.
    pub(crate) fn new(cluster: Cluster, id: String, format: MessageFormat, mode: CommitMode) -> Self {
        Self { cluster, format, mode, key: None, id, open: Arc::default() }
    }

    /// Runs `work` with the producer, which is opened if it is not. After an error it is opened again, which ends a
    /// transaction whose state is not known.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Open, &Cluster) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (open, cluster, id, mode) = (Arc::clone(&self.open), self.cluster.clone(), self.id.clone(), self.mode);
        blocking(move || {
            let mut slot = open.lock();
            let opened = match slot.take() {
                Some(opened) => opened,
                None => Arc::new(Open::new(&cluster, &id, mode)?),
            };
            let done = work(&opened, &cluster)?;
            *slot = Some(opened);
            Ok(done)
        })
        .await
    }

    /// Returns the records of `rows`.
    fn records(&self, rows: &[RecordBatch]) -> Result<Vec<KeyValue>> {
        let mut records = Vec::new();
        for batch in rows.iter().filter(|batch| batch.num_rows() > 0) {
            let keys = self.key.as_ref().map(|key| texts(batch, key)).transpose()?;
            let key = |row: usize| keys.as_ref().and_then(|keys| keys[row].clone());
            match self.format {
                MessageFormat::Json => {
                    let lines = encode_lines(WriteFormat::Json, true, std::slice::from_ref(batch))?;
                    let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
                    records.extend(lines.enumerate().map(|(row, line)| (key(row), Some(line.to_vec()))));
                }
                MessageFormat::RawString => {
                    let values = texts(batch, batch.schema().field(0).name())?;
                    let values = values.into_iter().enumerate();
                    records.extend(values.map(|(row, value)| (key(row), value.map(String::into_bytes))));
                }
            }
        }
        Ok(records)
    }
}

/// Returns the values of a column as texts.
fn texts(batch: &RecordBatch, name: &str) -> Result<Vec<Option<String>>> {
    let column = batch.column_by_name(name);
    let column = column.ok_or_else(|| QueryError::internal(format!("column `{name}` was checked and is missing")))?;
    let texts = cast(column, &DataType::Utf8)?;
    Ok(texts.as_string::<i32>().iter().map(|text| text.map(String::from)).collect())
}

fn producer(config: &ClientConfig, cluster: &Cluster) -> Result<ThreadedProducer<Deliveries>> {
    config.create_with_context(Deliveries::default()).map_err(|error| cluster.failed("connecting", &error))
}

impl Open {
    /// Connects, ends transactions of earlier processes, and reads the newest epoch.
    fn new(cluster: &Cluster, id: &str, mode: CommitMode) -> Result<Self> {
        let mut config = cluster.config();
        config.set("enable.idempotence", "true");
        if mode == CommitMode::AtLeastOnce {
            let producer = producer(&config, cluster)?;
            return Ok(Self { producer, group: None, marker: Mutex::new(None) });
        }
        config.set("transactional.id", id);
        let producer = producer(&config, cluster)?;
        producer.init_transactions(REQUEST_MAX).map_err(|error| cluster.failed("opening transactions", &error))?;
        let mut config = cluster.config();
        config.set("group.id", id).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().map_err(|error| cluster.failed("connecting", &error))?;
        let committed = consumer.committed_offsets(marker_list(cluster, Offset::Invalid)?, REQUEST_MAX);
        let committed = committed.map_err(|error| cluster.failed("reading the newest epoch", &error))?;
        let found = committed.find_partition(&cluster.topic, MARKER_PARTITION).map(|found| found.offset());
        let marker = match found {
            Some(Offset::Offset(epoch)) => u64::try_from(epoch).ok(),
            _ => None,
        };
        Ok(Self { producer, group: consumer.group_metadata(), marker: Mutex::new(marker) })
    }

    /// Sends records, and waits until the brokers have them if there is no transaction.
    fn send(&self, cluster: &Cluster, records: &[KeyValue]) -> Result<()> {
        for (key, value) in records {
            let mut record = BaseRecord::<str, [u8]>::to(&cluster.topic);
            if let Some(value) = value {
                record = record.payload(value);
            }
            if let Some(key) = key {
                record = record.key(key);
            }
            while let Err((error, refused)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(cluster.failed("writing", &error));
                }
                std::thread::sleep(FULL_WAIT);
                record = refused;
            }
        }
        self.producer.flush(WRITE_MAX).map_err(|error| cluster.failed("writing", &error))?;
        let undelivered = self.producer.context().0.lock().take();
        undelivered.map_or(Ok(()), |error| Err(cluster.failed("writing", &error)))
    }

    /// Writes the records of `epoch` and the epoch itself, all or nothing.
    fn transact(&self, cluster: &Cluster, epoch: u64, records: &[KeyValue]) -> Result<()> {
        let Some(group) = &self.group else { return self.send(cluster, records) };
        if self.marker.lock().is_some_and(|marker| marker >= epoch) {
            return Ok(());
        }
        let failed = |doing: &'static str| move |error: KafkaError| cluster.failed(doing, &error);
        let offset = i64::try_from(epoch).map_err(|_| QueryError::limit(format!("epoch {epoch} is not an offset")))?;
        self.producer.begin_transaction().map_err(failed("beginning a transaction"))?;
        let written = self.send(cluster, records).and_then(|()| {
            let offsets = marker_list(cluster, Offset::Offset(offset))?;
            let sent = self.producer.send_offsets_to_transaction(&offsets, group, REQUEST_MAX);
            sent.map_err(failed("writing the epoch"))?;
            self.producer.commit_transaction(WRITE_MAX).map_err(failed("committing"))
        });
        if let Err(error) = written {
            // An open one that cannot be aborted now is ended when the producer is opened again.
            let _ = self.producer.abort_transaction(REQUEST_MAX);
            return Err(error);
        }
        *self.marker.lock() = Some(epoch);
        Ok(())
    }
}

/// Returns the list that has the epoch of a sink.
fn marker_list(cluster: &Cluster, offset: Offset) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    let added = list.add_partition_offset(&cluster.topic, MARKER_PARTITION, offset);
    added.map_err(|error| cluster.failed("naming the epoch", &error))?;
    Ok(list)
}

#[async_trait]
impl Sink for KafkaSink {
    async fn marker(&self) -> Result<Option<u64>> {
        match self.mode {
            CommitMode::AtLeastOnce => Ok(None),
            CommitMode::ExactlyOnce => self.with(|open, _| Ok(*open.marker.lock())).await,
        }
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
        let records = self.records(rows)?;
        if !records.is_empty() {
            self.with(move |open, cluster| open.transact(cluster, epoch, &records)).await?;
        }
        Ok(Written::Done)
    }

    fn check(&self, columns: &Schema) -> Result<()> {
        let names: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
        if let Some(key) = self.key.as_ref().filter(|key| !names.contains(&key.as_str())) {
            return Err(QueryError::invalid(format!(
                "column `{key}` of option `sink.key_field` is not among the columns {}",
                names.join(", ")
            )));
        }
        let is_text = matches!(columns.fields().as_ref(), [field] if field.data_type().is_string());
        if self.format == MessageFormat::RawString && !is_text {
            return Err(QueryError::invalid(format!(
                "format raw_string writes one text column, and the columns are {}; select one text, or use json",
                names.join(", ")
            )));
        }
        Ok(())
    }
}
