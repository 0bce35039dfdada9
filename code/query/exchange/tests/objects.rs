//! Tests deliveries as objects in storage: written by one side, held by an inbox, read by range.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{Field, Int32Type, Schema, SchemaRef};
use buzz_exchange::{
    Commit, Delivery, DeliveryHeader, DeliveryWriter, Destination, InboxService, Inboxes, MemoryNetwork, ObjectPlace,
    OpenQuery, StageSpec,
};
use buzz_kernel::encode_schema;
use buzz_protocol::{
    BUILD_ID, Delivered, ErrorKind, Partitioning, QueryError, QueryId, QueryToken, Result, Segment, StageId, TaskIndex,
    delivery_object,
};
use buzz_storage::Stores;
use futures::TryStreamExt;
use tempfile::TempDir;

const STAGE: StageId = StageId(2);
const PARTITIONS: usize = 3;

/// The inbox of one query over objects in a folder.
struct Exchange {
    folder: TempDir,
    place: ObjectPlace,
    inboxes: Arc<Inboxes>,
    query: QueryId,
}

impl Exchange {
    /// Opens a query whose stage has `tasks` tasks and rows of `schema`, which one leaf reads.
    async fn open(tasks: u32, schema: &Schema) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("exchange").to_str().unwrap().to_string();
        let place = ObjectPlace::parse(Arc::new(Stores::default()).for_stack(), &root).unwrap();
        let (inboxes, query) = (Arc::new(Inboxes::default()), QueryId::fresh());
        let stage = StageSpec {
            stage: STAGE,
            step: "m".to_string(),
            schema: encode_schema(schema).into(),
            partitions: 0..PARTITIONS,
            tasks,
            readers: 1,
        };
        let open = OpenQuery {
            build: BUILD_ID.to_string(),
            query,
            token: QueryToken::fresh(),
            deadline_ms: None,
            lease_ms: None,
            stages: vec![stage],
            flowing: false,
            paced: false,
            ahead: true,
            memory_bytes: 0,
            disk_bytes: 0,
        };
        inboxes.open(open).await.unwrap();
        Self { folder, place, inboxes, query }
    }

    /// Delivers `batches` as task `task`, hash-partitioned by `columns`.
    async fn deliver(&self, task: u32, columns: Vec<usize>, batches: &[RecordBatch], schema: SchemaRef) -> Delivery {
        let partitioning = match columns.is_empty() {
            true => Partitioning::RoundRobin { count: PARTITIONS },
            false => Partitioning::Hash { columns, count: PARTITIONS },
        };
        let destination = Destination {
            query: self.query,
            token: QueryToken::fresh(),
            stage: STAGE,
            task: TaskIndex(task),
            partitioning,
            combs: vec![],
            objects: Some(self.place.clone()),
            inline_bytes: 0,
            batch_size: 1000,
        };
        let mut writer = DeliveryWriter::new(Arc::new(MemoryNetwork::default()), destination, schema).unwrap();
        for batch in batches {
            writer.write(batch.clone()).await.unwrap();
        }
        assert!(!writer.is_too_large(), "an object has no bound");
        writer.finish().await.unwrap()
    }

    fn hold(&self, task: u32, delivery: &Delivery, segments: &[Segment]) -> Result<()> {
        let (query, task, delivery) = (self.query, TaskIndex(task), delivery.delivery);
        let header = DeliveryHeader { build: BUILD_ID.to_string(), query, stage: STAGE, task, delivery };
        self.inboxes.hold_object(&header, &self.place.object(STAGE, task, delivery)?, segments)
    }

    async fn commit(&self, task: u32, delivery: &Delivery) -> Result<()> {
        let (rows, delivery) = (delivery.rows.clone(), delivery.delivery);
        self.inboxes.commit(self.query, vec![Commit { stage: STAGE, task: TaskIndex(task), delivery, rows }]).await
    }

    async fn accept(&self, task: u32, delivery: &Delivery) {
        self.hold(task, delivery, &segments(delivery)).unwrap();
        self.commit(task, delivery).await.unwrap();
    }

    async fn read(&self, partition: usize) -> Result<Vec<RecordBatch>> {
        self.inboxes.read(self.query, STAGE, partition)?.try_collect().await
    }

    /// Returns the rows of all partitions.
    async fn read_all(&self) -> Result<Vec<RecordBatch>> {
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            all.extend(self.read(partition).await?);
        }
        Ok(all)
    }

    /// Returns the path of the object of a delivery.
    fn path(&self, task: u32, delivery: &Delivery) -> std::path::PathBuf {
        self.folder.path().join("exchange").join(delivery_object(STAGE, TaskIndex(task), delivery.delivery))
    }

    fn objects(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("exchange")).map_or(0, Iterator::count)
    }
}

fn segments(delivery: &Delivery) -> Vec<Segment> {
    match &delivery.delivered {
        Delivered::Object(segments) => segments.clone(),
        other => panic!("{other:?} instead of an object"),
    }
}

/// Returns rows `(id, name, kind)`, the last as a dictionary.
fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
    let names = StringArray::from_iter_values(ids.clone().map(|id| format!("row {id}")));
    let kinds: DictionaryArray<Int32Type> =
        ids.clone().map(|id| (id % 3 != 0).then_some(["a", "b"][id as usize % 2])).collect();
    let columns: [(&str, ArrayRef); 3] =
        [("id", Arc::new(Int64Array::from_iter_values(ids))), ("name", Arc::new(names)), ("kind", Arc::new(kinds))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let of = |batch: &RecordBatch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
    let mut ids: Vec<i64> = batches.iter().flat_map(of).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn partitions_of_an_object_are_read_by_range() {
    let schema = batch(0..1).schema();
    let exchange = Exchange::open(2, &schema).await;
    for task in 0..2 {
        let first = i64::from(task) * 5000;
        let batches = [batch(first..first + 3000), batch(first + 3000..first + 5000)];
        let delivery = exchange.deliver(task, vec![0], &batches, Arc::clone(&schema)).await;
        assert_eq!(segments(&delivery).len(), PARTITIONS, "a range for each partition");
        exchange.accept(task, &delivery).await;
    }
    assert_eq!(exchange.objects(), 2);
    let all = exchange.read_all().await.unwrap();
    assert_eq!(ids(&all), (0..10_000).collect::<Vec<_>>());
    let one = all.iter().find(|batch| batch.num_rows() > 0).unwrap();
    assert_eq!(one.schema(), schema);
    let id = one.column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0);
    assert_eq!(one.slice(0, 1), batch(id..id + 1), "all columns are as they were");
    exchange.inboxes.check_read(exchange.query, [].into()).await.unwrap();
}

#[tokio::test]
async fn many_rows_are_written_in_several_rounds() {
    // Not compressible: about 24 MB.
    let random = |row: i64| format!("{:x}{:x}", row.wrapping_mul(-7_046_029_254_386_353_131), row * row);
    let wide = |first: i64| {
        let values = StringArray::from_iter_values(
            (0..4000).map(|row| (0..20).map(|n| random(first + row * 31 + n)).collect::<String>()),
        );
        let ids = Int64Array::from_iter_values(first..first + 4000);
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(ids) as ArrayRef, true),
            ("value", Arc::new(values) as ArrayRef, true),
        ])
        .unwrap()
    };
    let batches: Vec<RecordBatch> = (0..15).map(|n| wide(n * 4000)).collect();
    let schema = batches[0].schema();
    let exchange = Exchange::open(1, &schema).await;
    let delivery = exchange.deliver(0, vec![0], &batches, schema).await;
    assert!(segments(&delivery).len() > PARTITIONS, "{:?}", segments(&delivery));
    exchange.accept(0, &delivery).await;
    assert_eq!(ids(&exchange.read_all().await.unwrap()), (0..60_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn nulls_in_columns_that_were_declared_without_are_kept() {
    // An operator may declare less than its rows have: `kind` has nulls.
    let rows = batch(0..3000);
    let strict: Vec<Field> =
        rows.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(false)).collect();
    let exchange = Exchange::open(1, &rows.schema()).await;
    let delivery = exchange.deliver(0, vec![0], std::slice::from_ref(&rows), Arc::new(Schema::new(strict))).await;
    exchange.accept(0, &delivery).await;
    let read = exchange.read_all().await.unwrap();
    assert_eq!(ids(&read), (0..3000).collect::<Vec<_>>());
    let nulls: usize = read.iter().map(|batch| batch.column(2).logical_null_count()).sum();
    assert_eq!(nulls, 1000);
}

#[tokio::test]
async fn delivery_without_rows_has_no_object() {
    let schema = batch(0..1).schema();
    let exchange = Exchange::open(1, &schema).await;
    let delivery = exchange.deliver(0, vec![0], &[], schema).await;
    assert!(segments(&delivery).is_empty());
    exchange.accept(0, &delivery).await;
    assert_eq!(exchange.objects(), 0);
    assert!(exchange.read_all().await.unwrap().is_empty());
}

#[tokio::test]
async fn rows_without_columns_are_counted() {
    let schema = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap();
    let exchange = Exchange::open(1, &schema).await;
    let delivery = exchange.deliver(0, vec![], &[batch], schema).await;
    exchange.accept(0, &delivery).await;
    let rows: usize = exchange.read_all().await.unwrap().iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 7);
}

#[tokio::test]
async fn only_the_accepted_object_of_a_task_is_read() {
    let schema = batch(0..1).schema();
    let exchange = Exchange::open(1, &schema).await;
    let first = exchange.deliver(0, vec![0], &[batch(0..50)], Arc::clone(&schema)).await;
    let second = exchange.deliver(0, vec![0], &[batch(0..50)], Arc::clone(&schema)).await;
    exchange.hold(0, &first, &segments(&first)).unwrap();
    exchange.accept(0, &second).await;
    let late = exchange.hold(0, &first, &segments(&first)).unwrap_err();
    assert_eq!(late.kind, ErrorKind::Cancelled);
    // The one that was not accepted may be gone.
    std::fs::remove_file(exchange.path(0, &first)).unwrap();
    assert_eq!(ids(&exchange.read_all().await.unwrap()), (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn partial_object_is_not_accepted() {
    let schema = batch(0..1).schema();
    let exchange = Exchange::open(1, &schema).await;
    let delivery = exchange.deliver(0, vec![0], &[batch(0..50)], schema).await;
    exchange.hold(0, &delivery, &segments(&delivery)[1..]).unwrap();
    let error = exchange.commit(0, &delivery).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("is incomplete"), "{error}");
}

/// Changes the object of an accepted delivery with `change`, and returns the error of reading it.
async fn read_changed(change: impl FnOnce(&std::path::Path)) -> QueryError {
    let schema = batch(0..1).schema();
    let exchange = Exchange::open(1, &schema).await;
    let delivery = exchange.deliver(0, vec![0], &[batch(0..5000)], schema).await;
    exchange.accept(0, &delivery).await;
    change(&exchange.path(0, &delivery));
    let error = exchange.read_all().await.unwrap_err();
    let unread = exchange.inboxes.check_read(exchange.query, [].into()).await.unwrap_err();
    assert!(unread.to_string().contains("are unread"), "{unread}");
    error
}

#[tokio::test]
async fn lost_short_and_corrupted_objects_are_unavailable_and_named() {
    let lost = read_changed(|path| std::fs::remove_file(path).unwrap()).await;
    assert!(lost.to_string().contains("is missing"), "{lost}");
    let short = read_changed(|path| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    let short = short.await;
    let corrupted = read_changed(|path| {
        let mut bytes = std::fs::read(path).unwrap();
        for byte in &mut bytes {
            *byte ^= 1;
        }
        std::fs::write(path, &bytes).unwrap();
    });
    let corrupted = corrupted.await;
    assert!(corrupted.to_string().contains("has other bytes than were written"), "{corrupted}");
    for error in [lost, short, corrupted] {
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("exchange/2-0-"), "{error}");
    }
}

#[tokio::test]
async fn object_of_another_partition_is_refused() {
    let schema = batch(0..1).schema();
    let exchange = Exchange::open(1, &schema).await;
    let delivery = exchange.deliver(0, vec![0], &[batch(0..50)], schema).await;
    let strange: Vec<Segment> =
        segments(&delivery).into_iter().map(|segment| Segment { partition: 99, ..segment }).collect();
    assert_eq!(exchange.hold(0, &delivery, &strange).unwrap_err().kind, ErrorKind::Internal);
    let unknown = Delivery { rows: vec![50], ..delivery };
    assert!(exchange.commit(0, &unknown).await.is_err());
}
