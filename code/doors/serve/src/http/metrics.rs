//! Counts in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use buzz_streamd::Jobs;
use buzz_streamd::jobs::JobFigures;

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

/// Returns the figures of the pipelines that this server runs.
pub(crate) fn of_jobs(jobs: &Jobs) -> String {
    let figures = jobs.figures();
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: &dyn Fn(&JobFigures) -> Option<String>| {
        _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for job in &figures {
            if let Some(value) = value(job) {
                // Ids have no character that a label must escape.
                _ = writeln!(text, "{name}{{pipeline=\"{}\"}} {value}", job.id);
            }
        }
    };
    let count = |value: u64| Some(value.to_string());
    add("buzz_stream_running", "gauge", "1 if the pipeline runs here.", &|job| count(job.runs.into()));
    add("buzz_stream_epochs_total", "counter", "Epochs with a record.", &|job| count(job.figures.epochs));
    add("buzz_stream_rows_in_total", "counter", "Rows that were read.", &|job| count(job.figures.rows_in));
    add("buzz_stream_rows_out_total", "counter", "Rows for sinks.", &|job| count(job.figures.rows_out));
    add("buzz_stream_late_rows_total", "counter", "Rows that were late for all windows.", &|job| {
        count(job.figures.late)
    });
    add("buzz_stream_bad_rows_total", "counter", "Rows that could not be used.", &|job| count(job.figures.bad));
    add("buzz_stream_skipped_epochs_total", "counter", "Epochs whose rows were left out.", &|job| {
        count(job.figures.skipped)
    });
    add("buzz_stream_state_rows", "gauge", "Rows of the state.", &|job| count(job.figures.state_rows));
    add("buzz_stream_epoch_seconds_total", "counter", "Time of all epochs.", &|job| {
        Some(job.figures.seconds.to_string())
    });
    add("buzz_stream_epoch_seconds", "gauge", "Time of the last epoch.", &|job| {
        Some(job.figures.last_seconds.to_string())
    });
    let now = i64::try_from(buzz_protocol::now_ms()).unwrap_or(i64::MAX);
    add("buzz_stream_watermark_lag_seconds", "gauge", "Time by which the watermark is behind the clock.", &|job| {
        let lag = now.saturating_sub(job.figures.watermark?.div_euclid(1_000_000));
        #[expect(clippy::cast_precision_loss, reason = "2^53 milliseconds are 285,000 years")]
        let seconds = lag as f64 / 1e3;
        Some(seconds.to_string())
    });
    text
}
