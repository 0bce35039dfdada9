//! Random events of Fuse's function.

use std::panic::catch_unwind;

use buzz_engine::wire::Event;
use buzz_protocol::ErrorKind;
use buzz_testkit::mutate;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;

/// Events of all forms.
const EVENTS: [&str; 9] = [
    r#"{"sql": "SELECT 1", "catalogs": []}"#,
    r#"{"query": {"sql": "SELECT a FROM t", "catalogs": [{"name": "t", "type": "Parquet", "uri": "s3://b/t"}], "capacity": {"zones": 2}}, "options": {"tasks": 64, "memory_bytes": "1GiB", "reducer": "comb"}, "async": true, "output": {"uri": "s3://b/x.parquet", "format": "parquet"}, "failure": "json"}"#,
    r#"{"query": {"steps": [{"name": "m", "computation_type": "HBee", "sql": "SELECT 1"}], "catalogs": [{"name": "t", "type": "Csv", "uri": "s3://b/*.csv", "columns": [{"name": "a", "type": "Int64"}], "storage": {"region": "eu-west-1"}}]}, "encoding": "arrow", "explain": true, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
    r#"{"watch": "0191d6a0-0000-7000-8000-000000000000"}"#,
    r#"{"cancel": "0191d6a0-0000-7000-8000-000000000000"}"#,
    r#"{"resume": "0191d6a0-0000-7000-8000-000000000000"}"#,
    r#"{"describe": {"sql": "SELECT 1", "catalogs": []}}"#,
    r#"{"names": "list"}"#,
    r#"{"names": {"add": {"entry": {"name": "t", "uri": "s3://b/t"}}}}"#,
];

/// Reads `count` random events. Returns what must not happen: panics and internal errors.
pub(crate) fn fuzz(count: u64, random: &mut StdRng) -> Vec<String> {
    let mut findings = Vec::new();
    for _ in 0..count {
        let mut bytes = EVENTS.choose(random).copied().unwrap_or_default().as_bytes().to_vec();
        mutate(&mut bytes, random);
        // The service passes JSON only; of other bytes, their text is an event.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let event = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text.as_str()));
        match catch_unwind(|| Event::parse(&event)) {
            Ok(Err(error)) if error.kind == ErrorKind::Internal => {
                findings.push(format!("{error}, of the event {text}"))
            }
            Ok(_) => {}
            Err(_) => findings.push(format!("a panic, of the event {text}")),
        }
    }
    findings
}
