//! Metrics in the embedded format of CloudWatch: a line of JSON in the log, of which CloudWatch makes metrics.
//!
//! One line for each query of Fuse, each task of an HBee and each query of a comb ([`Measured`]), if the variable
//! `BUZZ_METRICS` is `cloudwatch`. The lines go to standard output; the log, on standard error, is the same stream there.

use std::sync::LazyLock;

use buzz_exchange::ClosedQuery;
use buzz_protocol::{ErrorKind, QueryError, QueryId, Result, TaskOutcome};
use serde_json::{Value, json};

use crate::environment::environment;

/// Namespace of all metrics.
pub const NAMESPACE: &str = "Buzz";

/// The stage of this process, if it writes metrics.
static STAGE: LazyLock<Option<String>> = LazyLock::new(|| stage(environment));

/// Returns the stage if the variables that `get` returns by name ask for metrics.
fn stage(get: impl Fn(&str) -> Option<String>) -> Option<String> {
    match get("BUZZ_METRICS").unwrap_or_default().trim() {
        "" | "off" => None,
        "cloudwatch" => Some(get("BUZZ_STAGE").unwrap_or_default()),
        other => {
            tracing::error!(value = other, "BUZZ_METRICS can be `cloudwatch` or `off`; no metrics are written");
            None
        }
    }
}

/// The work of one query or one task, without rows and SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The role that measured it: `fuse`, `hbee` or `hcomb`.
    pub role: &'static str,
    /// The query, or its run.
    pub query: QueryId,
    /// Duration in milliseconds.
    pub milliseconds: u64,
    /// Rows: of the answer for Fuse, delivered by an HBee, received by a comb.
    pub rows: u64,
    /// Bytes: read from tables for Fuse and an HBee, received by a comb.
    pub bytes: u64,
    /// Kind of the error, if it failed.
    pub failed: Option<ErrorKind>,
}

impl Measured {
    /// Returns the work of a task of an HBee, which took `milliseconds`.
    pub fn of_task(query: QueryId, milliseconds: u64, ran: &Result<TaskOutcome>) -> Self {
        let (rows, bytes) = match ran {
            Ok(outcome) => (outcome.rows.iter().sum(), outcome.bytes_scanned),
            Err(_) => (0, 0),
        };
        let failed = ran.as_ref().err().map(|error: &QueryError| error.kind);
        Self { role: "hbee", query, milliseconds, rows, bytes, failed }
    }

    /// Writes the line, if this process writes metrics.
    pub fn write(&self) {
        if let Some(stage) = &*STAGE {
            #[expect(clippy::print_stdout, reason = "standard output is where CloudWatch finds metrics")]
            {
                println!("{}", self.line(stage, buzz_protocol::now_ms()));
            }
        }
    }

    /// Returns the line of a process of `stage`, at `now_ms` in milliseconds since 1970.
    fn line(&self, stage: &str, now_ms: u64) -> Value {
        let metric = |name: &str, unit: &str| json!({"Name": name, "Unit": unit});
        let all = [
            metric("Duration", "Milliseconds"),
            metric("Rows", "Count"),
            metric("Bytes", "Bytes"),
            metric("Errors", "Count"),
        ];
        let mut directives = vec![json!({
            "Namespace": NAMESPACE, "Dimensions": [["Stage", "Role"]], "Metrics": all,
        })];
        if self.failed.is_some() {
            directives.push(json!({
                "Namespace": NAMESPACE,
                "Dimensions": [["Stage", "Role", "ErrorKind"]],
                "Metrics": [metric("Errors", "Count")],
            }));
        }
        let mut line = json!({
            "_aws": {"Timestamp": now_ms, "CloudWatchMetrics": directives},
            "Stage": stage,
            "Role": self.role,
            "Duration": self.milliseconds,
            "Rows": self.rows,
            "Bytes": self.bytes,
            "Errors": u8::from(self.failed.is_some()),
            "query_id": self.query,
        });
        if let Some(kind) = self.failed {
            line["ErrorKind"] = kind.to_string().into();
        }
        line
    }
}

/// Writes the line of a query that a comb has closed.
pub fn of_comb(closed: &ClosedQuery) {
    let ClosedQuery { query, milliseconds, rows, bytes, failed } = *closed;
    Measured { role: "hcomb", query, milliseconds, rows, bytes, failed }.write();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_if_a_variable_asks_for_them() {
        let of = |metrics: Option<&str>| {
            stage(|name| match name {
                "BUZZ_METRICS" => metrics.map(str::to_string),
                _ => Some("dev".to_string()),
            })
        };
        assert_eq!((of(None), of(Some("")), of(Some("off")), of(Some("statsd"))), (None, None, None, None));
        assert_eq!(of(Some("cloudwatch")).as_deref(), Some("dev"));
    }

    #[test]
    fn line_has_the_embedded_format() {
        let query = QueryId::fresh();
        let failed = QueryError::limit("the value 'secret' is too large").at_task("m", buzz_protocol::TaskIndex(1));
        let measured = Measured::of_task(query, 12, &Err(failed));
        let line = measured.line("dev", 1_700_000_000_000);
        // Each name of a metric or dimension is a member of the line.
        let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        for directive in directives {
            assert_eq!(directive["Namespace"], "Buzz");
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric}");
            }
            for dimension in directive["Dimensions"][0].as_array().unwrap() {
                assert!(line[dimension.as_str().unwrap()].is_string(), "{dimension}");
            }
        }
        assert_eq!(directives.len(), 2);
        assert_eq!(
            (&line["Stage"], &line["Role"], &line["ErrorKind"]),
            (&json!("dev"), &json!("hbee"), &json!("Limit"))
        );
        assert_eq!((&line["Duration"], &line["Errors"]), (&json!(12), &json!(1)));
        assert!(!line.to_string().contains("secret"), "{line}");

        let done = Measured { role: "fuse", query, milliseconds: 5, rows: 3, bytes: 7, failed: None }.line("dev", 1);
        assert_eq!(done["_aws"]["CloudWatchMetrics"].as_array().unwrap().len(), 1);
        assert_eq!((&done["Rows"], &done["Bytes"], &done["Errors"]), (&json!(3), &json!(7), &json!(0)));
        assert_eq!(done["query_id"], json!(query));
    }
}
