//! A topic as a source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_protocol::{ErrorKind, QueryError, Result};
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::client::{Cluster, REQUEST_MAX, blocking};
use crate::received::{MessageFormat, decode};
use crate::source::{BadData, Source, SourceBatch};

/// Time between two looks for new partitions and for the ends of all.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Maximum time of a read whose records have not come, and of one wait for a record.
const READ_MAX: Duration = Duration::from_secs(1);
const POLL_MAX: Duration = Duration::from_millis(50);

/// Bytes of records after which a read ends.
const READ_BYTES_MAX: u64 = 64 << 20;

/// The record from which a topic is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// All that it has.
    Earliest,
    /// Records that come after the first read.
    Latest,
}

/// Reads the records of a topic.
pub(crate) struct KafkaSource {
    pub(crate) cluster: Cluster,
    /// The group of the consumer, for rights of the cluster. No offsets are committed.
    pub(crate) group: String,
    pub(crate) schema: SchemaRef,
    pub(crate) format: MessageFormat,
    pub(crate) bad_data: BadData,
    pub(crate) start: Start,
    /// Waits for new records instead of ending.
    pub(crate) follow: bool,
    /// Leaves out records of transactions that were aborted or have not ended.
    pub(crate) committed: bool,
    consumer: Option<Arc<BaseConsumer>>,
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
    /// The offsets were looked up or given.
    is_placed: bool,
    /// The offset behind the last record of each partition, at the last look.
    ends: BTreeMap<i32, i64>,
    looked: Option<Instant>,
    /// Partitions without further records.
    at_end: BTreeSet<i32>,
    /// Partitions that were at their end once.
    finished: BTreeSet<i32>,
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource").field("topic", &self.cluster.topic).field("next", &self.next).finish()
    }
}

/// The records of a poll.
#[derive(Debug, Default)]
struct Polled {
    records: BTreeMap<i32, Vec<Bytes>>,
    next: BTreeMap<i32, i64>,
    at_end: BTreeSet<i32>,
    /// Partitions that have reached their end meanwhile.
    reached: BTreeSet<i32>,
    count: usize,
    bytes: u64,
    trouble: Option<String>,
}

impl KafkaSource {
    /// Makes a source that follows a topic.
    pub(crate) fn new(cluster: Cluster, group: String, schema: SchemaRef, format: MessageFormat) -> Self {
        Self {
            cluster,
            group,
            schema,
            format,
            bad_data: BadData::Fail,
            start: Start::Latest,
            follow: true,
            committed: true,
            consumer: None,
            next: BTreeMap::new(),
            is_placed: false,
            ends: BTreeMap::new(),
            looked: None,
            at_end: BTreeSet::new(),
            finished: BTreeSet::new(),
        }
    }

    /// Resumes from an offset.
    ///
    /// # Errors
    /// `Data` if the offset is not one of a topic.
    pub(crate) fn resume(&mut self, offset: &Value) -> Result<()> {
        if offset.is_null() {
            return Ok(());
        }
        let wrong = || QueryError::data(format!("offset {offset} is not one of a topic"));
        let partitions = offset.get("partitions").and_then(Value::as_object).ok_or_else(wrong)?;
        for (partition, next) in partitions {
            let next = next.as_i64().filter(|next| *next >= 0).ok_or_else(wrong)?;
            self.next.insert(partition.parse().map_err(|_| wrong())?, next);
        }
        self.is_placed = true;
        Ok(())
    }

    /// Makes a consumer that is assigned to no partition yet.
    fn consumer(&self) -> Result<Arc<BaseConsumer>> {
        let mut config = self.cluster.config();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // Offsets that do not exist any more are an error: records would be missing.
            .set("auto.offset.reset", "error")
            .set("isolation.level", if self.committed { "read_committed" } else { "read_uncommitted" });
        let consumer: Result<BaseConsumer, KafkaError> = config.create();
        consumer.map(Arc::new).map_err(|error| self.cluster.failed("connecting", &error))
    }

    /// Looks for partitions and their ends, and assigns those that are new. Returns a note if there are none yet.
    async fn look(&mut self, consumer: &Arc<BaseConsumer>, is_new: bool) -> Result<Option<String>> {
        let (of, cluster) = (Arc::clone(consumer), self.cluster.clone());
        let found = blocking(move || watermarks(&of, &cluster)).await?;
        if found.is_empty() {
            let missing = format!("topic `{}` does not exist at {}", self.cluster.topic, self.cluster.servers);
            if !self.follow {
                return Err(QueryError::data(format!("{missing}; correct `topic` or `bootstrap_servers`")));
            }
            // All its records will be new ones.
            self.is_placed = true;
            return Ok(Some(format!("{missing} yet; waiting for it")));
        }
        let gone = self.next.keys().find(|partition| !found.contains_key(partition));
        if let Some(gone) = gone {
            return Err(QueryError::data(format!(
                "partition {gone} of topic `{}` was read before and does not exist any more; restore the topic, or start the \
                 pipeline under another name",
                self.cluster.topic
            )));
        }
        let mut has_grown = is_new;
        for (&partition, &(low, high)) in &found {
            has_grown |= !self.next.contains_key(&partition);
            // A partition that is new later has only new records.
            let first = if self.start == Start::Latest && !self.is_placed { high } else { low };
            let next = *self.next.entry(partition).or_insert(first);
            // An offset behind the end is refused by the broker when it is read.
            if next < low {
                return Err(QueryError::data(format!(
                    "partition {partition} of topic `{}` begins with offset {low}, and offset {next} is next: records were \
                     deleted before they were read; start the pipeline under another name",
                    self.cluster.topic
                )));
            }
            self.ends.insert(partition, high);
        }
        self.is_placed = true;
        self.looked = Some(Instant::now());
        if has_grown {
            let mut assigned = TopicPartitionList::new();
            for (&partition, &next) in &self.next {
                let added = assigned.add_partition_offset(&self.cluster.topic, partition, Offset::Offset(next));
                added.map_err(|error| self.cluster.failed("assigning", &error))?;
            }
            self.at_end.clear();
            consumer.assign(&assigned).map_err(|error| self.cluster.failed("assigning", &error))?;
        }
        Ok(None)
    }

    /// Returns the number of records that are not read, at the last look.
    fn lag(&self) -> u64 {
        let behind =
            |(partition, end): (&i32, &i64)| end.saturating_sub(self.next.get(partition).copied().unwrap_or(0));
        self.ends.iter().map(|end| u64::try_from(behind(end)).unwrap_or(0)).sum()
    }

    /// Returns true if all records are read that the topic had at the first read.
    fn has_ended(&self) -> bool {
        !self.follow && !self.next.is_empty() && self.next.keys().all(|partition| self.finished.contains(partition))
    }

    async fn fetch(&mut self, rows: usize, read: &mut SourceBatch) -> Result<()> {
        let (consumer, is_new) = match &self.consumer {
            Some(consumer) => (Arc::clone(consumer), false),
            None => (self.consumer()?, true),
        };
        self.consumer = Some(Arc::clone(&consumer));
        if is_new || self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            read.notes.extend(self.look(&consumer, is_new || self.looked.is_none()).await?);
        }
        if self.next.is_empty() {
            return Ok(());
        }
        let (cluster, partitions) = (self.cluster.clone(), self.next.len());
        let at_end = self.at_end.clone();
        let polled = blocking(move || poll(&consumer, &cluster, rows, at_end, partitions)).await?;
        read.notes.extend(polled.trouble);
        read.bytes = polled.bytes;
        let mut decoding = Vec::new();
        for (partition, records) in polled.records {
            let (schema, format, bad_data) = (Arc::clone(&self.schema), self.format, self.bad_data);
            decoding.push((partition, blocking(move || decode(&records, &schema, format, bad_data))));
        }
        let mut batches = BTreeMap::new();
        for (partition, decoded) in decoding {
            let place = || format!("topic {}, partition {partition}", self.cluster.topic);
            let decoded = decoded.await.map_err(|error| error.at(place()))?;
            read.bad.extend(decoded.bad);
            batches.insert(partition, decoded.batches);
        }
        self.next.extend(polled.next);
        self.finished.extend(&polled.reached);
        self.at_end = polled.at_end;
        for partition in self.next.keys() {
            read.partitions.push((partition.to_string(), batches.remove(partition).unwrap_or_default()));
        }
        read.ended = self.has_ended();
        read.more = !read.ended && polled.count > 0 && self.at_end.len() < self.next.len();
        read.lag = Some(self.lag());
        Ok(())
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn read(&mut self, rows: usize, _: i64) -> Result<SourceBatch> {
        let mut read = SourceBatch::default();
        // Records that were fetched and not returned are fetched again.
        let fetched = self.fetch(rows, &mut read).await;
        if fetched.is_err() {
            (self.consumer, self.looked) = (None, None);
        }
        fetched.map(|()| read)
    }

    fn starts_at_newest(&self) -> bool {
        self.start == Start::Latest
    }

    fn offset(&self) -> Value {
        if !self.is_placed {
            return Value::Null;
        }
        let next: BTreeMap<String, i64> =
            self.next.iter().map(|(partition, next)| (partition.to_string(), *next)).collect();
        json!({"partitions": next})
    }
}

/// Returns the first offset and the end of each partition of the topic; none if it does not exist.
fn watermarks(consumer: &BaseConsumer, cluster: &Cluster) -> Result<BTreeMap<i32, (i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(&cluster.topic), REQUEST_MAX);
    let metadata = metadata.map_err(|error| cluster.failed("looking for its partitions", &error))?;
    let mut found = BTreeMap::new();
    for topic in metadata.topics().iter().filter(|topic| topic.name() == cluster.topic) {
        let code = topic.error().map(RDKafkaErrorCode::from);
        let unknown = [RDKafkaErrorCode::UnknownTopic, RDKafkaErrorCode::UnknownTopicOrPartition];
        if let Some(code) = code.filter(|code| !unknown.contains(code)) {
            return Err(cluster.failed("looking for its partitions", &KafkaError::MetadataFetch(code)));
        }
        for partition in topic.partitions() {
            let ends = consumer.fetch_watermarks(&cluster.topic, partition.id(), REQUEST_MAX);
            let ends = ends.map_err(|error| cluster.failed("looking for its offsets", &error))?;
            found.insert(partition.id(), ends);
        }
    }
    Ok(found)
}

/// Takes the records that have come. Waits a little for them, unless all partitions are at their ends.
fn poll(
    consumer: &BaseConsumer,
    cluster: &Cluster,
    rows: usize,
    at_end: BTreeSet<i32>,
    partitions: usize,
) -> Result<Polled> {
    let (mut polled, started) = (Polled { at_end, ..Polled::default() }, Instant::now());
    while polled.count < rows && polled.bytes < READ_BYTES_MAX {
        let is_over = polled.at_end.len() >= partitions || started.elapsed() >= READ_MAX;
        let Some(message) = consumer.poll(if is_over { Duration::ZERO } else { POLL_MAX }) else {
            if is_over { break } else { continue }
        };
        match message {
            Ok(message) => {
                let partition = message.partition();
                polled.at_end.remove(&partition);
                polled.next.insert(partition, message.offset().saturating_add(1));
                polled.count += 1;
                // A record without a value marks a deletion, and is not a row.
                if let Some(payload) = message.payload() {
                    polled.bytes += payload.len() as u64;
                    polled.records.entry(partition).or_default().push(Bytes::copy_from_slice(payload));
                }
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                polled.at_end.insert(partition);
                polled.reached.insert(partition);
            }
            Err(error) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
                    return Err(QueryError::data(format!(
                        "topic `{}` at {} does not have the next offset: {error}; records were deleted before they were read, \
                         or the topic was created again; start the pipeline under another name",
                        cluster.topic, cluster.servers
                    )));
                }
                let failed = cluster.failed("reading", &error);
                if failed.kind != ErrorKind::Unavailable {
                    return Err(failed);
                }
                polled.trouble = Some(failed.message);
                if is_over {
                    break;
                }
            }
        }
    }
    Ok(polled)
}
