//! Resources of a query: those that it is expected to use, those that it used, and their cost.

use std::fmt;
use std::ops::Sub;

use buzz_protocol::{Requests, human_bytes};
use serde::{Deserialize, Serialize};

/// A quantity that is known within bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Between<T> {
    /// The least that is expected.
    pub low: T,
    /// The most that is expected if nothing fails.
    pub high: T,
}

/// Resources that a query is expected to use, computed from its plan before anything runs.
///
/// Bytes and requests are those of a run in which no HBee has read a footer before and no task is tried twice. A `LIMIT`
/// may end a query earlier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Bytes that the scans of all tasks read: the columns that the plan needs, of the row groups and pages that pass its
    /// conditions. Compares with [`Summary::bytes_read`](crate::Summary::bytes_read).
    pub bytes: u64,
    /// Requests to buckets, of planning and of all tasks.
    pub requests: u64,
    /// Tasks: those that read files, and those that are expected to reduce rows in objects.
    pub tasks: u64,
    /// Seconds from the question to the answer.
    pub seconds: Between<f64>,
    /// US dollars at list prices; zero on one machine, where nothing is billed. The high bound includes what the query may
    /// start.
    pub dollars: Between<f64>,
}

impl fmt::Display for Estimate {
    /// Writes `4 tasks read 1.2 MB with 30 requests in 0.4 to 2.1 s, for $0.000012 to $0.000056`. Requests and dollars are
    /// left out where there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = if self.tasks == 1 { "1 task reads".to_string() } else { format!("{} tasks read", self.tasks) };
        write!(f, "{tasks} {}", human_bytes(self.bytes))?;
        match self.requests {
            0 => {}
            1 => write!(f, " with 1 request")?,
            requests => write!(f, " with {requests} requests")?,
        }
        write!(f, " in {:.1} to {:.1} s", self.seconds.low, self.seconds.high)?;
        if self.dollars.high > 0.0 {
            write!(f, ", for ${:.6} to ${:.6}", self.dollars.low, self.dollars.high)?;
        }
        Ok(())
    }
}

/// Resources that a query used so far, or is expected to use. Each has a price on a stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Milliseconds of all attempts of tasks, summed.
    pub task_milliseconds: u64,
    /// Attempts of tasks that ran.
    pub invocations: u64,
    /// Milliseconds of Fuse.
    pub fuse_milliseconds: u64,
    /// Milliseconds for which combs were reserved for the query, summed over combs.
    pub comb_milliseconds: u64,
    /// Combs that were started for the query.
    pub starts: CombStarts,
    /// Requests to buckets.
    pub requests: Requests,
}

/// Starts of combs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CombStarts {
    /// Combs that were started.
    pub combs: u64,
    /// Milliseconds from their starts until the query could use them, summed over combs.
    pub milliseconds: u64,
}

impl Sub for CombStarts {
    type Output = Self;

    /// Subtracts an earlier count of the same starts.
    fn sub(self, earlier: Self) -> Self {
        Self {
            combs: self.combs.saturating_sub(earlier.combs),
            milliseconds: self.milliseconds.saturating_sub(earlier.milliseconds),
        }
    }
}

/// Cost of a query, in US dollars at list prices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Cost of the query's own work: functions, requests, and the time in which combs were reserved for it.
    pub own_usd: f64,
    /// Cost of combs that were started for the query, apart from its own work: from their start until they could be used, and
    /// the idle time after which they stop. Later queries within that time share them.
    pub started_usd: f64,
}

impl Cost {
    /// Returns the sum.
    pub fn total_usd(&self) -> f64 {
        self.own_usd + self.started_usd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimate_is_one_line_without_what_is_not_billed() {
        let local = Estimate {
            bytes: 3 << 20,
            requests: 0,
            tasks: 1,
            seconds: Between { low: 0.04, high: 1.26 },
            dollars: Between::default(),
        };
        assert_eq!(local.to_string(), "1 task reads 3.1 MB in 0.0 to 1.3 s");
        let billed = Estimate { requests: 30, tasks: 4, dollars: Between { low: 0.000_012, high: 0.05 }, ..local };
        assert_eq!(
            billed.to_string(),
            "4 tasks read 3.1 MB with 30 requests in 0.0 to 1.3 s, for $0.000012 to $0.050000"
        );
        let json = serde_json::to_value(billed).unwrap();
        assert_eq!(json["seconds"]["low"], 0.04);
        assert_eq!(json["dollars"]["high"], 0.05);
        assert_eq!((&json["bytes"], &json["requests"], &json["tasks"]), (&(3 << 20).into(), &30.into(), &4.into()));
        assert_eq!(json.as_object().unwrap().len(), 5);
    }
}
