//! The context of a trace between processes, as a W3C `traceparent`.

use std::collections::HashMap;

use buzz_protocol::{ErrorKind, Result};
use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Name of the header and of the fields that carry the context of a trace.
pub const TRACEPARENT: &str = "traceparent";

/// Returns the `traceparent` of the current span; `None` if it is not traced.
pub fn current() -> Option<String> {
    let span = Span::current();
    if span.is_none() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes `span`, which was not entered yet, the child of the span whose `traceparent` is given. One that is malformed is
/// ignored, and `span` keeps its parent.
pub fn continue_from(span: &Span, traceparent: Option<&str>) {
    let Some(traceparent) = traceparent.filter(|_| !span.is_none()) else { return };
    let carrier = HashMap::from([(TRACEPARENT.to_string(), traceparent.to_string())]);
    let parent = TraceContextPropagator::new().extract(&carrier);
    if parent.span().span_context().is_valid() {
        // Fails for a span that was entered, which keeps its parent.
        _ = span.set_parent(parent);
    }
}

/// Returns the span that `make` makes, as the child of the span whose `traceparent` is given; no span without one. A role that
/// others call has no traces of its own.
pub fn continued(traceparent: Option<&str>, make: impl FnOnce() -> Span) -> Span {
    let Some(traceparent) = traceparent else { return Span::none() };
    let span = make();
    continue_from(&span, Some(traceparent));
    span
}

/// Runs `work` in `span`, and marks the span as failed with the kind of its error.
///
/// # Errors
/// The error of `work`.
pub async fn traced<T>(span: Span, work: impl Future<Output = Result<T>>) -> Result<T> {
    work.instrument(span.clone()).await.inspect_err(|error| failed(&span, error.kind))
}

/// Adds the `traceparent` of the current span to `headers`, if it is traced.
pub fn in_headers(headers: &mut HeaderMap) {
    if let Some(traceparent) = current().and_then(|traceparent| HeaderValue::from_str(&traceparent).ok()) {
        headers.insert(TRACEPARENT, traceparent);
    }
}

/// Returns the `traceparent` in `headers`, if there is one.
pub fn of_headers(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT).and_then(|header| header.to_str().ok())
}

/// Marks `span`, made by [`span!`](crate::span!), as failed with an error of `kind`. The message may have values of rows and
/// is left out.
pub fn failed(span: &Span, kind: ErrorKind) {
    span.record("error.type", tracing::field::display(kind));
    span.record("otel.status_code", "ERROR");
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn trace_is_continued_and_passed_on() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let task = crate::span!("task");
            continue_from(&task, Some(PARENT));
            let passed_on = task.in_scope(|| crate::span!("deliver").in_scope(current)).unwrap();
            assert_eq!(passed_on[..36], PARENT[..36], "the id of the trace");
            assert_ne!(passed_on, PARENT, "the id of the span is its own");

            let mut headers = HeaderMap::new();
            task.in_scope(|| in_headers(&mut headers));
            let of_task = of_headers(&headers).unwrap();
            assert_eq!(of_task[..36], PARENT[..36]);
            assert_ne!(of_task, passed_on);

            for malformed in ["", "00-0-0-01", "ä", &PARENT[3..]] {
                let alone = crate::span!("task");
                continue_from(&alone, Some(malformed));
                let own = alone.in_scope(current).unwrap();
                assert_ne!(own[..36], PARENT[..36], "{malformed}");
            }
        });
    }

    #[test]
    fn without_a_trace_nothing_is_passed_on() {
        let mut headers = HeaderMap::new();
        let span = crate::span!("task");
        continue_from(&span, Some(PARENT));
        span.in_scope(|| in_headers(&mut headers));
        assert!(headers.is_empty() && current().is_none());
    }
}
