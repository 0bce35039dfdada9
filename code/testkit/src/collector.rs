//! A collector of OpenTelemetry that keeps the spans it receives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// A span that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// Id of the trace, in hexadecimal digits.
    pub trace: String,
    /// Id of the span.
    pub id: String,
    /// Id of the parent; empty for the first span of a trace.
    pub parent: String,
    /// Name of the service that sent it.
    pub service: String,
    /// Name of the span.
    pub name: String,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// True if the span reports a failure.
    pub failed: bool,
    /// Begin and end in nanoseconds since 1970.
    pub time: (u64, u64),
}

/// A collector on a free loopback port, until it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    server: AbortHandle,
}

impl Collector {
    /// Starts a collector.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let spans: Arc<Mutex<Vec<ReceivedSpan>>> = Arc::default();
        let app = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&spans));
        let server = tokio::spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Ok(Self { address, spans, server })
    }

    /// Returns the value of `OTEL_EXPORTER_OTLP_ENDPOINT` for this collector.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits up to a minute for spans of which `complete` is true, and returns all that were received.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn until(&self, complete: impl Fn(&[ReceivedSpan]) -> bool) -> Vec<ReceivedSpan> {
        for _ in 0..1200 {
            if complete(&self.spans.lock()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let spans = self.spans.lock().clone();
        assert!(complete(&spans), "spans are missing: {spans:#?}");
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(State(spans): State<Arc<Mutex<Vec<ReceivedSpan>>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut spans = spans.lock();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
        let service = resource.get("service.name").cloned().unwrap_or_default();
        let received = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(received.map(|span| ReceivedSpan {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            service: service.clone(),
            name: span.name,
            attributes: texts(span.attributes),
            failed: span.status.is_some_and(|status| status.code == STATUS_ERROR),
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
        }));
    }
    StatusCode::OK
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        None => String::new(),
        Some(Value::Text(text)) => text,
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Int(value)) => value.to_string(),
        Some(Value::Double(value)) => value.to_string(),
    };
    attributes.into_iter().map(|KeyValue { key, value }| (key, text(value))).collect()
}

/// `STATUS_CODE_ERROR` of OTLP.
const STATUS_ERROR: i32 = 2;

/// The parts of `ExportTraceServiceRequest` of OTLP that a test looks at, with the names and numbers of its `.proto` files.
#[derive(Clone, PartialEq, prost::Message)]
struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}
