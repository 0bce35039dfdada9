//! The log: one JSON object per line on standard error, as CloudWatch and `jq` read it.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging at the level in `BUZZ_LOG`, by default `info`. A level alone applies to Buzz, and libraries log only
/// warnings and errors. Any other value is used as the filter itself, such as `warn,buzz=debug`. Spans are sent to a
/// collector in the name of `service`, if one is named ([`buzz_telemetry::layer`]).
pub fn start(service: &'static str) {
    let wanted = std::env::var("BUZZ_LOG").unwrap_or_default();
    let filter = EnvFilter::try_new(directives(&wanted)).unwrap_or_else(|error| {
        #[expect(clippy::print_stderr, reason = "there is no log yet")]
        {
            eprintln!("BUZZ_LOG: {error}; using `info`");
        }
        EnvFilter::new(directives("info"))
    });
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(JsonLines);
    // A second call keeps the first log, for example in tests that share a process.
    _ = buzz_telemetry::start(log, filter, service);
    // A panic is converted to an error where it is caught, and reported there.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));
}

/// The target that logs the whole failure of an event, which may repeat values of rows. Buzz logs the failure itself.
const SILENT: &str = "lambda_runtime::layers::panic";

/// Returns the filter directives for `wanted`. The targets of Buzz start with `buzz`.
fn directives(wanted: &str) -> String {
    match wanted.trim() {
        "" => directives("info"),
        level => match level.parse::<LevelFilter>() {
            Ok(level) => format!("{},{SILENT}=off,buzz={level}", level.min(LevelFilter::WARN)),
            Err(_) => level.to_string(),
        },
    }
}

/// Writes an event as `{"at": …, "level": …, "target": …, "message": …, fields …}`.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        let at = DateTime::<Utc>::from(buzz_protocol::now()).to_rfc3339_opts(SecondsFormat::Millis, true);
        fields.0.insert("at".to_string(), at.into());
        fields.0.insert("level".to_string(), event.metadata().level().as_str().into());
        fields.0.insert("target".to_string(), event.metadata().target().into());
        event.record(&mut fields);
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_string(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_string(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::directives;

    #[test]
    fn level_without_target_applies_to_buzz() {
        assert_eq!(directives(""), "warn,lambda_runtime::layers::panic=off,buzz=info");
        assert_eq!(directives("debug"), "warn,lambda_runtime::layers::panic=off,buzz=debug");
        assert_eq!(directives("error"), "error,lambda_runtime::layers::panic=off,buzz=error");
        assert_eq!(directives("off"), "off,lambda_runtime::layers::panic=off,buzz=off");
        assert_eq!(directives("info,h2=debug"), "info,h2=debug");
    }
}
