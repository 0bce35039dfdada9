//! The limits and choices of one query, set with `--set key=value` or with the `options` of an event.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::query::name_help;
use crate::{QueryError, Result};

/// The way deliveries reach the combs and combs reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Batches are passed within the process.
    Memory,
    /// Arrow Flight over loopback sockets.
    Tcp,
}

/// The place where the reduce plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReducerChoice {
    /// Combs if enough of them already run; else Fuse if few rows are expected; else objects in storage where combs take
    /// time to start, or combs, which are started.
    Auto,
    /// Combs, which are started if necessary.
    Comb,
    /// Fuse, to which tasks return their rows.
    Inline,
    /// Fuse and further tasks, which read the rows of tasks from objects in storage. No comb is used.
    Objects,
}

/// The treatment of numbers that do not fit their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The query fails.
    Error,
    /// Integers wrap around.
    Wrap,
}

/// The order in which one statement's inner joins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinOrder {
    /// The order with the fewest estimated rows, if it has clearly fewer than the order of the statement.
    Estimated,
    /// The order of the statement.
    Written,
}

/// Keys of small tables as filters of the rows that one statement aggregates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFilters {
    /// Filters that are estimated to remove most rows.
    Estimated,
    /// No filters.
    None,
}

/// The limits and choices of one query. Exceeding a limit is an error of kind `Limit` that names the option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Transport of deliveries when everything runs in one process.
    pub transport: Transport,
    /// Place where the reduce plan runs.
    pub reducer: ReducerChoice,
    /// Number of tasks of each map stage; 0 derives it from `task_bytes`. A task has at least one split.
    pub tasks: usize,
    /// Bytes of files per task, if `tasks` is 0.
    pub task_bytes: u64,
    /// Approximate maximum of bytes per split of a file that may be divided: in one statement, and with
    /// `"split": "row_groups"`. Splits are smaller if a stage would otherwise have fewer splits than tasks.
    pub split_bytes: u64,
    /// Maximum of a join's build side bytes × the tasks that read it, up to which HBees run a broadcast join.
    /// With 0, combs run every join.
    pub build_bytes: u64,
    /// Order of the inner joins of one statement.
    pub join_order: JoinOrder,
    /// Filters by keys of the rows that one statement aggregates.
    pub key_filters: KeyFilters,
    /// Maximum number of tasks that run at the same time; 0 uses the default of the place where tasks run.
    pub concurrency: usize,
    /// Maximum number of attempts of a task that fails with `Unavailable`.
    pub attempts: u32,
    /// Multiple of the median time of a stage's tasks after which a task runs a second time beside the first, once 90 % of
    /// the tasks are done; 0 runs none twice.
    pub straggler_factor: u32,
    /// Bytes that a query's inbox holds in memory on one comb; above that it spills to disk.
    pub inbox_memory_bytes: u64,
    /// Bytes that a query's inbox spills to disk on one comb; above that the query fails with `Limit`.
    pub inbox_disk_bytes: u64,
    /// Maximum number of tasks of the query; above that it fails with `Limit` before it runs.
    pub max_tasks: usize,
    /// Maximum of the bytes that the scans of all tasks read, of the columns that the query needs. A query that is estimated
    /// to read more fails with `Limit` before it runs, and one that has read more is stopped. 0 sets no limit.
    pub max_scan_bytes: u64,
    /// Maximum of the cost on a stack, with that of combs that are started. A query whose low estimate is above it fails with
    /// `Limit` before it runs, and one that has cost more is stopped. `None` sets no limit.
    pub max_cost_usd: Option<Usd>,
    /// Maximum of the bytes of the result in memory; above that the query fails with `Limit`.
    pub max_result_bytes: u64,
    /// Maximum size of a manifest of a `Static` catalog; above that the query fails with `Limit`.
    pub max_manifest_bytes: u64,
    /// Bytes of memory for the operators of each HBee, over all tasks that it runs at once, of each HComb, and of Fuse if it
    /// reduces. Above that, sorts and joins spill or fail.
    pub memory_bytes: u64,
    /// Seconds after which the query fails with `Limit`.
    pub timeout_seconds: u64,
    /// Time zone of the session, such as `Europe/Paris` or `+02:00`. Without it, functions return timestamps without
    /// a zone.
    pub time_zone: Option<String>,
    /// The treatment of results of `+`, `-`, `*` and `SUM` that do not fit their type.
    pub overflow: Overflow,
    /// Rows per batch, at most 1,048,576.
    pub batch_size: usize,
    /// Number of attempts of tasks that the answer describes, for a timeline.
    pub timeline_attempts: usize,
    /// True if answers, and partial aggregates of files, are kept and used again while their files are the same.
    pub reuse: bool,
    /// Bytes of kept answers and partial aggregates, beyond which the oldest are removed. A stack removes them by age.
    pub reuse_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transport: Transport::Memory,
            reducer: ReducerChoice::Auto,
            tasks: 0,
            task_bytes: 64 << 20,
            split_bytes: 128 << 20,
            build_bytes: 256 << 20,
            join_order: JoinOrder::Estimated,
            key_filters: KeyFilters::Estimated,
            concurrency: 0,
            attempts: 3,
            straggler_factor: 4,
            inbox_memory_bytes: 1 << 30,
            inbox_disk_bytes: 64 << 30,
            max_tasks: 100_000,
            max_scan_bytes: 0,
            max_cost_usd: None,
            max_result_bytes: 64 << 30,
            max_manifest_bytes: 256 << 20,
            memory_bytes: 4 << 30,
            timeout_seconds: 3600,
            time_zone: None,
            overflow: Overflow::Error,
            batch_size: 8192,
            timeline_attempts: 0,
            reuse: false,
            reuse_bytes: 1 << 30,
        }
    }
}

/// Key and description of every option, for `--help`.
pub const OPTION_HELP: &[(&str, &str)] = &[
    ("transport", "transport of batches when everything runs in one process: memory (default) or tcp"),
    (
        "reducer",
        "auto (default), comb, inline (Fuse reduces) or objects (rows go through storage, and functions reduce them); auto is inline if no combs run and few rows are expected",
    ),
    ("tasks", "number of tasks of each map stage; 0 (default) derives it from task_bytes"),
    ("task_bytes", "bytes of files per task, if tasks is 0 (default 64MiB)"),
    (
        "split_bytes",
        "maximum bytes per split of a file, in one statement or with \"split\": \"row_groups\" (default 128MiB)",
    ),
    (
        "build_bytes",
        "maximum build side bytes × tasks for a broadcast join in HBees; 0 disables these joins (default 256MiB)",
    ),
    (
        "join_order",
        "order of one statement's inner joins: estimated (default) chooses by estimated rows, written keeps the statement's",
    ),
    (
        "key_filters",
        "estimated (default) filters rows below an aggregate by the keys of a small table that its groups are joined with, none does not",
    ),
    (
        "concurrency",
        "maximum number of tasks that run at the same time; 0 (default) means one per thread, or hbee_at_once on AWS",
    ),
    ("attempts", "maximum number of attempts of a task that fails with Unavailable (default 3)"),
    (
        "straggler_factor",
        "multiple of the median time of a stage's tasks after which a slow task runs twice on a stack; 0 disables it (default 4)",
    ),
    ("inbox_memory_bytes", "bytes of deliveries that a comb holds in memory before it spills (default 1GiB)"),
    ("inbox_disk_bytes", "bytes of deliveries that a comb spills before the query fails (default 64GiB)"),
    ("max_tasks", "maximum number of tasks; a query with more fails before it runs (default 100000)"),
    (
        "max_scan_bytes",
        "maximum bytes that tasks read; a query estimated to read more fails before it runs, one that has read more is stopped; 0 (default) sets no limit",
    ),
    (
        "max_cost_usd",
        "maximum cost in US dollars, on a stack; a query estimated to cost more fails before it runs, one that has cost more is stopped (default none)",
    ),
    ("max_result_bytes", "maximum bytes of the result in memory before the query fails (default 64GiB)"),
    ("max_manifest_bytes", "maximum bytes of a manifest of a Static catalog (default 256MiB)"),
    ("memory_bytes", "bytes for sorts, joins and aggregates before they spill or fail (default 4GiB)"),
    ("timeout_seconds", "seconds after which the query fails (default 3600)"),
    ("time_zone", "time zone of the session, such as Europe/Paris or +02:00 (default none)"),
    (
        "overflow",
        "what happens if the result of +, -, * or SUM does not fit its type: error (default), or wrap for integers",
    ),
    ("batch_size", "rows per batch, at most 1048576 (default 8192)"),
    ("timeline_attempts", "number of attempts of tasks that the answer describes; --timeline sets it (default 0)"),
    (
        "reuse",
        "true keeps answers and partial aggregates of files, and uses them again while the files are the same; false (default)",
    ),
    ("reuse_bytes", "bytes of what reuse keeps on this machine before the oldest is removed (default 1GiB)"),
];

impl Options {
    /// Sets one option from `key=value` text.
    ///
    /// # Errors
    /// `Invalid` if the option does not exist or does not accept the value ([`Options::check`]).
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| QueryError::invalid(format!("option `{assignment}` has no `=`; write it as key=value")))?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "transport" => {
                self.transport = match value {
                    "memory" => Transport::Memory,
                    "tcp" => Transport::Tcp,
                    _ => return Err(misfit(key, value, "memory or tcp")),
                }
            }
            "reducer" => {
                self.reducer = match value {
                    "auto" => ReducerChoice::Auto,
                    "comb" => ReducerChoice::Comb,
                    "inline" => ReducerChoice::Inline,
                    "objects" => ReducerChoice::Objects,
                    _ => return Err(misfit(key, value, "auto, comb, inline or objects")),
                }
            }
            "tasks" => self.tasks = number(key, value, 0)?,
            "task_bytes" => self.task_bytes = bytes(key, value)?,
            "split_bytes" => self.split_bytes = bytes(key, value)?,
            "build_bytes" if value == "0" => self.build_bytes = 0,
            "build_bytes" => self.build_bytes = bytes(key, value)?,
            "join_order" => {
                self.join_order = match value {
                    "estimated" => JoinOrder::Estimated,
                    "written" => JoinOrder::Written,
                    _ => return Err(misfit(key, value, "estimated or written")),
                }
            }
            "key_filters" => {
                self.key_filters = match value {
                    "estimated" => KeyFilters::Estimated,
                    "none" => KeyFilters::None,
                    _ => return Err(misfit(key, value, "estimated or none")),
                }
            }
            "concurrency" => self.concurrency = number(key, value, 0)?,
            "attempts" => self.attempts = number(key, value, 1)?,
            "straggler_factor" => self.straggler_factor = number(key, value, 0)?,
            "inbox_memory_bytes" => self.inbox_memory_bytes = bytes(key, value)?,
            "inbox_disk_bytes" => self.inbox_disk_bytes = bytes(key, value)?,
            "max_tasks" => self.max_tasks = number(key, value, 1)?,
            "max_scan_bytes" if value == "0" => self.max_scan_bytes = 0,
            "max_scan_bytes" => self.max_scan_bytes = bytes(key, value)?,
            "max_cost_usd" => self.max_cost_usd = Some(dollars(key, value)?),
            "max_result_bytes" => self.max_result_bytes = bytes(key, value)?,
            "max_manifest_bytes" => self.max_manifest_bytes = bytes(key, value)?,
            "memory_bytes" => self.memory_bytes = bytes(key, value)?,
            "timeout_seconds" => self.timeout_seconds = number(key, value, 1)?,
            "time_zone" => self.time_zone = Some(value.to_string()),
            "overflow" => {
                self.overflow = match value {
                    "error" => Overflow::Error,
                    "wrap" => Overflow::Wrap,
                    _ => return Err(misfit(key, value, "error or wrap")),
                }
            }
            "batch_size" => self.batch_size = number(key, value, 1)?,
            "timeline_attempts" => self.timeline_attempts = number(key, value, 0)?,
            "reuse" => self.reuse = value.parse().map_err(|_| misfit(key, value, "true or false"))?,
            "reuse_bytes" => self.reuse_bytes = bytes(key, value)?,
            _ => {
                let known = OPTION_HELP.iter().map(|(key, _)| *key);
                return Err(QueryError::invalid(format!("option `{key}` does not exist{}", name_help(key, known))));
            }
        }
        self.check()
    }

    /// Returns the options that differ from their defaults, as [`Options::set`] takes them.
    ///
    /// # Errors
    /// `Internal` if an option has no JSON.
    pub fn changed(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        let json = |options: &Options| match serde_json::to_value(options) {
            Ok(serde_json::Value::Object(map)) => Ok(map),
            _ => Err(QueryError::internal("the options cannot be encoded as JSON")),
        };
        let (mut own, defaults) = (json(self)?, json(&Options::default())?);
        own.retain(|key, value| defaults.get(key) != Some(value));
        Ok(own)
    }

    /// Returns the maximum duration of the query, at most 365 days: clocks overflow on larger values.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.min(365 * 24 * 3600))
    }
}

/// Returns the error of an option that cannot be `value`.
pub(crate) fn misfit(key: &str, value: &str, expected: &str) -> QueryError {
    QueryError::invalid(format!("option `{key}` cannot be `{value}`; use {expected}"))
}

fn number<T: std::str::FromStr + PartialOrd + fmt::Display + Copy>(key: &str, value: &str, least: T) -> Result<T> {
    let number = value.parse().ok().filter(|number| *number >= least);
    number.ok_or_else(|| misfit(key, value, &format!("a whole number of at least {least}")))
}

/// An amount of US dollars, in millionths, so that amounts are equal or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Usd(u64);

impl From<f64> for Usd {
    fn from(dollars: f64) -> Self {
        Self((dollars * 1e6).round() as u64)
    }
}

impl From<Usd> for f64 {
    fn from(amount: Usd) -> Self {
        amount.0 as f64 / 1e6
    }
}

fn dollars(key: &str, value: &str) -> Result<Usd> {
    let amount = value.parse::<f64>().ok().filter(|amount| amount.is_finite() && *amount > 0.0);
    amount.map(Usd::from).ok_or_else(|| misfit(key, value, "US dollars above 0, such as 0.25"))
}

/// Parses `1048576`, `64KiB`, `512MB`, `2GiB`. Decimal units are powers of 1000, binary units powers of 1024.
fn bytes(key: &str, value: &str) -> Result<u64> {
    let expected = "bytes, such as 1048576, 64MiB or 2GB";
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let count: u64 = value[..digits].parse().map_err(|_| misfit(key, value, expected))?;
    let unit: u64 = match value[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => return Err(misfit(key, value, expected)),
    };
    count.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(|| misfit(key, value, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_options_are_set_again_from_their_json() {
        let mut options = Options::default();
        assert!(options.changed().unwrap().is_empty());
        for (key, _) in OPTION_HELP {
            let value = match *key {
                "transport" => "tcp",
                "reducer" => "inline",
                "overflow" => "wrap",
                "reuse" => "true",
                "join_order" => "written",
                "key_filters" => "none",
                "time_zone" => "+02:00",
                _ => "7",
            };
            options.set(&format!("{key}={value}")).unwrap();
        }
        let mut again = Options::default();
        for (key, value) in options.changed().unwrap() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            again.set(&format!("{key}={text}")).unwrap();
        }
        assert_eq!(again, options);
    }

    #[test]
    fn every_documented_option_can_be_set() {
        let mut options = Options::default();
        for (key, _) in OPTION_HELP {
            let value = match *key {
                "transport" => "tcp",
                "reducer" => "inline",
                "overflow" => "wrap",
                "reuse" => "true",
                "join_order" => "written",
                "key_filters" => "none",
                "time_zone" => "Europe/Paris",
                _ => "7",
            };
            options.set(&format!("{key}={value}")).unwrap();
        }
        assert_eq!(options.transport, Transport::Tcp);
        assert_eq!((options.tasks, options.task_bytes), (7, 7));
    }

    #[test]
    fn invalid_option_error_includes_the_remedy() {
        let error = |text: &str| Options::default().set(text).unwrap_err().to_string();
        assert_eq!(error("task=3"), "option `task` does not exist; did you mean `tasks`?");
        assert_eq!(error("tasks=x"), "option `tasks` cannot be `x`; use a whole number of at least 0");
        assert_eq!(
            error("task_bytes=5 apples"),
            "option `task_bytes` cannot be `5 apples`; use bytes, such as 1048576, 64MiB or 2GB"
        );
        assert_eq!(
            error("max_cost_usd=x"),
            "option `max_cost_usd` cannot be `x`; use US dollars above 0, such as 0.25"
        );
        assert_eq!(error("tasks"), "option `tasks` has no `=`; write it as key=value");
    }
}
