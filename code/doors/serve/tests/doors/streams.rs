//! Streams: rows that are pushed by HTTP are kept before the answer, and count once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::ipc::writer::StreamWriter;
use buzz_serve::StreamsSettings;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{AUTH, Served, http, http_bytes, server, with_streams};

const CLICKS: &str = "/v1/streams/clicks";
const CSV: (&str, &str) = ("Content-Type", "text/csv");

async fn served(folder: &Path) -> Served {
    with_streams(StreamsSettings::of_folder(folder).unwrap()).await
}

/// Sends a request and returns the status and the body.
async fn send(served: &Served, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
    let headers: Vec<(&str, &str)> = [AUTH].iter().chain(headers).copied().collect();
    let (status, _, body) = http_bytes(served, method, path, &headers, body).await;
    (status, serde_json::from_slice(&body).unwrap())
}

async fn post(served: &Served, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    send(served, "POST", CLICKS, headers, body.as_bytes()).await
}

/// Returns the number of rows of the stream and of its segments.
async fn counts(served: &Served) -> (u64, u64) {
    let (status, shown) = send(served, "GET", CLICKS, &[], b"").await;
    assert_eq!(status, 200, "{shown}");
    (shown["rows"].as_u64().unwrap(), shown["segments"].as_u64().unwrap())
}

/// Sends the head of a request with a body of `bytes`, and returns the response.
async fn announce(served: &Served, bytes: usize) -> String {
    let mut stream = TcpStream::connect(served.http).await.unwrap();
    let (name, key) = AUTH;
    let head = format!(
        "POST {CLICKS} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{name}: {key}\r\nContent-Length: {bytes}\r\n\r\n",
        served.http
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn message(body: &Value) -> &str {
    body["error"]["message"].as_str().unwrap()
}

fn arrow(ids: std::ops::Range<i64>) -> Vec<u8> {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_each_format_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path()).await;
    let requests: [(&str, &[u8], u64); 7] = [
        ("", b"{\"id\": 1}", 1),
        ("application/x-www-form-urlencoded", b"{\"id\": 2}", 1),
        ("application/json", b"[{\"id\": 3}, {\"id\": 4}]", 2),
        ("application/x-ndjson; charset=utf-8", b"{\"id\": 5}\n{\"id\": 6}\n", 2),
        ("text/csv", b"id,name\n7,a\n8,b\n9,c\n", 3),
        ("application/vnd.apache.arrow.stream", &arrow(10..20), 10),
        ("application/json", b"[]", 0),
    ];
    let mut total = 0;
    for (kind, body, rows) in requests {
        let headers: Vec<_> = [("Content-Type", kind)].into_iter().filter(|(_, kind)| !kind.is_empty()).collect();
        let expected = json!({"stream": "clicks", "rows": rows});
        assert_eq!(send(&served, "POST", CLICKS, &headers, body).await, (200, expected), "{kind}");
        total += rows;
    }
    assert_eq!(counts(&served).await.0, total);
    send(&served, "POST", "/v1/streams/views", &[], b"{\"id\": 1}").await;
    let (status, listed) = send(&served, "GET", "/v1/streams", &[], b"").await;
    let streams = listed["streams"].as_array().unwrap();
    let names: Vec<&str> = streams.iter().map(|stream| stream["name"].as_str().unwrap()).collect();
    assert_eq!((status, names, &streams[0]["rows"]), (200, vec!["clicks", "views"], &json!(total)));
    assert!(streams[0]["newest"].as_str().unwrap().ends_with('Z'), "{listed}");
    assert!(listed["place"].as_str().is_some_and(|place| std::path::Path::new(place).is_dir()), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_request_has_the_same_answer_and_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = served(folder.path()).await;
    let key = |key: &'static str| [("Idempotency-Key", key)];
    let answer = (200, json!({"stream": "clicks", "rows": 2}));
    for _ in 0..3 {
        assert_eq!(post(&first, &key("a"), "{\"id\":1}\n{\"id\":2}\n").await, answer);
    }
    let (status, error) = post(&first, &key("a"), "{\"id\":3}\n").await;
    assert_eq!((status, message(&error).contains("key `a` was used for other rows")), (422, true), "{error}");
    assert_eq!(counts(&first).await.0, 2);
    // Another server knows the key from the log.
    let second = served(folder.path()).await;
    assert_eq!(post(&second, &key("a"), "{\"id\":1}\n{\"id\":2}\n").await, answer);
    let (status, error) = post(&second, &key("a"), "{\"id\":3}\n").await;
    assert_eq!((status, message(&error).contains("key `a` was used for other rows")), (422, true), "{error}");
    post(&second, &key("b"), "{\"id\":4}\n").await;
    // One that starts at once knows keys of rows that are not sealed.
    let third = served(folder.path()).await;
    let (status, error) = post(&third, &key("b"), "{\"id\":3}\n").await;
    assert_eq!((status, message(&error).contains("key `b` was used for other rows")), (422, true), "{error}");
    // Rows without a key are new rows.
    for _ in 0..2 {
        post(&second, &[], "{\"id\":5}\n").await;
    }
    assert_eq!(counts(&second).await.0, 5);
}

/// Headers, by name.
type Headers<'a> = [(&'a str, &'a str)];

/// Headers and body of a request, and status and a part of the response.
type Refused<'a> = (Vec<(&'a str, &'a str)>, &'a str, u16, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_say_what_is_wrong_and_keep_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path()).await;
    post(&served, &[], "{\"id\":1}\n").await;
    let kind = |kind: &'static str| vec![("Content-Type", kind)];
    let long = "k".repeat(257);
    let cases: Vec<Refused<'_>> = vec![
        (vec![], "{\"id\":1}\n{\"id\":\n", 422, "line 3: the text is not JSON"),
        (vec![], "7", 422, "line 1: `7` is not a JSON object"),
        (kind("text/csv"), "id,name\n1,a\n1,2,3\n", 422, "line 3: row `1,2,3`"),
        (kind("text/csv; header=no"), "1,a\n", 415, "header `no` is not understood"),
        (kind("text/csv; header=absent"), "1,a\n", 422, "the stream declares none"),
        (kind("application/vnd.apache.arrow.stream"), "{\"id\":1}", 422, "the Arrow IPC stream cannot be read"),
        (kind("application/xml"), "<id>1</id>", 415, "`Content-Type: application/xml` is not supported"),
        (kind("text/csv; charset=latin1"), "id\n1\n", 415, "charset `latin1`"),
        (vec![("Content-Encoding", "gzip")], "x", 415, "`Content-Encoding: gzip` is not supported"),
        (vec![("Idempotency-Key", long.as_str())], "{\"id\":1}", 400, "header `idempotency-key`"),
    ];
    for (headers, body, status, expected) in cases {
        let (found, error) = post(&served, &headers, body).await;
        assert_eq!((found, message(&error).contains(expected)), (status, true), "{body}: {error}");
    }
    let (status, error) = send(&served, "POST", "/v1/streams/a%20b", &[], b"{\"id\":1}").await;
    assert_eq!((status, message(&error).contains("`a b` cannot name a source")), (400, true), "{error}");
    let (status, _, _) = http(&served, "POST", CLICKS, &[], "{\"id\":1}").await;
    assert_eq!(status, 401);
    let answer = announce(&served, (16 << 20) + 1).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("send fewer rows at once"), "{answer}");
    // Rows that are refused create no stream.
    assert_eq!(send(&served, "POST", "/v1/streams/other", &[], b"7").await.0, 422);
    let (status, error) = send(&served, "GET", "/v1/streams/other", &[], b"").await;
    assert_eq!((status, message(&error).contains("stream `other` does not exist")), (404, true), "{error}");
    assert_eq!(counts(&served).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_a_place_says_how_to_start_it() {
    let served = server().await;
    let (status, error) = post(&served, &[], "{\"id\":1}").await;
    assert_eq!((status, message(&error).contains("--streams FOLDER")), (404, true), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_columns_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path()).await;
    let declaration = "CREATE TABLE clicks (id BIGINT NOT NULL, at TIMESTAMP) WITH (connector = 'http')";
    let declare = async |path: &str, sql: &str| send(&served, "PUT", path, &[], sql.as_bytes()).await;
    let (status, shown) = declare(CLICKS, declaration).await;
    assert_eq!((status, &shown["declaration"]), (201, &json!(declaration)), "{shown}");
    assert_eq!(shown["columns"][1], json!({"name": "at", "type": "Timestamp(ns)", "required": false}));
    assert_eq!(declare(CLICKS, &format!("{declaration};\n")).await.0, 200);
    let (status, error) = declare(CLICKS, "CREATE TABLE clicks (id TEXT)").await;
    assert_eq!((status, message(&error).contains("is declared as `CREATE TABLE clicks (id BIGINT")), (409, true));
    let (status, error) = declare(CLICKS, "CREATE TABLE clicks (id NONSENSE)").await;
    assert_eq!((status, message(&error).contains("column `id` has type NONSENSE")), (400, true), "{error}");

    let good = "{\"id\":1,\"at\":\"2026-01-01T00:00:00\"}\n";
    assert_eq!(post(&served, &[], good).await.0, 200);
    let cases: [(&Headers<'_>, &str, &str); 5] = [
        (&[], "{\"id\":1}\n{\"id\":1.5}\n", "line 2: row `{\"id\":1.5}`"),
        (&[], "{\"id\":1}\n\n{\"id\":2,\"at\":\"yesterday\"}\n", "line 3: row"),
        (&[], "{\"at\":\"2026-01-01T00:00:00\"}\n", "column `id` is NULL"),
        (&[CSV], "id\n1\nx\n", "line 3: row `x`"),
        (&[CSV], "1,2\n", "header=absent"),
    ];
    for (headers, body, expected) in cases {
        let (status, error) = post(&served, headers, body).await;
        assert_eq!((status, message(&error).contains(expected)), (422, true), "{body}: {error}");
    }
    assert_eq!(counts(&served).await.0, 1);

    // A stream may leave such rows to those that read them.
    let side = "CREATE TABLE side (id BIGINT) WITH (bad_data = 'side')";
    assert_eq!(declare("/v1/streams/side", side).await.0, 201);
    let (status, answer) = send(&served, "POST", "/v1/streams/side", &[], b"{\"id\":1}\n{\"id\":1.5}\n").await;
    assert_eq!((status, &answer["rows"], &answer["bad"]), (200, &json!(2), &json!(1)));
    assert!(answer["first_bad"].as_str().unwrap().starts_with("line 2: "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_together_share_a_segment() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = StreamsSettings::of_folder(folder.path()).unwrap();
    settings.group_for = Duration::from_secs(1);
    let served = Arc::new(with_streams(settings).await);
    let mut requests = tokio::task::JoinSet::new();
    for id in 0..40 {
        let served = Arc::clone(&served);
        requests.spawn(async move { post(&served, &[], &format!("{{\"id\":{id}}}")).await.0 });
    }
    assert_eq!(requests.join_all().await, [200; 40]);
    let (rows, segments) = counts(&served).await;
    assert_eq!(rows, 40);
    assert!(segments < 40, "{segments} segments");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_of_one_folder_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Arc::new(served(folder.path()).await), Arc::new(served(folder.path()).await));
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..60 {
        // Two of three requests are sent to both.
        let servers = if n % 3 == 0 { vec![Arc::clone(&a)] } else { vec![Arc::clone(&a), Arc::clone(&b)] };
        for server in servers {
            requests.spawn(async move {
                let key = n.to_string();
                let body = format!("{{\"id\":{n}}}\n{{\"id\":{n}}}\n");
                post(&server, &[("Idempotency-Key", key.as_str())], &body).await.0
            });
        }
    }
    assert!(requests.join_all().await.iter().all(|status| *status == 200));
    // Each seals what itself and the other have kept.
    assert_eq!(counts(&a).await.0, 120);
    assert_eq!(counts(&b).await.0, 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_sealed_hold_back_further_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = StreamsSettings::of_folder(folder.path()).unwrap();
    settings.unsealed_bytes_max = 10;
    let served = with_streams(settings).await;
    // The first entry cannot be created where a folder is.
    let entry = folder.path().join("sources/clicks/log/00000000000000000001.json");
    std::fs::create_dir_all(&entry).unwrap();
    assert_eq!(post(&served, &[], "{\"id\":1111}\n").await.0, 200);
    let (status, head, body) = http(&served, "POST", CLICKS, &[AUTH], "{\"id\":2}").await;
    let body = String::from_utf8(body).unwrap();
    assert!(status == 429 && head.to_lowercase().contains("retry-after: 1"), "{head}\n{body}");
    assert!(body.contains("are kept and not sealed yet"), "{body}");
    assert_eq!(send(&served, "GET", CLICKS, &[], b"").await.0, 503);
    let (_, _, metrics) = http(&served, "GET", "/metrics", &[AUTH], "").await;
    let metrics = String::from_utf8(metrics).unwrap();
    for line in [
        "buzz_stream_rows_total{stream=\"clicks\"} 1\n",
        "buzz_stream_refused_total{stream=\"clicks\"} 1\n",
        "buzz_stream_unsealed_bytes{stream=\"clicks\"} 12\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    std::fs::remove_dir(&entry).unwrap();
    assert_eq!(counts(&served).await.0, 1);
    assert_eq!(post(&served, &[], "{\"id\":2}\n").await.0, 200);
    assert_eq!(counts(&served).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_that_is_away_is_told_and_the_request_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path()).await;
    let stream = folder.path().join("sources/clicks");
    std::fs::create_dir_all(&stream).unwrap();
    std::fs::write(stream.join("inbox"), "").unwrap();
    let key = ("Idempotency-Key", "a");
    let (status, head, body) = http(&served, "POST", CLICKS, &[AUTH, key], "{\"id\":1}").await;
    let body = String::from_utf8(body).unwrap();
    assert!(status == 503 && head.to_lowercase().contains("retry-after: 1"), "{head}\n{body}");
    assert!(body.contains("send the request again with the same idempotency key"), "{body}");
    std::fs::remove_file(stream.join("inbox")).unwrap();
    for _ in 0..2 {
        assert_eq!(post(&served, &[key], "{\"id\":1}").await.0, 200);
    }
    assert_eq!(counts(&served).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_a_server_left_count_at_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = StreamsSettings::of_folder(folder.path()).unwrap();
    // It never seals by itself.
    settings.seal_after = Duration::from_secs(3600);
    let first = with_streams(settings).await;
    assert_eq!(post(&first, &[], "{\"id\":1}\n{\"id\":2}\n").await.0, 200);
    first.stop().await;
    let second = served(folder.path()).await;
    assert_eq!(counts(&second).await.0, 2);
}
