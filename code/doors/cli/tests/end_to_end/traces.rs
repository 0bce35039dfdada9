//! One query is one trace.

use std::path::Path;
use std::process::Output;

use buzz_testkit::{Collector, ReceivedSpan, check_one_trace, program};
use tempfile::tempdir;

use crate::command::text;
use crate::tables::parquet_folder;

/// The spans of a query whose combs reduce, with the names of their parents.
const PARENTS: [(&str, &[&str]); 11] = [
    ("query", &[]),
    ("open tables", &["query"]),
    ("plan", &["query"]),
    ("choose reducers", &["query"]),
    ("run", &["query"]),
    ("stage", &["run"]),
    ("attempt", &["stage"]),
    ("task", &["attempt"]),
    ("deliver", &["task"]),
    ("reduce", &["run"]),
    ("comb", &["reduce"]),
];

const GROUPS: &str = "SELECT grp, count(*) AS n FROM rides GROUP BY grp ORDER BY grp";

/// Runs `buzz sql` on the table in `dir` with the collector at `endpoint`, and the options `sets`.
async fn buzz(dir: &Path, sql: &str, endpoint: &str, sets: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program("buzz"));
    command.current_dir(dir).args(["sql", sql, "--table", "rides=rides", "--format", "csv"]);
    command.args(sets.iter().flat_map(|set| ["--set", set])).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    command.output().await.unwrap()
}

/// Returns what a command says on standard error, without the time of the query.
fn counts(output: &Output) -> String {
    text(&output.stderr).split("time:").next().unwrap_or_default().to_string()
}

fn named<'a>(spans: &'a [ReceivedSpan], name: &str) -> Vec<&'a ReceivedSpan> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn query_is_one_trace_over_all_roles() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 10);
    for transport in ["memory", "tcp"] {
        let collector = Collector::start().await.unwrap();
        let transport = format!("transport={transport}");
        let sets = [transport.as_str(), "tasks=3", "reducer=comb"];
        let output = buzz(dir.path(), GROUPS, &collector.endpoint(), &sets).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        // The command sends its spans before it ends.
        let spans = collector.until(|spans| !named(spans, "query").is_empty()).await;
        // A delivery is received by a call only if combs are behind sockets.
        let received: &[(&str, &[&str])] =
            if transport == "transport=tcp" { &[("receive", &["deliver"])] } else { &[] };
        check_one_trace(&spans, &[&PARENTS[..], received].concat());
        assert_eq!((named(&spans, "task").len(), named(&spans, "attempt").len()), (3, 3), "{spans:#?}");
        assert!(spans.iter().all(|span| span.service == "buzz" && !span.failed), "{spans:#?}");
        let scanned =
            named(&spans, "task").iter().map(|span| span.attributes["rows_scanned"].clone()).collect::<Vec<_>>();
        assert_eq!(scanned, ["10", "10", "10"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_a_failure_have_its_kind_and_no_values() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 10);
    let collector = Collector::start().await.unwrap();
    let failing = "SELECT count(*) FROM rides WHERE CAST('secret' || id AS INT) = 1";
    let output = buzz(dir.path(), failing, &collector.endpoint(), &["tasks=1"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let spans = collector.until(|spans| !named(spans, "query").is_empty()).await;
    for name in ["query", "run", "attempt", "task"] {
        let failed = named(&spans, name);
        assert!(!failed.is_empty(), "{name}: {spans:#?}");
        for span in failed {
            assert!(span.failed, "{span:#?}");
            assert_eq!(span.attributes["error.type"], "Invalid", "{span:#?}");
        }
    }
    assert!(!format!("{spans:?}").contains("secret"), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_that_is_down_or_silent_does_not_fail_a_query() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 10);
    let quiet = buzz(dir.path(), GROUPS, "", &[]).await;
    assert_eq!(quiet.status.code(), Some(0), "{}", text(&quiet.stderr));
    // It accepts connections, and answers none.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for endpoint in [format!("http://{}", silent.local_addr().unwrap()), format!("http://{closed}")] {
        let output = buzz(dir.path(), GROUPS, &endpoint, &[]).await;
        assert_eq!(output.status.code(), Some(0), "{endpoint}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), text(&quiet.stdout), "{endpoint}");
        assert_eq!(counts(&output), counts(&quiet), "{endpoint}");
    }
    // A place that cannot be used is named, and the query runs.
    let output = buzz(dir.path(), GROUPS, "not a place", &[]).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), text(&quiet.stdout)));
    assert!(text(&output.stderr).contains("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{}", text(&output.stderr));
}
