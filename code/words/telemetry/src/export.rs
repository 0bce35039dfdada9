//! The way of spans to a collector: OTLP over HTTP, in batches, from a thread of their own.
//!
//! Nothing waits for the collector. Spans that end are queued; what does not fit, because it is down or slow, is dropped.
//! Only [`flush`] and [`finish`] wait, for a bounded time: a function is frozen once it has answered, and a program ends.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, FilterFn, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use crate::SPANS;

/// Variables that name the collector. The second is that of traces alone.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Maximum time that a function waits for the collector before it answers.
const FLUSH_MAX: Duration = Duration::from_millis(200);

/// Time for which functions do not wait for a collector that did not answer within [`FLUSH_MAX`].
const HELD_BACK_FOR: Duration = Duration::from_secs(60);

/// Maximum time that a program waits for the collector when it ends.
const FINISH_MAX: Duration = Duration::from_millis(500);

/// Interval of batches, unless `OTEL_BSP_SCHEDULE_DELAY` is set.
const BATCH_EVERY: Duration = Duration::from_secs(1);

/// Maximum time to connect to the collector, and to wait for its answer unless `OTEL_EXPORTER_OTLP_TIMEOUT` is set.
const CONNECT_MAX: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The way of the spans of this process, if they are sent anywhere.
static SENT: OnceLock<Sent> = OnceLock::new();

struct Sent {
    provider: SdkTracerProvider,
    /// Time until which functions do not wait for the collector.
    held_back: Mutex<Option<Instant>>,
    flushing: AtomicBool,
}

/// Starts the log `log`, filtered by `filter`, and sends spans as [`layer`] does.
///
/// # Errors
/// If this process has a log already.
pub fn start<L>(log: L, filter: EnvFilter, service: &'static str) -> Result<(), TryInitError>
where
    L: Layer<Registry> + Send + Sync,
{
    let logged = tracing_subscriber::registry().with(log.with_filter(filter));
    match layer(service) {
        Some(spans) => logged.with(spans).try_init(),
        None => logged.try_init(),
    }
}

/// Returns the layer that sends spans to the collector that the standard variables name, in the name of `service` unless
/// `OTEL_SERVICE_NAME` is set. Returns `None` if they name none, or one that cannot be used, which is printed.
pub fn layer<S>(service: &'static str) -> Option<impl Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    if !is_wanted(|name| std::env::var(name).ok()) {
        return None;
    }
    let provider = provider(service).inspect_err(|error| {
        #[expect(clippy::print_stderr, reason = "there is no log yet")]
        {
            eprintln!("{}: {error}; no traces are sent", ENDPOINTS[0]);
        }
    });
    let provider = provider.ok()?;
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("buzz"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    _ = SENT.set(Sent { provider, held_back: Mutex::default(), flushing: AtomicBool::new(false) });
    let spans = FilterFn::new(|metadata| metadata.is_span() && metadata.target() == SPANS);
    Some(layer.with_filter(spans.with_max_level_hint(LevelFilter::TRACE)))
}

/// Returns true if the variables that `get` returns by name ask for traces.
fn is_wanted(get: impl Fn(&str) -> Option<String>) -> bool {
    let has = |name: &str, value: &str| get(name).is_some_and(|set| set.trim().eq_ignore_ascii_case(value));
    let named = |name: &str| get(name).is_some_and(|endpoint| !endpoint.trim().is_empty());
    !has("OTEL_SDK_DISABLED", "true") && !has("OTEL_TRACES_EXPORTER", "none") && ENDPOINTS.into_iter().any(named)
}

fn provider(service: &'static str) -> Result<SdkTracerProvider, String> {
    let answer_ms = std::env::var("OTEL_EXPORTER_OTLP_TIMEOUT").ok().and_then(|ms| ms.trim().parse().ok());
    // A connection that is kept would not survive that a function is frozen.
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_MAX)
        .timeout(answer_ms.map_or(ANSWER_MAX, Duration::from_millis))
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| error.to_string())?;
    let exporter = OtlpExporter::builder().with_http().with_http_client(client).build();
    let exporter = exporter.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let exporter = OnOwnThread { exporter, runtime: runtime.map_err(|error| error.to_string())? };

    let mut batches = BatchConfigBuilder::default();
    if std::env::var_os("OTEL_BSP_SCHEDULE_DELAY").is_none() {
        batches = batches.with_scheduled_delay(BATCH_EVERY);
    }
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service);
    }
    Ok(SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource.build()).build())
}

/// Sends batches from the thread of the batches, which has no runtime of its own. A busy or a frozen runtime of queries
/// does not keep them.
#[derive(Debug)]
struct OnOwnThread {
    exporter: OtlpExporter,
    runtime: Runtime,
}

impl SpanExporter for OnOwnThread {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.runtime.block_on(self.exporter.export(batch))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Sends the spans that have ended, and waits for at most 200 ms. A function calls it before it answers. After a wait that
/// was too short it does not wait for a minute; the spans stay queued and are sent while a later event is answered.
pub async fn flush() {
    let Some(sent) = SENT.get() else { return };
    let held_back = sent.held_back.lock().is_some_and(|until| Instant::now() < until);
    if held_back || sent.flushing.swap(true, Ordering::AcqRel) {
        return;
    }
    let flushing = tokio::task::spawn_blocking(|| {
        _ = sent.provider.force_flush();
        sent.flushing.store(false, Ordering::Release);
    });
    let flushed = tokio::time::timeout(FLUSH_MAX, flushing).await;
    *sent.held_back.lock() = flushed.is_err().then(|| Instant::now() + HELD_BACK_FOR);
}

/// Sends the spans that have ended, and waits for at most half a second. A program calls it when it ends.
pub fn finish() {
    if let Some(sent) = SENT.get() {
        _ = sent.provider.shutdown_with_timeout(FINISH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn traces_are_sent_if_a_collector_is_named() {
        let wanted = |set: &[(&str, &str)]| {
            is_wanted(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_string()))
        };
        assert!(!wanted(&[]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/v1/traces")]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"), ("OTEL_SDK_DISABLED", "TRUE")]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"), ("OTEL_TRACES_EXPORTER", "none")]));
    }
}
