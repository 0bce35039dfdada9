//! Tests the contract of [`InboxService`], for in-process inboxes and for inboxes behind a socket.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use buzz_exchange::{
    Commit, DeliveryHeader, DeliverySink, DeliveryWriter, Destination, InboxLimits, InboxNetwork, InboxService,
    Inboxes, MemoryNetwork, Network, OpenQuery, StageSpec, TcpNetwork, flight_server,
};
use buzz_kernel::{MemoryShares, encode_schema};
use buzz_protocol::{
    BUILD_ID, CombAddress, DeliveryId, ErrorKind, Partitioning, Place, QueryError, QueryId, QueryToken, Result,
    StageId, TaskIndex,
};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion_distributed::Worker;
use futures::{TryStream, TryStreamExt};
use tokio_stream::wrappers::TcpListenerStream;

const STAGE: StageId = StageId(3);

/// The inboxes of a comb, and the network and client that connect to them.
struct Comb {
    name: &'static str,
    behind: Arc<Inboxes>,
    address: CombAddress,
    network: Arc<dyn Network>,
    service: Arc<dyn InboxService>,
}

async fn both() -> Vec<Comb> {
    let behind = Arc::new(Inboxes::default());
    let memory = Arc::new(MemoryNetwork::default());
    let address = CombAddress::in_memory(0);
    memory.add(address.clone(), Arc::clone(&behind), Worker::default());
    let service = memory.inbox(&address, &token()).await.unwrap();
    let near = Comb { name: "memory", behind, address, network: memory, service };

    let behind = Arc::new(Inboxes::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(flight_server(Arc::clone(&behind)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let address = CombAddress(url.parse().unwrap());
    let tcp: Arc<dyn Network> = Arc::new(TcpNetwork::default());
    let service = tcp.inbox(&address, &token()).await.unwrap();
    let far = Comb { name: "tcp", behind, address, network: tcp, service };
    vec![near, far]
}

/// Returns the token of all queries in these tests.
fn token() -> QueryToken {
    QueryToken::shown("the token of these tests")
}

fn opening(query: QueryId) -> OpenQuery {
    OpenQuery {
        build: BUILD_ID.to_string(),
        query,
        token: token(),
        deadline_ms: None,
        lease_ms: None,
        flowing: false,
        paced: false,
        ahead: false,
        stages: vec![],
        memory_bytes: 1 << 20,
        disk_bytes: 1 << 30,
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]))
}

fn batch(ids: Range<i64>) -> RecordBatch {
    let names = StringArray::from_iter_values(ids.clone().map(|id| format!("row {id}")));
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(names)];
    RecordBatch::try_new(schema(), columns).unwrap()
}

async fn open(comb: &Comb, partitions: Range<usize>, tasks: u32, readers: u32) -> QueryId {
    open_with(comb, partitions, tasks, readers, &schema(), 1 << 20).await
}

async fn open_with(
    comb: &Comb,
    partitions: Range<usize>,
    tasks: u32,
    readers: u32,
    schema: &Schema,
    memory_bytes: u64,
) -> QueryId {
    let query = QueryId::fresh();
    let stage = StageSpec {
        stage: STAGE,
        step: "m".to_string(),
        schema: encode_schema(schema).into(),
        partitions,
        tasks,
        readers,
    };
    let open = OpenQuery { stages: vec![stage], memory_bytes, ..opening(query) };
    comb.service.open(open).await.unwrap();
    query
}

fn header(query: QueryId, task: u32) -> DeliveryHeader {
    let (build, delivery) = (BUILD_ID.to_string(), DeliveryId::fresh());
    DeliveryHeader { build, query, stage: STAGE, task: TaskIndex(task), delivery }
}

async fn begin(comb: &Comb, header: &DeliveryHeader) -> Result<Box<dyn DeliverySink>> {
    comb.service.deliver(header.clone(), schema()).await
}

/// Delivers `batches` to partitions 0, 1, … in turn.
async fn deliver(comb: &Comb, header: &DeliveryHeader, batches: &[RecordBatch]) -> Result<()> {
    let mut sink = begin(comb, header).await?;
    for (partition, batch) in batches.iter().enumerate() {
        sink.send(partition, batch.clone()).await?;
    }
    sink.finish().await
}

fn accepting(header: &DeliveryHeader, rows: &[u64]) -> Vec<Commit> {
    vec![Commit { stage: STAGE, task: header.task, delivery: header.delivery, rows: rows.to_vec() }]
}

async fn read(comb: &Comb, query: QueryId, partition: usize) -> Result<Vec<RecordBatch>> {
    let stream = comb.behind.read(query, STAGE, partition)?;
    tokio::time::timeout(Duration::from_secs(20), stream.try_collect()).await.expect("the stream ends")
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
    let mut ids: Vec<i64> = batches.iter().flat_map(column).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn only_committed_deliveries_are_read_and_stage_ends_after_last_commit() {
    for comb in both().await {
        let query = open(&comb, 0..2, 2, 1).await;
        let (first, second) = (header(query, 0), header(query, 1));
        let reading = {
            let stream = comb.behind.read(query, STAGE, 0).unwrap();
            tokio::spawn(stream.try_collect::<Vec<_>>())
        };
        deliver(&comb, &first, &[batch(0..3), batch(3..4)]).await.unwrap();
        deliver(&comb, &second, &[batch(10..12)]).await.unwrap();
        comb.service.commit(query, accepting(&second, &[2, 0])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!reading.is_finished(), "{}", comb.name);
        comb.service.commit(query, accepting(&first, &[3, 1])).await.unwrap();
        assert_eq!(ids(&reading.await.unwrap().unwrap()), [0, 1, 2, 10, 11], "{}", comb.name);
        assert_eq!(ids(&read(&comb, query, 1).await.unwrap()), [3], "{}", comb.name);
    }
}

#[tokio::test]
async fn concurrent_deliveries_of_one_task_are_counted_once() {
    for comb in both().await {
        let query = open(&comb, 0..1, 1, 1).await;
        let (one, other) = (header(query, 0), header(query, 0));
        let mut sinks = [begin(&comb, &one).await.unwrap(), begin(&comb, &other).await.unwrap()];
        for id in 0..3 {
            for sink in &mut sinks {
                sink.send(0, batch(id..id + 1)).await.unwrap();
            }
        }
        for sink in sinks {
            sink.finish().await.unwrap();
        }
        comb.service.commit(query, accepting(&other, &[3])).await.unwrap();
        // A repeated commit is idempotent; a commit of the other delivery is rejected.
        comb.service.commit(query, accepting(&other, &[3])).await.unwrap();
        let refused = comb.service.commit(query, accepting(&one, &[3])).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Internal, "{}", comb.name);
        assert_eq!(ids(&read(&comb, query, 0).await.unwrap()), [0, 1, 2], "{}", comb.name);
    }
}

#[tokio::test]
async fn delivery_after_commit_is_cancelled_and_dropped() {
    for comb in both().await {
        let query = open(&comb, 0..1, 1, 1).await;
        let (early, slow, late) = (header(query, 0), header(query, 0), header(query, 0));
        let mut slow_sink = begin(&comb, &slow).await.unwrap();
        slow_sink.send(0, batch(50..51)).await.unwrap();
        deliver(&comb, &early, &[batch(0..1)]).await.unwrap();
        comb.service.commit(query, accepting(&early, &[1])).await.unwrap();

        let slow_ends = match slow_sink.send(0, batch(51..52)).await {
            Ok(()) => slow_sink.finish().await,
            failed => failed,
        };
        assert_eq!(slow_ends.unwrap_err().kind, ErrorKind::Cancelled, "{}", comb.name);
        let late_ends = deliver(&comb, &late, &[batch(99..100)]).await;
        assert_eq!(late_ends.unwrap_err().kind, ErrorKind::Cancelled, "{}", comb.name);
        assert_eq!(ids(&read(&comb, query, 0).await.unwrap()), [0], "{}", comb.name);
    }
}

#[tokio::test]
async fn incomplete_delivery_cannot_be_committed() {
    for comb in both().await {
        let query = open(&comb, 0..1, 1, 1).await;
        let (broken, wrong, whole) = (header(query, 0), header(query, 0), header(query, 0));
        let mut sink = begin(&comb, &broken).await.unwrap();
        sink.send(0, batch(0..2)).await.unwrap();
        drop(sink);
        let refused = comb.service.commit(query, accepting(&broken, &[2])).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{}: {refused}", comb.name);

        // The delivery is complete, but its row count differs from the one in the commit.
        deliver(&comb, &wrong, &[batch(0..2)]).await.unwrap();
        let refused = comb.service.commit(query, accepting(&wrong, &[3])).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{}", comb.name);

        deliver(&comb, &whole, &[batch(7..9)]).await.unwrap();
        comb.service.commit(query, accepting(&whole, &[2])).await.unwrap();
        assert_eq!(ids(&read(&comb, query, 0).await.unwrap()), [7, 8], "{}", comb.name);
    }
}

#[tokio::test]
async fn delivery_with_wrong_schema_partition_task_query_or_build_is_rejected() {
    for comb in both().await {
        let query = open(&comb, 4..6, 1, 1).await;
        let refused = |outcome: Result<()>| outcome.unwrap_err();

        let other = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, true)]));
        let values: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let odd = RecordBatch::try_new(Arc::clone(&other), vec![values]).unwrap();
        let error = match comb.service.deliver(header(query, 0), other).await {
            Ok(mut sink) => refused(match sink.send(4, odd).await {
                Ok(()) => sink.finish().await,
                failed => failed,
            }),
            Err(error) => error,
        };
        assert_eq!(error.kind, ErrorKind::Internal, "{}: {error}", comb.name);
        assert!(error.message.contains("but the plan expects"), "{}: {error}", comb.name);

        // In turn: a partition of another comb, a task index out of range, an unknown query, a different build.
        assert_eq!(refused(deliver(&comb, &header(query, 0), &[batch(0..1)]).await).kind, ErrorKind::Internal);
        assert_eq!(refused(deliver(&comb, &header(query, 1), &[]).await).kind, ErrorKind::Internal);
        let unknown = refused(deliver(&comb, &header(QueryId::fresh(), 0), &[]).await);
        assert_eq!(unknown.kind, ErrorKind::Unavailable, "{}: {unknown}", comb.name);
        let stranger = DeliveryHeader { build: "0.0.0+other".to_string(), ..header(query, 0) };
        assert_eq!(refused(deliver(&comb, &stranger, &[]).await).kind, ErrorKind::Internal);
        let build = "0.0.0+other".to_string();
        let stranger = OpenQuery { build, ..opening(query) };
        assert_eq!(refused(comb.service.open(stranger).await).kind, ErrorKind::Unavailable);
        assert_eq!(refused(comb.service.commit(QueryId::fresh(), vec![]).await).kind, ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn abort_fails_readers_with_its_reason_and_close_removes_the_query() {
    for comb in both().await {
        let query = open(&comb, 0..1, 2, 1).await;
        let reading = tokio::spawn(comb.behind.read(query, STAGE, 0).unwrap().try_collect::<Vec<_>>());
        let reason = QueryError::data("is truncated").at(Place::file_of("t", "s3://lake/x")).at_task("m", TaskIndex(7));
        comb.service.abort(query, reason.clone()).await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap_err(), reason, "{}", comb.name);
        let late = deliver(&comb, &header(query, 0), &[batch(0..1)]).await.unwrap_err();
        // The reason arrives whole; over a socket, it also names the comb.
        let places = late.places.iter().filter(|place| !matches!(place, Place::Comb(_))).cloned().collect();
        assert_eq!(QueryError { places, ..late }, reason, "{}", comb.name);
        comb.service.close(query).await.unwrap();
        comb.service.close(query).await.unwrap();
        comb.service.abort(query, reason).await.unwrap();
        // An open that arrives after the close is rejected and leaves no query behind.
        let late = opening(query);
        assert_eq!(comb.service.open(late).await.unwrap_err().kind, ErrorKind::Cancelled, "{}", comb.name);
        assert_eq!(comb.behind.open_queries(), 0, "{}", comb.name);
    }
}

#[tokio::test]
async fn deliveries_spill_without_readers_and_every_reader_reads_all_rows() {
    for comb in both().await {
        let query = open_with(&comb, 0..1, 20, 2, &schema(), 5_000).await;
        for task in 0..20 {
            let header = header(query, task);
            let start = i64::from(task) * 100;
            deliver(&comb, &header, &[batch(start..start + 100)]).await.unwrap();
            comb.service.commit(query, accepting(&header, &[100])).await.unwrap();
        }
        assert!(comb.behind.spilled_bytes(query) > 10_000, "{}", comb.name);
        for _ in 0..2 {
            assert_eq!(ids(&read(&comb, query, 0).await.unwrap()), (0..2000).collect::<Vec<_>>(), "{}", comb.name);
        }
    }
}

/// Opens a query with partitions 0 and 1, whose uncommitted deliveries can be read (flowing) and wait for slow readers
/// (paced).
async fn open_paced(comb: &Comb) -> QueryId {
    let query = QueryId::fresh();
    let schema = encode_schema(&schema()).into();
    let stage = StageSpec { stage: STAGE, step: "m".to_string(), schema, partitions: 0..2, tasks: 1, readers: 1 };
    let open = OpenQuery { stages: vec![stage], memory_bytes: 1 << 30, flowing: true, paced: true, ..opening(query) };
    comb.service.open(open).await.unwrap();
    query
}

/// Delivers `count` batches to each of both partitions, counts them in `sent`, and commits the delivery.
async fn deliver_many(comb: &Comb, header: &DeliveryHeader, count: u64, sent: &AtomicU64) -> Result<()> {
    let mut sink = begin(comb, header).await?;
    for _ in 0..count {
        for partition in 0..2 {
            sink.send(partition, batch(0..10_000)).await?;
        }
        sent.fetch_add(1, Ordering::Relaxed);
        // Readers run on the same thread.
        tokio::task::yield_now().await;
    }
    sink.finish().await?;
    comb.service.commit(header.query, accepting(header, &[count * 10_000, count * 10_000])).await
}

/// Reads one batch, and asserts that the delivery does not finish before.
async fn takes_one(
    reader: &mut (impl TryStream<Ok = RecordBatch, Error = QueryError> + Unpin),
    delivery: &mut (impl Future<Output = Result<()>> + Unpin),
) {
    tokio::select! {
        first = reader.try_next() => assert_eq!(first.unwrap().unwrap().num_rows(), 10_000),
        _ = delivery => panic!("the delivery did not wait for its reader"),
    }
}

#[tokio::test]
async fn paced_delivery_waits_only_for_readers_with_unread_rows() {
    let comb = &both().await[0];
    // Without a reader the delivery does not wait. 100 batches are about 25 MB per partition.
    let query = open_paced(comb).await;
    deliver_many(comb, &header(query, 0), 100, &AtomicU64::new(0)).await.unwrap();

    // A reader has read one batch and is busy with it.
    let query = open_paced(comb).await;
    let (header, sent) = (header(query, 0), AtomicU64::new(0));
    let mut slow = Box::pin(comb.behind.read(query, STAGE, 0).unwrap());
    let mut delivery = Box::pin(deliver_many(comb, &header, 100, &sent));
    takes_one(&mut slow, &mut delivery).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut delivery).await.is_err());
    let waits_at = sent.load(Ordering::Relaxed);
    assert!((2..20).contains(&waits_at), "{waits_at} batches");

    // Another reader waits for rows, which may come after unread rows of the first: the delivery must not wait.
    let other = comb.behind.read(query, STAGE, 1).unwrap().try_collect::<Vec<_>>();
    let (delivered, other) = tokio::join!(&mut delivery, other);
    delivered.unwrap();
    assert_eq!(other.unwrap().len(), 100);
    assert_eq!(slow.try_collect::<Vec<_>>().await.unwrap().len(), 99);
}

#[tokio::test]
async fn paced_delivery_is_cancelled_with_its_query() {
    let comb = &both().await[0];
    let query = open_paced(comb).await;
    let (header, sent) = (header(query, 0), AtomicU64::new(0));
    let mut slow = Box::pin(comb.behind.read(query, STAGE, 0).unwrap());
    let mut delivery = Box::pin(deliver_many(comb, &header, 100, &sent));
    takes_one(&mut slow, &mut delivery).await;
    let aborted = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        comb.service.abort(query, QueryError::cancelled("enough")).await.unwrap();
    };
    let (delivered, ()) = tokio::join!(&mut delivery, aborted);
    assert_eq!(delivered.unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test]
async fn writer_distributes_rows_to_all_partitions_and_preserves_dictionaries() {
    for comb in both().await {
        let names: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::from_iter(["a", "b", "a"]));
        let plain = RecordBatch::try_from_iter_with_nullable([("name", names, true)]).unwrap();
        let query = open_with(&comb, 0..3, 1, 1, &plain.schema(), 1 << 20).await;
        let destination = Destination {
            token: token(),
            query,
            stage: STAGE,
            task: TaskIndex(0),
            partitioning: Partitioning::RoundRobin { count: 3 },
            combs: vec![comb.address.clone()],
            objects: None,
            inline_bytes: 0,
            batch_size: 4,
        };
        let mut writer = DeliveryWriter::new(Arc::clone(&comb.network) as _, destination, plain.schema()).unwrap();
        for _ in 0..10 {
            writer.write(plain.clone()).await.unwrap();
        }
        let delivered = writer.finish().await.unwrap();
        assert_eq!(delivered.rows.iter().sum::<u64>(), 30);
        assert!(delivered.rows.iter().all(|rows| *rows >= 9), "{:?}", delivered.rows);
        let rows = delivered.rows.clone();
        let commit = Commit { stage: STAGE, task: TaskIndex(0), delivery: delivered.delivery, rows };
        comb.service.commit(query, vec![commit]).await.unwrap();
        let mut values = Vec::new();
        for partition in 0..3 {
            for batch in read(&comb, query, partition).await.unwrap() {
                let texts = arrow::compute::cast(batch.column(0), &DataType::Utf8).unwrap();
                let texts = texts.as_any().downcast_ref::<StringArray>().unwrap();
                values.extend(texts.iter().map(|text| text.unwrap().to_string()));
            }
        }
        values.sort();
        assert_eq!(values, [vec!["a"; 20], vec!["b"; 10]].concat(), "{}", comb.name);
    }
}

#[tokio::test]
async fn requests_with_wrong_token_are_rejected() {
    let combs = both().await;
    let far = combs.iter().find(|comb| comb.name == "tcp").unwrap();
    let query = open(far, 0..1, 1, 1).await;
    let stranger = far.network.inbox(&far.address, &QueryToken::shown("a guess")).await.unwrap();
    let header =
        |delivery| DeliveryHeader { build: BUILD_ID.to_string(), query, stage: STAGE, task: TaskIndex(0), delivery };
    let refused = |outcome: Result<()>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("the token does not match query"), "{error}");
    };
    refused(stranger.open(OpenQuery { token: QueryToken::shown("a guess"), ..opening(query) }).await);
    refused(stranger.commit(query, vec![]).await);
    refused(stranger.abort(query, QueryError::cancelled("wrong token")).await);
    refused(stranger.close(query).await);
    let mut delivery = stranger.deliver(header(DeliveryId::fresh()), schema()).await.unwrap();
    _ = delivery.send(0, batch(0..3)).await;
    refused(delivery.finish().await);

    far.service.commit(query, vec![]).await.unwrap();
    assert_eq!(far.behind.open_queries(), 1);
    assert_eq!(far.network.build(&far.address).await.unwrap(), BUILD_ID);
}

#[tokio::test]
async fn comb_rejects_queries_above_its_limit_and_before_it_stops() {
    let inboxes = Arc::new(Inboxes::default());
    inboxes.limit(InboxLimits { memory_bytes: 1 << 20, queries: 2 });
    let queries = [QueryId::fresh(), QueryId::fresh(), QueryId::fresh()];
    for query in &queries[..2] {
        inboxes.open(opening(*query)).await.unwrap();
    }
    let full = inboxes.open(opening(queries[2])).await.unwrap_err();
    assert_eq!((full.kind, full.to_string().as_str()), (ErrorKind::Unavailable, "this comb already has 2 queries"));
    inboxes.open(opening(queries[1])).await.unwrap();

    assert!(!inboxes.refuse_if_idle());
    for query in &queries[..2] {
        inboxes.close(*query).await.unwrap();
    }
    assert_eq!(inboxes.closed_count(), 2);
    assert!(inboxes.refuse_if_idle());
    let late = inboxes.open(opening(queries[2])).await.unwrap_err();
    assert_eq!((late.kind, late.to_string().as_str()), (ErrorKind::Unavailable, "this comb is stopping"));
}

#[tokio::test]
async fn query_is_refused_while_others_use_the_memory_of_its_operators() {
    let inboxes = Arc::new(Inboxes::sharing(MemoryShares::new(8000)));
    inboxes.limit(InboxLimits { memory_bytes: 1 << 20, queries: 4 });
    let heavy = OpenQuery { token: QueryToken::shown("heavy"), ..opening(QueryId::fresh()) };
    inboxes.open(heavy.clone()).await.unwrap();
    let share = inboxes.share(&heavy.token).expect("the query is open");
    let join = MemoryConsumer::new("join").register(&share.pool());
    join.try_grow(6000).unwrap();
    assert!(join.try_grow(1).is_err(), "a share stays free for another query");

    inboxes.open(opening(QueryId::fresh())).await.unwrap();
    let third = opening(QueryId::fresh());
    let refused = inboxes.open(third.clone()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    assert!(refused.message.contains("use its memory"), "{refused}");
    assert_eq!(inboxes.open_queries(), 2);

    // Its operators may hold memory after the query.
    inboxes.close(heavy.query).await.unwrap();
    assert!(inboxes.share(&heavy.token).is_none());
    drop(join);
    inboxes.open(third).await.unwrap();
}

#[tokio::test]
async fn unclosed_query_is_removed_after_its_deadline() {
    let inboxes = Arc::new(Inboxes::default());
    let (left, kept) = (QueryId::fresh(), QueryId::fresh());
    inboxes.open(OpenQuery { deadline_ms: Some(1000), ..opening(left) }).await.unwrap();
    inboxes.open(OpenQuery { deadline_ms: Some(3000), ..opening(kept) }).await.unwrap();
    inboxes.end_overdue(2000);
    assert_eq!(inboxes.open_queries(), 1);
    assert_eq!(inboxes.commit(left, vec![]).await.unwrap_err().kind, ErrorKind::Unavailable);
    inboxes.commit(kept, vec![]).await.unwrap();
    let again = inboxes.open(opening(left)).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Cancelled, "a delayed call does not open it again");
    assert_eq!(inboxes.closed_count(), 1);
}

#[tokio::test]
async fn query_without_a_renewed_lease_is_closed() {
    let inboxes = Arc::new(Inboxes::default());
    let (left, kept) = (QueryId::fresh(), QueryId::fresh());
    inboxes.open(OpenQuery { lease_ms: Some(300), ..opening(left) }).await.unwrap();
    inboxes.open(OpenQuery { lease_ms: Some(3_600_000), ..opening(kept) }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    inboxes.commit(left, vec![]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(301)).await;
    inboxes.end_overdue(buzz_protocol::now_ms());
    assert_eq!(inboxes.open_queries(), 1);
    assert_eq!(inboxes.commit(left, vec![]).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(inboxes.open(opening(left)).await.unwrap_err().kind, ErrorKind::Cancelled);
    inboxes.commit(kept, vec![]).await.unwrap();
}

#[tokio::test]
async fn a_comb_reports_that_a_query_has_ended() {
    for comb in both().await {
        let query = open(&comb, 0..1, 1, 1).await;
        comb.service.check_open(query).await.unwrap();
        comb.service.close(query).await.unwrap();
        assert_eq!(comb.service.check_open(query).await.unwrap_err().kind, ErrorKind::Cancelled, "{}", comb.name);
    }
}

#[tokio::test]
async fn queries_share_the_memory_limit_of_their_comb() {
    let inboxes = Arc::new(Inboxes::default());
    let bytes = datafusion::common::utils::memory::get_record_batch_memory_size(&batch(0..100)) as u64;
    inboxes.limit(InboxLimits { memory_bytes: bytes, queries: 2 });
    let comb = Comb {
        name: "memory",
        behind: Arc::clone(&inboxes),
        address: CombAddress::in_memory(0),
        network: Arc::new(MemoryNetwork::default()),
        service: Arc::new(Arc::clone(&inboxes)),
    };
    for spills in [false, true] {
        let query = open(&comb, 0..1, 1, 1).await;
        let header = DeliveryHeader {
            build: BUILD_ID.to_string(),
            query,
            stage: STAGE,
            task: TaskIndex(0),
            delivery: DeliveryId::fresh(),
        };
        let mut delivery = comb.service.deliver(header, schema()).await.unwrap();
        delivery.send(0, batch(0..100)).await.unwrap();
        delivery.finish().await.unwrap();
        assert_eq!(inboxes.spilled_bytes(query) > 0, spills);
    }
}
