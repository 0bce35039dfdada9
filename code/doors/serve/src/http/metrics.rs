//! Counts in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use crate::desk::Desk;

/// Returns the counts of `desk`.
pub(crate) fn text(desk: &Desk) -> String {
    let (running, waiting) = desk.queue_counts();
    let counts = &desk.counts;
    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, values: &[(String, String)]| {
        // Writing to a String cannot fail.
        _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value: String| [(String::new(), value)];
    add("buzz_queries_running", "gauge", "Queries that run.", &plain(running.to_string()));
    add("buzz_queries_waiting", "gauge", "Queries that wait for a slot.", &plain(waiting.to_string()));
    let mut ended = vec![(r#"{outcome="success"}"#.to_string(), load(&counts.succeeded).to_string())];
    for (kind, count) in counts.failed() {
        ended.push((format!(r#"{{outcome="{kind}"}}"#), count.to_string()));
    }
    add("buzz_queries_total", "counter", "Queries that ended, by outcome.", &ended);
    add("buzz_rows_total", "counter", "Rows of all answers.", &plain(load(&counts.rows).to_string()));
    add("buzz_bytes_read_total", "counter", "Bytes read from storage.", &plain(load(&counts.bytes_read).to_string()));
    #[expect(clippy::cast_precision_loss, reason = "2^53 milliseconds are 285,000 years")]
    let seconds = load(&counts.milliseconds) as f64 / 1e3;
    add("buzz_query_seconds_total", "counter", "Time of all answered queries.", &plain(seconds.to_string()));
    #[expect(clippy::cast_precision_loss, reason = "2^53 millionths are 9 billion dollars")]
    let cost = load(&counts.cost_micros) as f64 / 1e6;
    add("buzz_cost_usd_total", "counter", "US dollars by list price.", &plain(cost.to_string()));
    text
}
