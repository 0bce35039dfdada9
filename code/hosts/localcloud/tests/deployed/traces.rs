//! One query is one trace over all programs of a stack, and each of them writes metrics.

use std::collections::BTreeSet;
use std::path::Path;

use buzz_testkit::{Collector, ReceivedSpan, check_one_trace};
use serde_json::{Value, json};

use crate::stack::{GROUPS, TRIPS, ask, assert_answers, deploy, plain, stderr};

/// The spans of a query whose combs reduce, with the names of their parents.
const PARENTS: [(&str, &[&str]); 14] = [
    ("ask stack", &[]),
    ("fuse", &["ask stack"]),
    ("query", &["fuse"]),
    ("open tables", &["query"]),
    ("plan", &["query"]),
    ("choose reducers", &["query"]),
    ("run", &["query"]),
    ("stage", &["run"]),
    ("attempt", &["stage"]),
    ("task", &["attempt"]),
    ("deliver", &["task"]),
    ("receive", &["deliver"]),
    ("reduce", &["run"]),
    ("comb", &["reduce"]),
];

/// Returns true if all spans are there: one of each name, and all parents.
fn is_complete(spans: &[ReceivedSpan]) -> bool {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let is_there = |name: &str| spans.iter().any(|span| span.name == name);
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    PARENTS.iter().all(|(name, _)| is_there(name))
        && count("receive") >= count("deliver")
        && spans.iter().all(|span| span.parent.is_empty() || ids.contains(span.parent.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn query_of_a_stack_is_one_trace_over_all_programs() {
    let collector = Collector::start().await.unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT".to_string(), collector.endpoint());
    let deployed = deploy(|stack| stack.environment.extend([endpoint.clone()])).await;
    let sql = "SELECT t.\"PULocationID\", COUNT(*) AS n FROM trips t GROUP BY 1 ORDER BY n DESC, 1 LIMIT 20";
    let table = format!("trips={TRIPS}/*.parquet");
    let arguments = ["sql", sql, "--table", &table, "--set", "reducer=comb", "--set", "tasks=3", "--format", "csv"];
    let printed = deployed.buzz(&arguments).envs([endpoint]).output().await.unwrap();
    assert!(printed.status.success(), "{}", stderr(&printed));
    let spans = collector.until(is_complete).await;
    check_one_trace(&spans, &PARENTS);
    let services: BTreeSet<(&str, &str)> =
        spans.iter().map(|span| (span.name.as_str(), span.service.as_str())).collect();
    for of_role in [
        ("ask stack", "buzz"),
        ("query", "buzz-fuse"),
        ("attempt", "buzz-fuse"),
        ("task", "buzz-hbee"),
        ("deliver", "buzz-hbee"),
        ("receive", "buzz-hcomb"),
        ("comb", "buzz-hcomb"),
    ] {
        assert!(services.contains(&of_role), "{of_role:?}: {services:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stack_whose_collector_does_not_answer_returns_right_rows() {
    // It accepts connections, and answers none.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let deployed =
        deploy(|stack| stack.environment.extend([("OTEL_EXPORTER_OTLP_ENDPOINT".to_string(), endpoint)])).await;
    let expected = plain(GROUPS).await;
    for reducer in ["inline", "comb"] {
        let answer = deployed.invoke(&ask(GROUPS, 1, json!({"reducer": reducer, "tasks": 6}))).await;
        assert_answers(&answer, &expected);
    }
}

/// Returns the lines of metrics in the logs below `folder`.
fn metrics(folder: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(metrics(&path));
            continue;
        }
        let log = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        let lines = log.lines().filter(|line| line.contains("\"_aws\""));
        found.extend(lines.map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_program_of_a_stack_writes_metrics() {
    let deployed =
        deploy(|stack| stack.environment.extend([("BUZZ_METRICS".to_string(), "cloudwatch".to_string())])).await;
    // Each task has one attempt.
    let once = json!({"reducer": "comb", "tasks": 6, "straggler_factor": 0});
    let answer = deployed.invoke(&ask(GROUPS, 1, once)).await;
    assert_answers(&answer, &plain(GROUPS).await);
    let missing =
        ask("SELECT CAST(payment_type AS INT) AS n FROM nyc_taxi", 1, json!({"reducer": "inline", "tasks": 1}));
    deployed.invoke(&missing).await.unwrap_err();
    // A comb writes its line when Fuse closes the query, which may be after the answer.
    let logs = deployed.path("cloud/logs");
    deployed
        .until("the comb has closed the query", |_| metrics(&logs).iter().any(|line| line["Role"] == "hcomb"))
        .await;
    let lines = metrics(&logs);
    let of = |role: &str, errors: u64| {
        lines.iter().filter(|line| line["Role"] == role && line["Errors"] == errors).collect::<Vec<_>>()
    };
    assert_eq!((of("fuse", 0).len(), of("hbee", 0).len(), of("hcomb", 0).len()), (1, 6, 1), "{lines:#?}");
    for line in lines.iter().filter(|line| line["Errors"] == 0) {
        assert!(line["Stage"] == "local" && line["Rows"].as_u64().unwrap() > 0, "{line:#}");
        assert!(line["Bytes"].as_u64().unwrap() > 0, "{line:#}");
    }
    let rows = |role: &str| of(role, 0).iter().map(|line| line["Rows"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(rows("hbee"), rows("hcomb"), "the comb receives what the HBees deliver: {lines:#?}");
    assert!(!of("fuse", 1).is_empty() && !of("hbee", 1).is_empty(), "{lines:#?}");
    for line in lines.iter().filter(|line| line["Errors"] == 1) {
        assert_eq!(line["ErrorKind"], "Invalid", "{line:#}");
    }
}
