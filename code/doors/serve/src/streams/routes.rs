//! The requests of streams.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use buzz_connect::{BadData, CheckedRows, check_rows};
use buzz_epoch::{KEY_BYTES_MAX, Part, SourceLog, SourceSpec};
use buzz_protocol::{ErrorKind, QueryError, Result};
use buzz_storage::text::RowFormat;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::declare::{DECLARATION_BYTES_MAX, Declared};
use super::group::Stream;
use super::repeats::{Answer, Repeat, digest};
use super::{BODY_BYTES_MAX, Streams};
use crate::codes::http_status;
use crate::http::failed;

/// Maximum time for receiving the body of a request, which holds memory that others wait for.
const RECEIVED_WITHIN: Duration = Duration::from_secs(30);

/// The header with the name of a producer, which has a watermark of its own.
const PRODUCER: &str = "x-buzz-producer";

/// The header with the key of a request.
const KEY: &str = "idempotency-key";

/// Content types of JSON. That of a form is what `curl -d` sends.
const JSON_TYPES: [&str; 8] = [
    "application/json",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/x-www-form-urlencoded",
    "text/plain",
    "",
];

type Shared = Option<Arc<Streams>>;

/// Makes the routes of `streams`; without them, they say how to start the server.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(streams: Option<Arc<Streams>>) -> Router<S> {
    Router::new()
        .route("/v1/streams", get(list))
        .route("/v1/streams/{name}", get(show).post(push).put(declare))
        .with_state(streams)
}

/// A failure with its status.
struct Failure {
    status: StatusCode,
    error: QueryError,
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self { status: http_status(error.kind), error }
    }
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, error: QueryError::invalid(message) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = failed(self.status, &self.error);
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

type Answered<T = Response> = std::result::Result<T, Failure>;

/// Returns the failure of a log that cannot be opened: the store is away, unless the request is wrong.
fn away(error: QueryError) -> Failure {
    match error.kind {
        ErrorKind::Invalid | ErrorKind::Limit => error.into(),
        _ => Failure { status: StatusCode::SERVICE_UNAVAILABLE, error },
    }
}

fn of_server(streams: Shared) -> Answered<Arc<Streams>> {
    streams.ok_or_else(|| {
        Failure::new(
            StatusCode::NOT_FOUND,
            "this server takes no rows; start it with --streams FOLDER, or an s3:// uri",
        )
    })
}

/// Keeps the rows of a request.
async fn push(State(streams): State<Shared>, Path(name): Path<String>, request: Request) -> Answered {
    let streams = of_server(streams)?;
    let (head, body) = request.into_parts();
    let format = format_of(&head.headers)?;
    let (key, producer) = (text_of(&head.headers, KEY)?, text_of(&head.headers, PRODUCER)?);
    let length = length_of(&head.headers);
    if length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let memory = streams.receive(length.unwrap_or(BODY_BYTES_MAX))?;
    let body = receive(body, BODY_BYTES_MAX).await?;
    // Rows that are refused create no stream.
    let before = streams.existing(&name).await.map_err(away)?;
    let digest = key.as_ref().map(|_| digest(format.name(), &body)).unwrap_or_default();
    if let Some(answer) = repeated(before.as_ref(), key.as_ref(), digest)? {
        return Ok(answered(&name, &answer));
    }
    let mut rows = checked(before.clone(), body.clone(), format).await?;
    let stream = match before {
        Some(stream) => stream,
        None if rows.rows == 0 => return Ok(answered(&name, &Answer::of(&rows))),
        None => {
            let stream = streams.of_rows(&name).await.map_err(away)?;
            // Another client may have declared it meanwhile.
            if stream.columns.is_some() {
                rows = checked(Some(Arc::clone(&stream)), body, format).await?;
            }
            stream
        }
    };
    let answer = Answer::of(&rows);
    if rows.rows > 0 {
        stream.check_room()?;
        let part = Part {
            key: key.clone(),
            producer,
            format: (format != RowFormat::Json).then(|| format.name().to_string()),
            rows: rows.rows,
            bytes: rows.bytes.len() as u64,
            ..Part::default()
        };
        stream.keep(part, rows.bytes, memory).await?;
    }
    if let Some(key) = key {
        stream.repeats.lock().note(key, digest, answer.clone());
    }
    Ok(answered(&name, &answer))
}

/// Returns the answer to a request with `key` if it was sent before.
///
/// # Errors
/// A failure if it was sent with other rows.
fn repeated(stream: Option<&Arc<Stream>>, key: Option<&String>, digest: u64) -> Answered<Option<Answer>> {
    let (Some(stream), Some(key)) = (stream, key) else { return Ok(None) };
    match stream.repeats.lock().find(key, digest) {
        Repeat::New => Ok(None),
        Repeat::Same(answer) => Ok(Some(answer)),
        Repeat::Other => {
            let message = format!("key `{key}` was used for other rows; use a new key for them");
            Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, message))
        }
    }
}

fn answered(stream: &str, answer: &Answer) -> Response {
    let mut body = json!({"stream": stream, "rows": answer.rows});
    if answer.bad > 0 {
        body["bad"] = json!(answer.bad);
        body["first_bad"] = json!(answer.first_bad);
    }
    Json(body).into_response()
}

/// Checks rows in a thread of their own. A decoder that panics has met rows that it cannot read.
async fn checked(stream: Option<Arc<Stream>>, body: Bytes, format: RowFormat) -> Answered<CheckedRows> {
    let check = move || {
        let stream = stream.as_ref();
        let columns = stream.and_then(|stream| stream.columns.as_ref());
        check_rows(&body, format, columns, stream.map_or(BadData::Fail, |stream| stream.bad_data))
    };
    match tokio::task::spawn_blocking(check).await {
        Ok(rows) => Ok(rows?),
        Err(_) => Err(Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the rows are damaged: their decoder has stopped; send rows of a working writer",
        )),
    }
}

fn too_large() -> Failure {
    let message = format!("the request has more than {BODY_BYTES_MAX} bytes; send fewer rows at once");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// Receives the body of a request of up to `bytes_max` bytes.
async fn receive(body: Body, bytes_max: usize) -> Answered<Bytes> {
    let received = tokio::time::timeout(RECEIVED_WITHIN, to_bytes(body, bytes_max)).await.map_err(|_| {
        let message = format!(
            "the body was not received within {} s; send it faster, or less at once",
            RECEIVED_WITHIN.as_secs()
        );
        Failure::new(StatusCode::REQUEST_TIMEOUT, message)
    })?;
    received.map_err(|error| {
        let is_length =
            std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("length limit"));
        if is_length || error.to_string().contains("length limit") {
            return too_large();
        }
        Failure::new(StatusCode::BAD_REQUEST, format!("the body was not received: {error}"))
    })
}

fn length_of(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns the text of a header of up to [`KEY_BYTES_MAX`] bytes; `None` if it is not sent.
fn text_of(headers: &HeaderMap, name: &str) -> Answered<Option<String>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().ok().map(str::trim).filter(|text| (1..=KEY_BYTES_MAX).contains(&text.len()));
    let wrong =
        || Failure::new(StatusCode::BAD_REQUEST, format!("header `{name}` must have 1 to {KEY_BYTES_MAX} letters"));
    text.map(|text| Some(text.to_string())).ok_or_else(wrong)
}

/// Returns the format of the rows of a request.
fn format_of(headers: &HeaderMap) -> Answered<RowFormat> {
    let unsupported = |message: String| Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        return Err(unsupported(format!("`Content-Encoding: {encoding}` is not supported; send the rows as they are")));
    }
    let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = String::from_utf8_lossy(given).to_ascii_lowercase();
    let mut parts = given.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let mut header = true;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match (name, value.trim_matches('"')) {
            ("charset", "utf-8" | "utf8" | "us-ascii") | ("header", "present") => {}
            ("header", "absent") => header = false,
            ("header", other) => {
                return Err(unsupported(format!(
                    "header `{other}` is not understood; send `header=present` or `header=absent`"
                )));
            }
            ("charset", other) => return Err(unsupported(format!("charset `{other}` is not supported; send UTF-8"))),
            _ => {}
        }
    }
    match kind {
        "text/csv" | "application/csv" => Ok(RowFormat::Csv { header }),
        "application/vnd.apache.arrow.stream" => Ok(RowFormat::Arrow),
        kind if JSON_TYPES.contains(&kind) => Ok(RowFormat::Json),
        other => Err(unsupported(format!(
            "`Content-Type: {other}` is not supported; send application/x-ndjson, application/json, text/csv or \
             application/vnd.apache.arrow.stream"
        ))),
    }
}

/// Declares the columns of a stream that does not exist yet.
async fn declare(State(streams): State<Shared>, Path(name): Path<String>, request: Request) -> Answered {
    let streams = of_server(streams)?;
    let body = receive(request.into_body(), DECLARATION_BYTES_MAX).await?;
    let sql = std::str::from_utf8(&body).map_err(|_| {
        Failure::new(StatusCode::BAD_REQUEST, "the declaration is not UTF-8; send the statement as text")
    })?;
    let declared = Declared::parse(&name, sql).await?;
    let ddl = declared.ddl.clone();
    if let Some(before) = streams.existing(&name).await.map_err(away)?
        && before.log.spec().ddl != ddl
    {
        return Err(Failure::new(StatusCode::CONFLICT, declared_otherwise(&name, before.log.spec())));
    }
    let (stream, is_new) = streams.create(&name, declared).await.map_err(away)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(shown(&name, &stream.log, Some(&stream)).await.map_err(away)?)).into_response())
}

fn declared_otherwise(name: &str, spec: &SourceSpec) -> String {
    match spec.ddl.as_str() {
        "" => {
            format!("stream `{name}` exists without declared columns, since rows were pushed to it; use another name")
        }
        ddl => format!("stream `{name}` is declared as `{ddl}`; use that declaration, or another name"),
    }
}

/// Describes a stream, with all rows that this server has kept.
async fn show(State(streams): State<Shared>, Path(name): Path<String>) -> Answered {
    let streams = of_server(streams)?;
    let stream = streams.existing(&name).await.map_err(away)?.ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, format!("stream `{name}` does not exist; push rows to it with POST"))
    })?;
    stream.seal().await.map_err(away)?;
    Ok(Json(shown(&name, &stream.log, Some(&stream)).await.map_err(away)?).into_response())
}

/// Lists the streams.
async fn list(State(streams): State<Shared>) -> Answered {
    let streams = of_server(streams)?;
    let mut all = Vec::new();
    for name in streams.names().await.map_err(away)? {
        let open = streams.open.lock().await.get(&name).cloned();
        let log = match &open {
            Some(stream) => Some(stream.log.clone()),
            // Opening a stream would seal it.
            None => streams.log(&name).await.map_err(away)?,
        };
        if let Some(log) = log {
            all.push(shown(&name, &log, open.as_ref()).await.map_err(away)?);
        }
    }
    Ok(Json(json!({"streams": all, "place": streams.settings.place})).into_response())
}

/// Returns the JSON of a stream.
async fn shown(name: &str, log: &SourceLog, open: Option<&Arc<Stream>>) -> Result<Value> {
    let newest = log.newest().await?.unwrap_or_default();
    let time = DateTime::from_timestamp_millis(newest.at_ms).filter(|_| newest.n > 0);
    let spec = log.spec();
    Ok(json!({
        "name": name,
        "rows": newest.totals.rows,
        "bytes": newest.totals.bytes,
        "segments": newest.totals.segments,
        "entries": newest.n,
        "newest": time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
        "unsealed_bytes": open.map(|stream| stream.unsealed_bytes()).unwrap_or_default(),
        "declaration": Some(&spec.ddl).filter(|ddl| !ddl.is_empty()),
        "columns": spec.columns,
        "retention": spec.options.get(buzz_epoch::RETENTION),
    }))
}
