//! The values that the options accept, however they were set.

use arrow::array::timezone::Tz;

use crate::options::misfit;
use crate::{Options, Result};

/// Maximum of an option that is a number of bytes: 1 EiB, so that sums of several fit 64 bits.
const BYTES_MAX: u64 = 1 << 60;

/// Maximum of an option that counts tasks, attempts or a multiple.
const COUNT_MAX: u64 = 1_000_000;

/// Maximum rows of a batch. A buffer for so many rows is allocated for each column, whatever the number of rows.
const BATCH_ROWS_MAX: u64 = 1 << 20;

impl Options {
    /// Checks that each option has a value that it accepts. Options from JSON were not checked by [`Options::set`].
    ///
    /// # Errors
    /// `Invalid` that names the first option with another value.
    pub fn check(&self) -> Result<()> {
        for (key, value, least, most) in self.numbers() {
            if value < least || value > most {
                return Err(misfit(key, &value.to_string(), &format!("a whole number from {least} to {most}")));
            }
        }
        if let Some(zone) = &self.time_zone
            && zone.parse::<Tz>().is_err()
        {
            return Err(misfit("time_zone", zone, "a zone such as Europe/Paris or +02:00"));
        }
        match self.max_cost_usd.map(f64::from) {
            Some(amount) if amount <= 0.0 => {
                Err(misfit("max_cost_usd", &amount.to_string(), "US dollars above 0, such as 0.25"))
            }
            _ => Ok(()),
        }
    }

    /// Returns each option that is a number: its key, its value, and the least and the largest value that it accepts.
    fn numbers(&self) -> [(&'static str, u64, u64, u64); 18] {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        [
            ("tasks", count(self.tasks), 0, COUNT_MAX),
            ("task_bytes", self.task_bytes, 1, BYTES_MAX),
            ("split_bytes", self.split_bytes, 1, BYTES_MAX),
            ("build_bytes", self.build_bytes, 0, BYTES_MAX),
            ("concurrency", count(self.concurrency), 0, COUNT_MAX),
            ("attempts", u64::from(self.attempts), 1, COUNT_MAX),
            ("straggler_factor", u64::from(self.straggler_factor), 0, COUNT_MAX),
            ("inbox_memory_bytes", self.inbox_memory_bytes, 1, BYTES_MAX),
            ("inbox_disk_bytes", self.inbox_disk_bytes, 1, BYTES_MAX),
            ("max_tasks", count(self.max_tasks), 1, u64::MAX),
            ("max_scan_bytes", self.max_scan_bytes, 0, u64::MAX),
            ("max_result_bytes", self.max_result_bytes, 1, BYTES_MAX),
            ("max_manifest_bytes", self.max_manifest_bytes, 1, BYTES_MAX),
            ("memory_bytes", self.memory_bytes, 1, BYTES_MAX),
            ("timeout_seconds", self.timeout_seconds, 1, u64::MAX),
            ("batch_size", count(self.batch_size), 1, BATCH_ROWS_MAX),
            ("timeline_attempts", count(self.timeline_attempts), 0, COUNT_MAX),
            ("reuse_bytes", self.reuse_bytes, 1, BYTES_MAX),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_of_json_have_the_bounds_of_options_that_are_set() {
        let of = |value: serde_json::Value| serde_json::from_value::<Options>(value).unwrap().check();
        of(json!({"batch_size": 1_048_576, "time_zone": "Europe/Paris", "max_cost_usd": 0.25, "tasks": 0})).unwrap();
        let wrong = [
            (
                json!({"batch_size": 1_048_577}),
                "`batch_size` cannot be `1048577`; use a whole number from 1 to 1048576",
            ),
            (json!({"batch_size": 0}), "`batch_size` cannot be `0`"),
            (json!({"batch_size": u64::MAX}), "`batch_size`"),
            (json!({"tasks": u64::MAX}), "`tasks`"),
            (json!({"memory_bytes": u64::MAX}), "`memory_bytes`"),
            (json!({"attempts": 0}), "`attempts`"),
            (json!({"timeout_seconds": 0}), "`timeout_seconds`"),
            (json!({"time_zone": "Mars"}), "`time_zone` cannot be `Mars`; use a zone such as"),
            (json!({"max_cost_usd": -1}), "`max_cost_usd` cannot be `0`; use US dollars above 0"),
        ];
        for (options, words) in wrong {
            let error = of(options.clone()).unwrap_err().to_string();
            assert!(error.contains(words), "{options}: {error}");
        }
        for assignment in ["batch_size=1048577", "batch_size=0", "tasks=1000001", "memory_bytes=2000000000GB"] {
            let error = Options::default().set(assignment).unwrap_err().to_string();
            assert!(error.contains(&assignment[..assignment.find('=').unwrap()]), "{assignment}: {error}");
        }
    }
}
