//! Traces: the spans of one query over all processes, sent to a collector of OpenTelemetry.
//!
//! A span is a `tracing` span with the target [`SPANS`] ([`span!`]). [`layer`] sends these to the collector that the
//! standard variables of OpenTelemetry name (`export`). Without them no layer exists, and a span costs one comparison.
//! A process passes the trace on as a W3C `traceparent`: [`current`] returns it, [`continue_from`] continues it (`parent`).

mod export;
mod parent;

pub use export::{finish, flush, layer, start};
pub use parent::{TRACEPARENT, continue_from, continued, current, failed, in_headers, of_headers, traced};
/// For the macro, so that a crate that makes spans does not depend on `tracing` itself.
#[doc(hidden)]
pub use tracing;

/// The target of all spans. It does not begin with `buzz`, so that the filter of the log never enables spans.
pub const SPANS: &str = "spans";

/// Makes a span of the trace of a query, a child of the current span: `span!("plan", step = 1)`.
/// Fields hold names, counts and ids, never rows, SQL or parameters. Each span has the empty fields of [`failed`].
#[macro_export]
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        $crate::tracing::span!(
            target: $crate::SPANS,
            $crate::tracing::Level::TRACE,
            $name,
            error.type = $crate::tracing::field::Empty,
            otel.status_code = $crate::tracing::field::Empty,
            $($($fields)*)?
        )
    };
}
