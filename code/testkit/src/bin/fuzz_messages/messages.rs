//! Random messages of HTTP/1, HTTP/2 with gRPC, and PostgreSQL's protocol.

use buzz_protocol::BUILD_ID;
use buzz_testkit::mutate;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// gRPC: Arrow Flight and the worker protocol.
    Comb,
    /// HTTP/1 and gRPC.
    Http,
    /// PostgreSQL's protocol.
    Postgres,
}

impl Speaks {
    /// Returns the name for files and findings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Comb => "comb",
            Self::Http => "http",
            Self::Postgres => "postgres",
        }
    }
}

/// The key of the server. Half of the requests have it, so that more than the check of keys is reached.
pub(crate) const KEY: &str = "a-key-for-random-messages";

/// A token of the length that tokens of queries have.
const TOKEN: &str = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";

const ID: &str = "0191d6a0-0000-7000-8000-000000000000";

/// Returns the bytes of a connection with `count` random messages.
pub(crate) fn connection(speaks: Speaks, count: u64, random: &mut StdRng) -> Vec<u8> {
    match speaks {
        Speaks::Comb => http2(count, random),
        Speaks::Http if random.random_bool(0.3) => http2(count, random),
        Speaks::Http => (0..count).flat_map(|_| http1(random)).collect(),
        Speaks::Postgres => postgres(count, random),
    }
}

/// Returns `bytes`, mutated nine times of ten.
fn mutated(mut bytes: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.9) {
        mutate(&mut bytes, random);
    }
    bytes
}

fn chosen(texts: &[&str], random: &mut StdRng) -> String {
    texts.choose(random).copied().unwrap_or_default().to_string()
}

const BODIES: [&str; 6] = [
    r#"{"sql": "SELECT 1", "format": "json"}"#,
    r#"{"sql": "SELECT $1", "params": [1, "a", null, {"type": "date", "value": "2024-01-01"}], "options": {"tasks": 2}}"#,
    r#"{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}}"#,
    r#"{"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "query", "arguments": {"sql": "SELECT 1"}}}"#,
    r#"{"sql": "SELECT count(*) FROM generate_series(1, 10)"}"#,
    "{\"a\": 1}\n{\"a\": \"x\"}\n",
];

fn http1(random: &mut StdRng) -> Vec<u8> {
    let path = chosen(
        &[
            "/v1/query",
            "/v1/estimate",
            "/v1/plan",
            "/v1/queries",
            "/v1/tables",
            "/v1/tables/t",
            "/mcp",
            "/metrics",
            "/console/x",
        ],
        random,
    );
    let method = chosen(&["POST", "POST", "POST", "GET", "DELETE", "PUT"], random);
    let key = if random.random_bool(0.5) { format!("Authorization: Bearer {KEY}\r\n") } else { String::new() };
    let body = mutated(chosen(&BODIES, random).into_bytes(), random);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: application/json\r\nAccept: application/json, \
         text/event-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let head = if random.random_bool(0.2) { mutated(head.into_bytes(), random) } else { head.into_bytes() };
    [head, body].concat()
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Encodes a header without the tables of HPACK.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len().min(126);
        [&[u8::try_from(length).unwrap_or(0)], &text.as_bytes()[..length]].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

fn http2(count: u64, random: &mut StdRng) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for stream in (1..).step_by(2).take(usize::try_from(count).unwrap_or(1)) {
        let mut call = grpc(stream, random);
        // A frame that is broken ends the connection, and the calls behind it are not read.
        if random.random_bool(0.05) {
            mutate(&mut call, random);
        }
        bytes.extend(call);
    }
    bytes
}

fn grpc(stream: u32, random: &mut StdRng) -> Vec<u8> {
    let path = chosen(
        &[
            "/arrow.flight.protocol.FlightService/DoAction",
            "/arrow.flight.protocol.FlightService/DoAction",
            "/arrow.flight.protocol.FlightService/DoPut",
            "/arrow.flight.protocol.FlightService/DoGet",
            "/arrow.flight.protocol.FlightService/GetFlightInfo",
            "/arrow.flight.protocol.FlightService/Handshake",
            "/worker.WorkerService/CoordinatorChannel",
            "/worker.WorkerService/ExecuteTask",
            "/worker.WorkerService/GetWorkerInfo",
            "/x",
        ],
        random,
    );
    let mut headers = [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", &path),
        header(":authority", "127.0.0.1"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
        header("authorization", &format!("Bearer {KEY}")),
    ]
    .concat();
    if random.random_bool(0.7) {
        headers.extend(header("x-buzz-token", TOKEN));
        headers
            .extend(header("x-buzz-session", &String::from_utf8_lossy(&mutated(b"{\"a.b\": \"c\"}".to_vec(), random))));
        headers.extend(header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    }
    let message = message(&path, random);
    // A message of gRPC: not compressed, its length, its bytes.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let data = [&[0], &length[..], &message].concat();
    [frame(HEADERS, END_HEADERS, stream, &headers), frame(DATA, END_STREAM, stream, &data)].concat()
}

/// A field of protobuf with bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut length = bytes.len();
    let mut encoded = vec![(number << 3) | 2];
    while length > 0x7f {
        encoded.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    encoded.push(u8::try_from(length).unwrap_or(0));
    [encoded, bytes.to_vec()].concat()
}

/// Returns the message of a call to `path`.
fn message(path: &str, random: &mut StdRng) -> Vec<u8> {
    let of_query = |rest: &str| format!("{{\"query\": \"{ID}\"{rest}}}").into_bytes();
    let bytes = if path.ends_with("DoAction") {
        let stage = r#"{"stage": 0, "step": "m", "tasks": 2, "schema": "", "partitions": {"start": 0, "end": 4}, "readers": 1}"#;
        let rest = format!(
            ", \"build\": \"{BUILD_ID}\", \"token\": \"{TOKEN}\", \"deadline_ms\": 1, \"stages\": [{stage}], \"flowing\": \
             false, \"memory_bytes\": 1000, \"disk_bytes\": 1000"
        );
        let (name, body) = match random.random_range(0..7) {
            0 => ("open", of_query(&rest)),
            1 => ("commit", of_query(r#", "commits": [{"stage": 0, "task": 0, "delivery": 7, "rows": [1, 2]}]"#)),
            2 => ("check_open", of_query("")),
            3 => ("check_read", of_query(r#", "unread": [0]"#)),
            4 => ("abort", of_query(r#", "reason": {"kind": "Limit", "message": "m"}"#)),
            5 => ("close", of_query("")),
            _ => ("build", Vec::new()),
        };
        [field(1, name.as_bytes()), field(2, &mutated(body, random))].concat()
    } else if path.ends_with("DoPut") {
        let rest = format!(", \"build\": \"{BUILD_ID}\", \"stage\": 0, \"task\": 0, \"delivery\": \"{ID}\"");
        let descriptor = [vec![8, 2], field(2, &mutated(of_query(&rest), random))].concat();
        let noise: Vec<u8> = (0..random.random_range(0..64)).map(|_| random.random()).collect();
        [field(1, &descriptor), field(2, &noise)].concat()
    } else {
        (0..random.random_range(0..128)).map(|_| random.random()).collect()
    };
    if random.random_bool(0.3) { mutated(bytes, random) } else { bytes }
}

fn postgres(count: u64, random: &mut StdRng) -> Vec<u8> {
    let tagged = |tag: &[u8], body: &[u8]| {
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
        [tag, &length, body].concat()
    };
    let startup = tagged(&[], b"\0\x03\0\0user\0buzz\0database\0buzz\0\0");
    let mut bytes = if random.random_bool(0.3) { mutated(startup, random) } else { startup };
    bytes.extend(tagged(b"p", format!("{KEY}\0").as_bytes()));
    for _ in 1..count {
        let message = match random.random_range(0..7) {
            0 => tagged(b"Q", b"SELECT 1\0"),
            1 => tagged(b"P", b"s\0SELECT $1\0\0\x01\0\0\0\x17"),
            2 => tagged(b"B", b"\0s\0\0\x01\0\0\0\x01\0\0\0\x011\0\0"),
            3 => tagged(b"E", b"\0\0\0\0\0"),
            4 => tagged(b"D", b"Ss\0"),
            5 => tagged(b"S", b""),
            _ => tagged(b"p", b"SCRAM-SHA-256\0\0\0\0\x10n,,n=buzz,r=abcde"),
        };
        bytes.extend(mutated(message, random));
    }
    bytes
}
