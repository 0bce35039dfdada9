//! JSON of the REST interface, with the names that Arroyo's version 1 has. Times are microseconds since 1970.

use buzz_epoch::Record;
use serde_json::{Value, json};

use crate::jobs::registry::Pipeline;
use crate::jobs::sources::SavedSource;
use crate::jobs::status::{JobState, Level};
use crate::jobs::wanted::Stop;

/// Length of an epoch in microseconds, of a pipeline that has not run yet.
const EPOCH_MICROS: u64 = 1_000_000;

/// Connectors: id, title, if it is a source, if it is a sink, and a sentence.
const CONNECTORS: [(&str, &str, bool, bool, &str); 16] = [
    ("nexmark", "Nexmark", true, false, "Generates the events of an auction house"),
    ("impulse", "Impulse", true, false, "Generates a counter"),
    ("single_file", "Single file", true, true, "One local file"),
    ("filesystem", "Files", true, true, "Files in a folder or a bucket: JSON, CSV, Parquet or Arrow"),
    ("json", "JSON files", true, true, "Files of JSON lines in a folder or a bucket"),
    ("csv", "CSV files", true, true, "CSV files in a folder or a bucket"),
    ("parquet", "Parquet files", true, true, "Parquet files in a folder or a bucket"),
    ("delta", "Delta Lake", true, true, "Rows that are added to a Delta Lake table"),
    ("http", "Streams", true, false, "Rows that clients push to a stream of a server"),
    ("sse", "Server-sent events", true, false, "Events that a server sends by HTTP"),
    ("websocket", "WebSocket", true, false, "Messages that a server sends by a WebSocket"),
    ("polling_http", "HTTP polling", true, false, "Answers of a server that is polled"),
    ("webhook", "Webhook", false, true, "Requests to a server, one for each row or for several"),
    ("kafka", "Kafka", true, true, "Records of a topic (if Buzz was built with the feature kafka)"),
    ("blackhole", "Blackhole", false, true, "Drops rows"),
    ("web", "Web", false, true, "Rows that clients follow (stdout, preview and log are the same)"),
];

/// Returns the id of the job of a pipeline. Each pipeline has one.
pub fn job_id(pipeline: &str) -> String {
    format!("job_{pipeline}")
}

fn micros(ms: u64) -> u64 {
    ms.saturating_mul(1000)
}

/// Returns the JSON of a pipeline.
pub fn pipeline(pipeline: &Pipeline) -> Value {
    let Pipeline { id, n, wanted, status } = pipeline;
    let (action, text, in_progress) = match status.state {
        JobState::Created | JobState::Scheduling => (Some(Stop::Checkpoint), "Starting", true),
        JobState::Running | JobState::Recovering => (Some(Stop::Checkpoint), "Stop", false),
        JobState::Stopping => (Some(Stop::Immediate), "Stopping", true),
        JobState::Rescaling => (None, "Rescaling", true),
        JobState::Stopped => (Some(Stop::None), "Start", false),
        JobState::Finished | JobState::Failed => (None, "Restart", false),
        JobState::Deleted => (None, "Deleted", false),
    };
    let empty = || json!({"nodes": [], "edges": []});
    let graph = if status.graph.is_null() { empty() } else { status.graph.clone() };
    let micros_of_epoch = if status.epoch_micros > 0 { status.epoch_micros } else { EPOCH_MICROS };
    json!({
        "id": id,
        "name": wanted.name,
        "query": wanted.script,
        "udfs": [],
        "checkpointIntervalMicros": wanted.epoch_micros.unwrap_or(micros_of_epoch),
        "stop": wanted.stop.name(),
        "createdAt": micros(wanted.created_ms),
        "action": action.map(Stop::name),
        "actionText": text,
        "actionInProgress": in_progress,
        "graph": graph,
        "preview": false,
        // Arroyo has none of the following fields.
        "state": status.state.name(),
        "parallelism": wanted.parallelism.map_or(status.workers, std::num::NonZeroUsize::get),
        "error": status.error,
        "server": status.server,
        "revision": n,
    })
}

/// Returns the JSON of the job of a pipeline.
pub fn job(pipeline: &Pipeline) -> Value {
    let Pipeline { id, wanted, status, .. } = pipeline;
    json!({
        "id": job_id(id),
        "runningDesired": wanted.is_running(),
        "state": status.state.name(),
        "runId": status.run,
        "startTime": status.started_ms.map(micros),
        "finishTime": status.ended_ms.map(micros),
        "tasks": status.workers,
        "failureMessage": status.error,
        "createdAt": micros(wanted.created_ms),
        "pipelineId": id,
        "pipelineName": wanted.name,
    })
}

/// Returns the JSON of the messages of a pipeline, the newest first.
pub fn messages(pipeline: &Pipeline) -> Value {
    let message = |message: &crate::jobs::Message| {
        json!({
            "id": message.n.to_string(),
            "createdAt": micros(message.at_ms),
            "operatorId": null,
            "taskIndex": null,
            "level": match message.level {
                Level::Info => "info",
                Level::Warn => "warn",
                Level::Error => "error",
            },
            "message": message.text,
            "details": "",
        })
    };
    let messages: Vec<Value> = pipeline.status.messages.iter().rev().map(message).collect();
    json!({"data": messages, "hasMore": false})
}

/// Returns the JSON of records as checkpoints, in the order in which they are given.
pub fn checkpoints(records: &[Record]) -> Value {
    let checkpoint = |record: &Record| {
        let end = u64::try_from(record.at_ms).unwrap_or_default();
        let seconds = record.metrics.get("seconds").and_then(Value::as_f64).unwrap_or_default();
        // An epoch begins at the time that it is recorded with.
        let finish = micros(end).saturating_add((seconds * 1e6) as u64);
        json!({
            "epoch": record.epoch,
            "backend": "epochs",
            "checkpointType": if record.stop { "stopping" } else { "scheduled" },
            "startTime": micros(end),
            "finishTime": finish,
            "events": [],
            "rowsIn": number(record, "rows_in"),
            "rowsOut": number(record, "rows_out"),
            "stateRows": number(record, "state_rows"),
            "bytes": record.state.iter().map(|file| file.bytes).sum::<u64>(),
            "late": record.late.values().sum::<u64>(),
            "bad": record.bad.values().sum::<u64>(),
            "watermark": record.watermarks.values().min(),
            "skipped": record.metrics.get("skipped"),
        })
    };
    let checkpoints: Vec<Value> = records.iter().map(checkpoint).collect();
    json!({"data": checkpoints})
}

/// Returns the JSON of the state of each stage at a checkpoint.
pub fn checkpoint_groups(record: &Record) -> Value {
    let finish = micros(u64::try_from(record.at_ms).unwrap_or_default());
    let mut stages: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
    for file in &record.state {
        let (bytes, rows) = stages.entry(&file.stage).or_default();
        (*bytes, *rows) = (*bytes + file.bytes, *rows + file.rows);
    }
    let group = |(stage, (bytes, rows)): (&str, (u64, u64))| {
        json!({
            "operatorId": stage, "bytes": bytes, "rows": rows, "startedMetadataWrite": null, "finishTime": finish,
            "subtasks": [{"index": 0, "bytes": bytes, "eventSpans": []}],
        })
    };
    json!({"data": stages.into_iter().map(group).collect::<Vec<_>>()})
}

fn number(record: &Record, key: &str) -> u64 {
    record.metrics.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// Returns the JSON of the rates of each node of a pipeline's graph, from `records` in ascending order: rows per second
/// that statements read and sinks get, and the share of the time in which epochs computed.
pub fn metric_groups(pipeline: &Pipeline, records: &[Record]) -> Value {
    let nodes = pipeline.status.graph.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
    let group = |node: &Value| {
        let operator = node.get("operator").and_then(Value::as_str).unwrap_or_default();
        let name = node.get("description").and_then(Value::as_str).unwrap_or_default();
        let metrics = match operator.split(':').next() {
            Some("source") => vec![
                ("messages_sent", rates(records, |record| of_source(record, name))),
                ("backpressure", busy(records)),
            ],
            Some("sink") => vec![("messages_recv", rates(records, |record| of_sink(record, name)))],
            _ => vec![
                ("messages_recv", rates(records, |record| number(record, "rows_in"))),
                ("messages_sent", rates(records, |record| number(record, "rows_out"))),
            ],
        };
        let metrics = metrics
            .into_iter()
            .map(|(name, values)| json!({"name": name, "subtasks": [{"index": 0, "metrics": values}]}));
        json!({"nodeId": node.get("nodeId"), "operatorId": name, "metricGroups": metrics.collect::<Vec<_>>()})
    };
    json!({"data": nodes.iter().map(group).collect::<Vec<_>>()})
}

fn of_source(record: &Record, name: &str) -> u64 {
    let rows = record.metrics.get("rows_of_sources").and_then(|rows| rows.get(name));
    rows.and_then(Value::as_u64).unwrap_or_default()
}

fn of_sink(record: &Record, name: &str) -> u64 {
    record.outputs.get(name).map_or(0, |files| files.iter().map(|file| file.rows).sum())
}

/// Returns the rows of each record per second since the one before.
fn rates(records: &[Record], rows: impl Fn(&Record) -> u64) -> Vec<Value> {
    let rate = |pair: &[Record]| {
        let [before, record] = pair else { return Value::Null };
        let seconds = (record.at_ms.saturating_sub(before.at_ms)).max(1) as f64 / 1e3;
        let time = micros(u64::try_from(record.at_ms).unwrap_or_default());
        json!({"time": time, "value": rows(record) as f64 / seconds})
    };
    records.windows(2).map(rate).collect()
}

/// Returns the share of the time since the record before that each epoch computed. At 1, sources wait for the pipeline.
fn busy(records: &[Record]) -> Vec<Value> {
    let share = |pair: &[Record]| {
        let [before, record] = pair else { return Value::Null };
        let between = (record.at_ms.saturating_sub(before.at_ms)).max(1) as f64 / 1e3;
        // An epoch is recorded with the time of its start, so the time between two is that of the first.
        let seconds = before.metrics.get("seconds").and_then(Value::as_f64).unwrap_or_default();
        let time = micros(u64::try_from(record.at_ms).unwrap_or_default());
        json!({"time": time, "value": (seconds / between).clamp(0.0, 1.0)})
    };
    records.windows(2).map(share).collect()
}

/// Returns the JSON of a source that is kept.
pub fn source(source: &SavedSource) -> Value {
    json!({
        "id": source.name,
        "name": source.name,
        "createdAt": micros(source.created_ms),
        "connector": source.connector,
        "tableType": "source",
        // Arroyo's tables have a configuration of each connector instead.
        "statement": source.statement,
    })
}

/// Returns the JSON of the connectors.
pub fn connectors() -> Value {
    let connector = |(id, name, source, sink, description): &(&str, &str, bool, bool, &str)| {
        json!({
            "id": id, "name": name, "icon": "", "description": description, "tableConfig": "", "enabled": true,
            "source": source, "sink": sink, "customSchemas": true, "testing": false, "hidden": false,
            "configDescription": "options of CREATE TABLE … WITH (…)", "connectionConfig": null,
        })
    };
    json!({"data": CONNECTORS.iter().map(connector).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn rates_are_rows_by_time() {
        let record = |at_ms, rows: u64| Record {
            at_ms,
            metrics: BTreeMap::from([("rows_in".to_string(), json!(rows))]).into_iter().collect(),
            ..Default::default()
        };
        let rates = rates(&[record(1000, 7), record(3000, 100), record(3000, 5)], |record| number(record, "rows_in"));
        assert_eq!(rates, [json!({"time": 3_000_000, "value": 50.0}), json!({"time": 3_000_000, "value": 5000.0})]);
    }
}
