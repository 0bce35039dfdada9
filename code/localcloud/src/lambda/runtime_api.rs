//! Serves the Lambda runtime API to the process of one instance.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;

use crate::body::read_bounded;

/// Maximum size of a function's response in bytes: 6 MB plus 100 bytes of overhead of the service.
pub(super) const RESPONSE_BYTES_MAX: usize = 6 * 1024 * 1024 + 100;

/// An event for the process.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) request_id: String,
    pub(super) payload: Bytes,
    pub(super) deadline: SystemTime,
}

/// A request of the process to the runtime API.
#[derive(Debug)]
pub(super) enum Said {
    /// The process requests the next event.
    Next,
    /// Response to the event of a request id.
    Answer(String, Bytes),
    /// Response that exceeds the size limit of the service.
    TooLarge(String),
    /// Failure of an event, with the error as JSON.
    Failed(String, Bytes),
    /// Failure to start, with the error as JSON.
    InitFailed(Bytes),
}

/// The runtime API of one process.
#[derive(Debug)]
pub(super) struct RuntimeApi {
    /// `host:port` of the API, which the process gets in its environment.
    pub(super) address: String,
    events: mpsc::Sender<Event>,
    said: mpsc::Receiver<Said>,
    server: AbortHandle,
}

struct Shared {
    events: Mutex<mpsc::Receiver<Event>>,
    said: mpsc::Sender<Said>,
    function_arn: String,
}

impl RuntimeApi {
    pub(super) async fn serve(function_arn: String) -> std::io::Result<RuntimeApi> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (events, inbox) = mpsc::channel(1);
        let (words, said) = mpsc::channel(8);
        let shared = Arc::new(Shared { events: Mutex::new(inbox), said: words, function_arn });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .with_state(shared);
        let server = tokio::spawn(async move { axum::serve(listener, routes).await }).abort_handle();
        Ok(RuntimeApi { address, events, said, server })
    }

    /// Sends an event to the process as soon as the process requests one.
    pub(super) async fn send(&self, event: Event) {
        // The server holds the other end and lives as long as `self`.
        let _sent = self.events.send(event).await;
    }

    /// Returns the next request of the process.
    pub(super) async fn heard(&mut self) -> Option<Said> {
        self.said.recv().await
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let mut events = shared.events.lock().await;
    let _heard = shared.said.send(Said::Next).await;
    let Some(event) = events.recv().await else {
        return status(StatusCode::GONE);
    };
    let deadline = event.deadline.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    Response::builder()
        .header("Lambda-Runtime-Aws-Request-Id", &event.request_id)
        .header("Lambda-Runtime-Deadline-Ms", deadline.to_string())
        .header("Lambda-Runtime-Invoked-Function-Arn", &shared.function_arn)
        .header("Lambda-Runtime-Trace-Id", format!("Root=1-00000000-{}", &event.request_id.replace('-', "")[..24]))
        .header("Content-Type", "application/json")
        .body(Body::from(event.payload))
        .expect("constant headers and ids are valid")
}

async fn response(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Body) -> Response<Body> {
    let bytes = match read_bounded(body, RESPONSE_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(_) => return status(StatusCode::BAD_REQUEST),
    };
    let Some(bytes) = bytes else {
        let _heard = shared.said.send(Said::TooLarge(id)).await;
        let message = format!("Exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes).");
        let body = json!({"errorMessage": message, "errorType": "RequestEntityTooLarge"}).to_string();
        let mut answer = Response::new(Body::from(body));
        *answer.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return answer;
    };
    let _heard = shared.said.send(Said::Answer(id, bytes)).await;
    status(StatusCode::ACCEPTED)
}

async fn error(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let _heard = shared.said.send(Said::Failed(id, error_json(&headers, body))).await;
    status(StatusCode::ACCEPTED)
}

async fn init_error(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let _heard = shared.said.send(Said::InitFailed(error_json(&headers, body))).await;
    status(StatusCode::ACCEPTED)
}

/// Returns the error as JSON for the caller. For an empty body it is built from the error type in the headers.
fn error_json(headers: &HeaderMap, body: Bytes) -> Bytes {
    if !body.is_empty() {
        return body;
    }
    let kind = headers.get("Lambda-Runtime-Function-Error-Type").and_then(|kind| kind.to_str().ok());
    json!({"errorType": kind.unwrap_or("Runtime.Unknown"), "errorMessage": ""}).to_string().into()
}

fn status(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::from(json!({"status": "OK"}).to_string()));
    *answer.status_mut() = status;
    answer
}
