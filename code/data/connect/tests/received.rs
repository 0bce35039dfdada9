//! Sources that receive from small servers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use buzz_connect::{Inbox, OpenSource, Place, open_source};
use buzz_protocol::{ErrorKind, Result};
use buzz_storage::Stores;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// Time after which a wait has failed. Nothing is asserted about shorter times.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Opens a source of a pipeline whose state is in `store`. Its rows have an integer `n`.
async fn open(store: &Arc<InMemory>, options: &[(&str, &str)], offset: Option<&Value>) -> OpenSource {
    let options: BTreeMap<String, String> =
        options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let store: Arc<dyn ObjectStore> = store.clone();
    let inbox = Inbox { store, root: "state".into(), pipeline: "p".to_string(), remote: false };
    let stores = Arc::new(Stores::default()).for_query();
    let place = Place { base: PathBuf::from("/"), stores, until_end: false, inbox: Some(inbox) };
    let columns = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
    open_source("t", &options, Some(columns), &place, offset).await.expect("the options are right")
}

/// The rows that a source has returned.
#[derive(Debug, Default)]
struct Found {
    values: Vec<i64>,
    bad: usize,
    ended: bool,
}

/// Reads until `source` has returned `rows` rows or has ended.
async fn read(source: &mut OpenSource, rows: usize) -> Result<Found> {
    let (mut found, started) = (Found::default(), Instant::now());
    while found.values.len() + found.bad < rows && !found.ended {
        let batch = source.source.read(1000, 0).await?;
        for batch in batch.partitions.iter().flat_map(|(_, batches)| batches) {
            found.values.extend(batch.column(0).as_primitive::<Int64Type>().values());
        }
        found.bad += batch.bad.len();
        found.ended = batch.ended;
        assert!(started.elapsed() < WAIT_MAX, "only {found:?}; {:?}", batch.notes);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(found)
}

/// Serves `router` and returns its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("{address}/events")
}

/// A server of events. Each connection gets the next text behind the id that it names, after which the server closes, or is silent.
#[derive(Clone)]
struct Events {
    texts: Arc<Vec<(String, bool)>>,
    connections: Arc<AtomicUsize>,
    /// The id behind which each connection goes on, and `gone` once a silent one was closed by the client.
    seen: mpsc::UnboundedSender<String>,
}

/// Reports the end of its connection.
struct Gone(mpsc::UnboundedSender<String>);

impl Drop for Gone {
    fn drop(&mut self) {
        drop(self.0.send("gone".to_string()));
    }
}

async fn events(State(server): State<Events>, headers: HeaderMap) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none").to_string();
    if header("authorization") != "Bearer a" {
        return (StatusCode::UNAUTHORIZED, "no token").into_response();
    }
    drop(server.seen.send(header("last-event-id")));
    let n = server.connections.fetch_add(1, Ordering::SeqCst);
    let Some((text, closes)) = server.texts.get(n).cloned() else { return StatusCode::NO_CONTENT.into_response() };
    let id = format!("id: {}\n\n", header("last-event-id"));
    let rest = text.split_once(&id).map_or(text.as_str(), |(_, rest)| rest).to_string();
    let text = stream::iter([Ok::<_, Infallible>(Bytes::from(rest))]);
    let body = if closes {
        Body::from_stream(text)
    } else {
        let gone = Gone(server.seen.clone());
        Body::from_stream(text.chain(stream::once(async move {
            std::future::pending::<()>().await;
            drop(gone);
            Ok(Bytes::new())
        })))
    };
    ([("content-type", "text/event-stream; charset=utf-8")], body).into_response()
}

/// Starts a server of events. Returns its address and what it sees.
async fn events_server(texts: &[(&str, bool)]) -> (String, mpsc::UnboundedReceiver<String>) {
    let (seen, sees) = mpsc::unbounded_channel();
    let texts = texts.iter().map(|(text, closes)| (text.to_string(), *closes)).collect();
    let server = Events { texts: Arc::new(texts), connections: Arc::default(), seen };
    let address = serve(Router::new().route("/events", any(events)).with_state(server)).await;
    (format!("http://{address}"), sees)
}

#[tokio::test]
async fn events_are_read_once_over_connections_and_restarts() {
    let large = format!("event: add\ndata: {{\"n\": 4, \"text\": \"{}\"}}\nid: 4\n\n", "x".repeat(10 << 20));
    let (address, mut sees) = events_server(&[
        ("data: {\"n\": 1}\nid: 1\n\nevent: other\ndata: {\"n\": 9}\n\ndata: [{\"n\": 2},\ndata: {\"n\": 3}]\nid: 3\n\ndata: {\"n\"", true),
        (&large, true),
        ("event: add\ndata: garbage\nid: 5\n\ndata: {\"n\": 6}\nid: 6\n\n", false),
        ("data: {\"n\": 7}\nid: 7\n\n", false),
    ])
    .await;
    let options = [
        ("connector", "sse"),
        ("endpoint", address.as_str()),
        ("headers", "Authorization: Bearer a"),
        ("events", "message, add"),
        ("bad_data", "drop"),
    ];
    let store = Arc::new(InMemory::new());
    let mut source = open(&store, &options, None).await;
    let first = read(&mut source, 6).await.expect("the server answers");
    assert_eq!((first.values, first.bad), (vec![1, 2, 3, 4, 6], 1));
    let offset = source.source.offset();
    drop(source);
    // The next run goes on behind the last event that was kept, and reads it no more.
    let mut source = open(&store, &options, Some(&offset)).await;
    assert_eq!(read(&mut source, 1).await.expect("the server answers").values, [7]);
    drop(source);
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.push(tokio::time::timeout(WAIT_MAX, sees.recv()).await.expect("it comes").expect("the server runs"));
    }
    seen.sort();
    assert_eq!(seen, ["3", "4", "6", "gone", "gone", "none"]);
    // From the start, all kept rows are there, and the server says that none follow.
    let mut source = open(&store, &options, None).await;
    let again = read(&mut source, 1000).await.expect("the server answers");
    assert_eq!((again.values, again.ended), (vec![1, 2, 3, 4, 6, 7], true));
    // Released batches are deleted, but for the last batch, which has the position.
    let newest = source.source.offset();
    source.source.note_reader("p", Some(&newest)).await.expect("memory does not fail");
    let mut source = open(&store, &options, None).await;
    assert_eq!(read(&mut source, 1000).await.expect("the server answers").values, [7]);
}

#[tokio::test]
async fn answer_that_refuses_is_an_error_that_names_the_options() {
    let (address, _sees) = events_server(&[]).await;
    let store = Arc::new(InMemory::new());
    let mut source = open(&store, &[("connector", "sse"), ("endpoint", &address)], None).await;
    let error = read(&mut source, 1).await.expect_err("it has no token");
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.contains("401 Unauthorized: no token; correct `endpoint` or `headers`"), "{error}");
}

#[tokio::test]
async fn of_two_processes_one_keeps_the_events() {
    let text: String = (1..=20).map(|n| format!("data: {{\"n\": {n}}}\nid: {n}\n\n")).collect();
    let (address, _sees) = events_server(&[(text.as_str(), false); 4]).await;
    let options = [("connector", "sse"), ("endpoint", address.as_str()), ("headers", "Authorization: Bearer a")];
    let store = Arc::new(InMemory::new());
    let (mut one, mut two) = (open(&store, &options, None).await, open(&store, &options, None).await);
    let (one, two) = tokio::join!(read(&mut one, 20), read(&mut two, 20));
    let all: Vec<i64> = (1..=20).collect();
    assert_eq!((one.expect("it reads").values, two.expect("it reads").values), (all.clone(), all));
}

#[tokio::test]
async fn messages_of_a_web_socket_are_read_over_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = format!("ws://{}", listener.local_addr().expect("it has an address"));
    let (subscribed, mut subscriptions) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let messages: [&[Message]; 3] = [
            &[Message::text("{\"n\": 1}"), Message::binary(&b"{\"n\": 2}"[..])],
            &[Message::text("garbage"), Message::text(format!("{{\"n\": 3, \"t\": \"{}\"}}", "x".repeat(10 << 20)))],
            &[Message::text("{\"n\": 4}\n{\"n\": 5}")],
        ];
        let mut silent = Vec::new();
        for messages in messages {
            let (stream, _) = listener.accept().await.expect("a client connects");
            let mut socket = accept_async(stream).await.expect("it is a WebSocket");
            for _ in 0..2 {
                let first = socket.next().await.expect("it subscribes").expect("it is a message");
                subscribed.send(first.into_text().expect("it is text").to_string()).expect("the test runs");
            }
            for message in messages {
                socket.send(message.clone()).await.expect("the client reads");
            }
            if messages.len() > 1 {
                socket.close(None).await.expect("it is open");
            } else {
                silent.push(socket);
            }
        }
        std::future::pending::<()>().await;
    });
    let options = [
        ("connector", "websocket"),
        ("endpoint", address.as_str()),
        ("subscription_messages[0]", "a"),
        ("subscription_messages[1]", "b"),
        ("bad_data", "drop"),
    ];
    let mut source = open(&Arc::new(InMemory::new()), &options, None).await;
    let found = read(&mut source, 6).await.expect("the server answers");
    assert_eq!((found.values, found.bad), (vec![1, 2, 3, 4, 5], 1));
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(subscriptions.recv().await.expect("it was sent"));
    }
    assert_eq!(seen, ["a", "b", "a", "b", "a", "b"]);
}

#[tokio::test]
async fn web_socket_that_pings_and_reads_nothing_fills_no_memory() {
    const PINGS: usize = 400_000;
    let socket = TcpSocket::new_v4().expect("there is a socket");
    socket.set_recv_buffer_size(64 << 10).expect("it is a size");
    socket.bind("127.0.0.1:0".parse().expect("it is an address")).expect("a port is free");
    let listener = socket.listen(1).expect("it listens");
    let address = format!("ws://{}", listener.local_addr().expect("it has an address"));
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client connects");
        let mut socket = accept_async(stream).await.expect("it is a WebSocket");
        for _ in 0..PINGS {
            socket.feed(Message::Ping(vec![b'x'; 120].into())).await.expect("the client reads");
        }
        socket.feed(Message::Ping(Bytes::from_static(b"last"))).await.expect("the client reads");
        socket.send(Message::text("{\"n\": 1}")).await.expect("the client reads");
        let mut answers = 0;
        while let Some(Ok(Message::Pong(answer))) = socket.next().await {
            answers += 1;
            if answer == "last" {
                break;
            }
        }
        (answers, socket)
    });
    let options = [("connector", "websocket"), ("endpoint", address.as_str())];
    let mut source = open(&Arc::new(InMemory::new()), &options, None).await;
    assert_eq!(read(&mut source, 1).await.expect("the server answers").values, [1]);
    let (answers, _) = timeout(WAIT_MAX, server).await.expect("it gets the last answer").expect("it ends");
    // Some are in buffers of the system.
    assert!((1..PINGS / 2).contains(&answers), "{answers} of {PINGS} pings are answered");
}

/// Returns each number twice, and an error before the third one.
async fn numbers(State(asked): State<Arc<AtomicUsize>>, headers: HeaderMap, body: String) -> Response {
    assert_eq!((headers["x-a"].to_str().expect("it is text"), body.as_str()), ("1, 2", "ask"));
    match asked.fetch_add(1, Ordering::SeqCst) {
        4 => (StatusCode::SERVICE_UNAVAILABLE, "busy").into_response(),
        n => format!("{{\"n\": {}}}", n / 2).into_response(),
    }
}

#[tokio::test]
async fn answers_that_have_changed_are_read() {
    let router = Router::new().route("/events", any(numbers)).with_state(Arc::default());
    let address = format!("http://{}", serve(router).await);
    let options = [
        ("connector", "polling_http"),
        ("endpoint", address.as_str()),
        ("method", "post"),
        ("body", "ask"),
        ("headers", "X-A: 1, 2"),
        ("poll_interval_ms", "5"),
        ("emit_behavior", "changed"),
    ];
    let store = Arc::new(InMemory::new());
    let mut source = open(&store, &options, None).await;
    assert_eq!(read(&mut source, 4).await.expect("the server answers").values[..4], [0, 1, 2, 3]);
    // Messages that were kept meanwhile come too; none is there twice.
    let offset = source.source.offset();
    drop(source);
    let mut source = open(&store, &options, Some(&offset)).await;
    let later = read(&mut source, 3).await.expect("the server answers").values;
    assert!(later.windows(2).all(|pair| pair[0] < pair[1]) && later[0] > 3, "{later:?}");
}
