//! Streams that are read from their logs.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::ipc::writer::StreamWriter;
use buzz_epoch::{Part, RETENTION, SourceColumn, SourceSpec};
use buzz_storage::text::RowFormat;
use object_store::memory::InMemory;

use super::*;

const STREAM: &str = "clicks";

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]))
}

fn root(store: &Arc<InMemory>) -> StreamsRoot {
    let store: Arc<dyn ObjectStore> = store.clone();
    StreamsRoot { store, path: Path::from("root"), folder: None, written: "memory".to_string() }
}

async fn log(store: &Arc<InMemory>) -> SourceLog {
    let spec = SourceSpec { format: "json".to_string(), columns: columns(), ..SourceSpec::default() };
    SourceLog::open(store.clone(), Path::from("root"), STREAM, &spec).await.expect("memory does not fail")
}

fn columns() -> Vec<SourceColumn> {
    let column = |name: &str, data_type: &str| SourceColumn {
        name: name.to_string(),
        data_type: data_type.to_string(),
        required: false,
    };
    vec![column("id", "Int64"), column("name", "Utf8")]
}

fn source(store: &Arc<InMemory>) -> PushedSource {
    PushedSource::new(root(store), STREAM.to_string(), schema())
}

/// A request: its key, format, producer and rows.
type Request<'a> = (&'a str, RowFormat, &'a str, &'a [u8]);

async fn push(log: &SourceLog, requests: &[Request<'_>]) {
    let mut segment = Segment::default();
    let mut payload = Vec::new();
    for (key, format, producer, rows) in requests {
        let text = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
        segment.parts.push(Part {
            key: text(key),
            producer: text(producer),
            format: text(format.name()),
            rows: 1,
            bytes: rows.len() as u64,
            ..Part::default()
        });
        payload.extend_from_slice(rows);
    }
    segment.payload = payload.into();
    log.append(&segment, &SystemClock).await.expect("memory does not fail");
}

fn arrow(ids: &[i64]) -> Vec<u8> {
    let ids: arrow::array::ArrayRef = Arc::new(arrow::array::Int64Array::from(ids.to_vec()));
    let batch = RecordBatch::try_from_iter([("id", ids)]).expect("the columns fit");
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).expect("memory");
    writer.write(&batch).expect("memory");
    writer.finish().expect("memory");
    drop(writer);
    bytes
}

fn ids(read: &SourceBatch) -> Vec<i64> {
    let batches = read.partitions.iter().flat_map(|(_, batches)| batches);
    batches.flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

const JSON: RowFormat = RowFormat::Json;
const CSV: RowFormat = RowFormat::Csv { header: true };
const BARE: RowFormat = RowFormat::Csv { header: false };

#[tokio::test]
async fn rows_of_each_format_are_read_once() {
    let store = Arc::new(InMemory::new());
    let log = log(&store).await;
    let sent = arrow(&[5, 6]);
    let requests: [Request<'_>; 5] = [
        ("a", JSON, "", b"{\"id\":1}\n{\"id\":2}\n"),
        ("b", JSON, "", b"{\"id\":3}\n"),
        ("c", CSV, "", b"name,id\nx,4\n"),
        ("d", RowFormat::Arrow, "", &sent),
        ("e", BARE, "", b"7,y\n"),
    ];
    push(&log, &requests).await;
    // The same again, as clients that got no answer send it, with a new one.
    push(&log, &requests).await;
    push(&log, &[("b", JSON, "", b"{\"id\":3}\n"), ("f", JSON, "", b"{\"id\":8}\n")]).await;
    let mut source = source(&store);
    source.follow = false;
    let read = source.read(1000, 0).await.expect("the rows are read");
    // Segments of one millisecond may be in any order.
    let mut found = ids(&read);
    found.sort_unstable();
    assert_eq!((found, read.ended, read.bad.len()), ((1..9).collect(), true, 0));
    assert_eq!(read.partitions.len(), 1);
}

#[tokio::test]
async fn source_goes_on_from_its_offset_with_the_same_rows() {
    let store = Arc::new(InMemory::new());
    let log = log(&store).await;
    for id in 1..=6 {
        push(&log, &[("", JSON, "", format!("{{\"id\":{id}}}\n").as_bytes())]).await;
        if id % 2 == 0 {
            log.seal(&SystemClock).await.expect("memory does not fail");
        }
    }
    let mut first = source(&store);
    let mut found = Vec::new();
    for _ in 0..6 {
        // Each read is of another process.
        let mut next = source(&store);
        next.resume(&first.offset()).expect("it is an offset");
        let read = next.read(1, 0).await.expect("the rows are read");
        assert!(read.more && !read.ended);
        let mut again = source(&store);
        again.resume(&first.offset()).expect("it is an offset");
        assert_eq!(ids(&again.read(1, 0).await.expect("the rows are read")), ids(&read));
        found.extend(ids(&read));
        first = next;
    }
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3, 4, 5, 6]);
    // The source seals the rows that no server has sealed, once.
    push(&log, &[("", JSON, "", b"{\"id\":7}\n")]).await;
    let mut last = source(&store);
    last.resume(&first.offset()).expect("it is an offset");
    last.follow = false;
    let read = last.read(10, 0).await.expect("the rows are read");
    assert_eq!((ids(&read), read.ended), (vec![7], true));
}

#[tokio::test]
async fn producers_are_partitions_if_the_table_says_so() {
    let store = Arc::new(InMemory::new());
    let log = log(&store).await;
    push(&log, &[("", JSON, "p", b"{\"id\":1}\n"), ("", JSON, "q", b"{\"id\":2}\n"), ("", JSON, "", b"{\"id\":3}\n")])
        .await;
    let mut source = source(&store);
    source.by_producer = true;
    let read = source.read(10, 0).await.expect("the rows are read");
    let names: Vec<&str> = read.partitions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["0", "producer p", "producer q"]);
    let mut later = self::source(&store);
    later.by_producer = true;
    later.resume(&source.offset()).expect("it is an offset");
    // A partition without rows is named, since it holds back the watermark.
    assert_eq!(later.read(10, 0).await.expect("there are no rows").partitions.len(), 3);
}

#[tokio::test]
async fn rows_that_do_not_fit_are_treated_as_the_table_says() {
    let store = Arc::new(InMemory::new());
    let log = log(&store).await;
    let sent = arrow(&[1]);
    let requests: [Request<'_>; 4] = [
        ("", JSON, "", b"{\"id\":1}\n{\"id\":2.5}\n{\"id\":3}\n"),
        ("", CSV, "", b"other\n4\n"),
        ("", CSV, "", b"id\n5\nx\n"),
        ("", RowFormat::Arrow, "", &sent[..sent.len() / 2]),
    ];
    push(&log, &requests).await;
    let mut source = source(&store);
    source.bad_data = BadData::Side;
    let read = source.read(10, 0).await.expect("bad rows are set aside");
    let mut found = ids(&read);
    found.sort_unstable();
    assert_eq!(found, [1, 3, 5]);
    let mut texts: Vec<&str> = read.bad.iter().map(|bad| bad.text.as_str()).collect();
    texts.sort_unstable();
    assert_eq!((texts.len(), &texts[1..]), (4, &["4", "x", "{\"id\":2.5}"][..]));
    assert!(texts[0].contains("Arrow IPC stream"), "{texts:?}");
    let error = self::source(&store).read(10, 0).await.expect_err("a row is bad");
    let error = error.to_string();
    assert!(error.contains("stream clicks, entry 1") && error.contains("none of the stream's columns"), "{error}");
}

#[tokio::test]
async fn rows_of_another_kind_do_not_take_others_with_them() {
    let store = Arc::new(InMemory::new());
    let log = log(&store).await;
    let others = "{\"user\":9}\n".repeat(150);
    let requests: [Request<'_>; 3] = [
        ("", JSON, "", others.as_bytes()),
        ("", JSON, "", b"{\"id\":1}\n{\"ID\":2}\n"),
        ("", JSON, "", b"{\"id\":3}\n{\"id\":4.5}\n"),
    ];
    push(&log, &requests).await;
    let mut source = source(&store);
    source.bad_data = BadData::Drop;
    let read = source.read(1000, 0).await.expect("bad rows are dropped");
    assert_eq!((ids(&read), read.bad.len()), (vec![1, 3], 152));
    let error = self::source(&store).read(1000, 0).await.expect_err("rows are bad");
    assert!(error.to_string().contains("none of the table's columns; it has `user`"), "{error}");
}

#[tokio::test]
async fn rows_are_judged_without_their_neighbours() {
    let store = Arc::new(InMemory::new());
    let log = log(&store).await;
    push(&log, &[("", JSON, "", b"{\"id\":1}\n"), ("", JSON, "", b"{\"other\":1}\n")]).await;
    let mut source = source(&store);
    source.bad_data = BadData::Drop;
    let read = source.read(10, 0).await.expect("bad rows are dropped");
    assert_eq!((ids(&read), read.bad.len()), (vec![1], 1));
    let error = self::source(&store).read(10, 0).await.expect_err("a row is bad");
    assert!(error.to_string().contains("none of the table's columns; it has `other`"), "{error}");
}

#[tokio::test]
async fn stream_that_does_not_exist_is_waited_for_or_named() {
    let store = Arc::new(InMemory::new());
    let mut waiting = source(&store);
    waiting.start = PushedStart::Latest;
    let read = waiting.read(10, 0).await.expect("it waits");
    assert!(
        !read.ended && read.notes[0].contains("stream `clicks` does not exist in `memory` yet"),
        "{:?}",
        read.notes
    );
    let mut bounded = source(&store);
    bounded.follow = false;
    assert!(bounded.read(10, 0).await.expect_err("it is missing").message.contains("does not exist"));
    let log = log(&store).await;
    push(&log, &[("", JSON, "", b"{\"id\":1}\n")]).await;
    assert_eq!(ids(&waiting.read(10, 0).await.expect("the rows are read")), [1]);
    // Rows that were there before are not the latest.
    let mut latest = source(&store);
    latest.start = PushedStart::Latest;
    assert_eq!(ids(&latest.read(10, 0).await.expect("there are no rows")), [0; 0]);
    push(&log, &[("", JSON, "", b"{\"id\":2}\n")]).await;
    log.seal(&SystemClock).await.expect("memory does not fail");
    assert_eq!(ids(&latest.read(10, 0).await.expect("the rows are read")), [2]);
}

#[tokio::test]
async fn log_that_lost_what_was_read_is_an_error() {
    let store = Arc::new(InMemory::new());
    log(&store).await;
    let mut source = source(&store);
    source.resume(&json!({"entry": 5, "segment": 0, "partitions": ["0"]})).expect("it is an offset");
    let error = source.read(10, 0).await.expect_err("the log is shorter");
    assert!(error.message.contains("entry 4 of the log of stream `clicks`"), "{error}");
    source.resume(&json!({"next": 5})).expect_err("it is an offset of a generator");
}

#[tokio::test]
async fn reader_of_a_stream_that_does_not_exist_yet_is_noted_with_its_first_read() {
    let store = Arc::new(InMemory::new());
    let mut waiting = source(&store);
    waiting.note_reader("p", Some(&Value::Null)).await.expect("there is nothing to note");
    let options = [(RETENTION.to_string(), "1 day".to_string())].into();
    let spec = SourceSpec { format: "json".to_string(), columns: columns(), options, ..SourceSpec::default() };
    let log = SourceLog::open(store.clone(), Path::from("root"), STREAM, &spec).await.expect("memory does not fail");
    push(&log, &[("", JSON, "", b"{\"id\":1}\n")]).await;
    assert_eq!(log.needed().await.expect("memory does not fail"), u64::MAX);
    assert_eq!(ids(&waiting.read(10, 0).await.expect("the rows are read")), [1]);
    assert_eq!(log.needed().await.expect("memory does not fail"), 1);
    waiting.note_reader("p", None).await.expect("the note is removed");
    assert_eq!(log.needed().await.expect("memory does not fail"), u64::MAX);
}
