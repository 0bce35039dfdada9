//! The bounds and choices of one query, as `--set key=value` and the `options` of an event give them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::query::name_help;
use crate::{QueryError, Result};

/// How deliveries reach the combs and the combs reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Batches are handed over within the process.
    Memory,
    /// Arrow Flight over loopback sockets.
    Tcp,
}

/// Who reduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReducerChoice {
    /// Combs if they are there at once, else Fuse if little is expected, else combs once they have started.
    Auto,
    /// Combs.
    Comb,
    /// Fuse: tasks answer it their rows.
    Inline,
}

/// The bounds and choices of one query. A bound that is hit is an error of kind `Limit` that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How deliveries travel when everything runs in one process.
    pub transport: Transport,
    /// Who reduces.
    pub reducer: ReducerChoice,
    /// Number of tasks of each map stage; 0 lets Fuse choose by bytes. A task takes at least one split.
    pub tasks: usize,
    /// Bytes of files that a task takes, when `tasks` is 0.
    pub task_bytes: u64,
    /// Bytes that a split takes at most, about, where a file may be divided: in one statement, and with
    /// `"split": "row_groups"`. It takes fewer where a stage would else have fewer splits than tasks.
    pub split_bytes: u64,
    /// Bytes of a join's build side, times the tasks that would read it, up to which HBees do the join themselves;
    /// 0 leaves every join to combs.
    pub build_bytes: u64,
    /// Tasks that run at the same time.
    pub concurrency: usize,
    /// How often a task is tried when it fails with `Unavailable`.
    pub attempts: u32,
    /// Bytes that a query's inbox holds in memory on one comb; beyond it spills to disk.
    pub inbox_memory_bytes: u64,
    /// Bytes that a query's inbox spills to disk on one comb; beyond it the query fails with `Limit`.
    pub inbox_disk_bytes: u64,
    /// Bytes of memory for the operators of HBees and of HCombs, each: sorts and joins spill or fail beyond it.
    pub memory_bytes: u64,
    /// Seconds after which the query fails with `Limit`.
    pub timeout_seconds: u64,
    /// Time zone of the session, as `Europe/Paris` or `+02:00`; without one, functions give timestamps without a zone.
    pub time_zone: Option<String>,
    /// Rows per batch.
    pub batch_size: usize,
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
            concurrency: 0,
            attempts: 3,
            inbox_memory_bytes: 1 << 30,
            inbox_disk_bytes: 64 << 30,
            memory_bytes: 4 << 30,
            timeout_seconds: 3600,
            time_zone: None,
            batch_size: 8192,
        }
    }
}

/// Every option's key and what it changes, for `--help`.
pub const OPTION_HELP: &[(&str, &str)] = &[
    ("transport", "memory (default) or tcp: how batches travel when everything runs in one process"),
    (
        "reducer",
        "auto (default), comb, or inline: whether Fuse reduces itself; auto does if no comb is there and little is expected",
    ),
    ("tasks", "number of tasks of each map stage; 0 (default) chooses by task_bytes"),
    ("task_bytes", "bytes of files per task (default 64MiB)"),
    (
        "split_bytes",
        "bytes per split of a large file, in one statement or with \"split\": \"row_groups\" (default 128MiB)",
    ),
    (
        "build_bytes",
        "bytes of a join's smaller side times tasks, up to which every task reads it; 0 never (default 256MiB)",
    ),
    ("concurrency", "tasks that run at once; 0 (default) means as many as there are threads"),
    ("attempts", "how often a task is tried when a worker is unavailable (default 3)"),
    ("inbox_memory_bytes", "bytes a comb holds in memory before it spills deliveries (default 1GiB)"),
    ("inbox_disk_bytes", "bytes a comb spills before the query fails (default 64GiB)"),
    ("memory_bytes", "bytes for sorts, joins and aggregates before they spill or fail (default 4GiB)"),
    ("timeout_seconds", "seconds after which the query fails (default 3600)"),
    ("time_zone", "time zone of the session, as Europe/Paris or +02:00 (default none)"),
    ("batch_size", "rows per batch (default 8192)"),
];

impl Options {
    /// Sets one option from `key=value` text.
    ///
    /// # Errors
    /// `Invalid` when there is no such option or the value does not fit it.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| QueryError::invalid(format!("`{assignment}` is not of the form key=value")))?;
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
                    _ => return Err(misfit(key, value, "auto, comb or inline")),
                }
            }
            "tasks" => self.tasks = number(key, value, 0)?,
            "task_bytes" => self.task_bytes = bytes(key, value)?,
            "split_bytes" => self.split_bytes = bytes(key, value)?,
            "build_bytes" if value == "0" => self.build_bytes = 0,
            "build_bytes" => self.build_bytes = bytes(key, value)?,
            "concurrency" => self.concurrency = number(key, value, 0)?,
            "attempts" => self.attempts = number(key, value, 1)?,
            "inbox_memory_bytes" => self.inbox_memory_bytes = bytes(key, value)?,
            "inbox_disk_bytes" => self.inbox_disk_bytes = bytes(key, value)?,
            "memory_bytes" => self.memory_bytes = bytes(key, value)?,
            "timeout_seconds" => self.timeout_seconds = number(key, value, 1)?,
            "time_zone" => {
                value
                    .parse::<arrow::array::timezone::Tz>()
                    .map_err(|_| misfit(key, value, "a zone as Europe/Paris or +02:00"))?;
                self.time_zone = Some(value.to_string());
            }
            "batch_size" => self.batch_size = number(key, value, 1)?,
            _ => {
                let known = OPTION_HELP.iter().map(|(key, _)| *key);
                return Err(QueryError::invalid(format!("there is no option `{key}`{}", name_help(key, known))));
            }
        }
        Ok(())
    }

    /// The time a query may take: a year, if more is said than clocks can count.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.min(365 * 24 * 3600))
    }
}

fn misfit(key: &str, value: &str, expected: &str) -> QueryError {
    QueryError::invalid(format!("option `{key}` cannot be `{value}`; it takes {expected}"))
}

fn number<T: std::str::FromStr + PartialOrd + fmt::Display + Copy>(key: &str, value: &str, least: T) -> Result<T> {
    let number = value.parse().ok().filter(|number| *number >= least);
    number.ok_or_else(|| misfit(key, value, &format!("a whole number from {least}")))
}

/// Parses `1048576`, `64KiB`, `512MB`, `2GiB`: decimal units are thousands, binary units are 1024s.
fn bytes(key: &str, value: &str) -> Result<u64> {
    let expected = "bytes, as 1048576, 64MiB or 2GB";
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
    fn every_documented_option_can_be_set() {
        let mut options = Options::default();
        for (key, _) in OPTION_HELP {
            let value = match *key {
                "transport" => "tcp",
                "reducer" => "inline",
                "time_zone" => "Europe/Paris",
                _ => "7",
            };
            options.set(&format!("{key}={value}")).unwrap();
        }
        assert_eq!(options.transport, Transport::Tcp);
        assert_eq!((options.tasks, options.task_bytes), (7, 7));
    }

    #[test]
    fn a_wrong_option_says_what_would_be_right() {
        let error = |text: &str| Options::default().set(text).unwrap_err().to_string();
        assert_eq!(error("task=3"), "there is no option `task`; the nearest is `tasks`");
        assert_eq!(error("tasks=x"), "option `tasks` cannot be `x`; it takes a whole number from 0");
        assert_eq!(
            error("task_bytes=5 apples"),
            "option `task_bytes` cannot be `5 apples`; it takes bytes, as 1048576, 64MiB or 2GB"
        );
        assert_eq!(error("tasks"), "`tasks` is not of the form key=value");
    }
}
