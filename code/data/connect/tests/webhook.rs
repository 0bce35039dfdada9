//! Requests of a sink to a small server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use buzz_connect::{Place, Sink, open_sink};
use buzz_protocol::ErrorKind;
use buzz_storage::Stores;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// The requests that a server has got, and its answers to the next ones.
#[derive(Debug, Default)]
struct Server {
    got: Vec<(String, String, String)>,
    answers: Vec<StatusCode>,
}

async fn take(State(server): State<Arc<Mutex<Server>>>, headers: HeaderMap, body: String) -> (StatusCode, String) {
    let header = |name: &str| headers[name].to_str().expect("it is text").to_string();
    let mut server = server.lock();
    server.got.push((header("idempotency-key"), header("content-type"), body));
    (server.answers.pop().unwrap_or(StatusCode::OK), "the answer".to_string())
}

/// Starts a server that gives `answers`, the last one first. Returns a sink that sends to it.
async fn webhook(answers: &[StatusCode], rows_per_request: usize) -> (Arc<dyn Sink>, Arc<Mutex<Server>>) {
    let server = Arc::new(Mutex::new(Server { got: Vec::new(), answers: answers.to_vec() }));
    let router = Router::new().route("/rows", post(take)).with_state(Arc::clone(&server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let endpoint = format!("http://{}/rows", listener.local_addr().expect("it has an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let rows_per_request = rows_per_request.to_string();
    let options = [("connector", "webhook"), ("endpoint", &endpoint), ("rows_per_request", &rows_per_request)];
    let options = options.map(|(name, value)| (name.to_string(), value.to_string()));
    let stores = Arc::new(Stores::default()).for_query();
    let place = Place { base: PathBuf::from("/"), stores, until_end: false, inbox: None };
    let sink = open_sink("t", &BTreeMap::from(options), &place, "p").await.expect("the options are right");
    (sink, server)
}

fn rows() -> Vec<RecordBatch> {
    let batch = |values: Vec<i64>| {
        let values: ArrayRef = Arc::new(Int64Array::from(values));
        RecordBatch::try_from_iter([("n", values)]).expect("the columns fit")
    };
    vec![batch(vec![1, 2]), batch(vec![3])]
}

fn got(server: &Mutex<Server>) -> Vec<(String, String, String)> {
    server.lock().got.clone()
}

#[tokio::test]
async fn each_row_has_its_key_in_each_try() {
    let busy = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS, StatusCode::BAD_GATEWAY, StatusCode::OK];
    let (sink, server) = webhook(&busy, 1).await;
    sink.write(7, &rows()).await.expect("the server takes them");
    sink.write(7, &rows()[..1]).await.expect("the server takes them");
    let got = got(&server);
    let keys: Vec<&str> = got.iter().map(|(key, _, _)| key.as_str()).collect();
    let twice = ["p-t/7/1", "p-t/7/2", "p-t/7/2", "p-t/7/2", "p-t/7/3", "p-t/7/1", "p-t/7/2"];
    assert_eq!(keys, twice);
    assert_eq!(got[4].1, "application/json");
    assert_eq!((got[1].2.as_str(), got[3].2.as_str(), got[4].2.as_str()), ("{\"n\":2}", "{\"n\":2}", "{\"n\":3}"));
}

#[tokio::test]
async fn several_rows_are_lines() {
    let (sink, server) = webhook(&[], 2).await;
    sink.write(1, &rows()).await.expect("the server takes them");
    let kind = "application/x-ndjson".to_string();
    let expected = [
        ("p-t/1/1".to_string(), kind.clone(), "{\"n\":1}\n{\"n\":2}".to_string()),
        ("p-t/1/2".to_string(), kind, "{\"n\":3}".to_string()),
    ];
    assert_eq!(got(&server), expected);
}

#[tokio::test]
async fn refusal_is_an_error_with_the_answer() {
    for status in [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::FOUND] {
        let (sink, server) = webhook(&[status, StatusCode::OK], 1).await;
        let error = sink.write(3, &rows()).await.expect_err("it refuses the second row");
        assert_eq!(error.kind, ErrorKind::Data);
        let text = error.to_string();
        assert!(text.contains("request p-t/3/2") && text.contains(&format!("{status}: the answer")), "{text}");
        assert_eq!(got(&server).len(), 2, "no other try");
    }
}
