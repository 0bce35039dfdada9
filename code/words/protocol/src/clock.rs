//! The wall clock. Every other module takes the time from here, or as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the current time.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns the current time in milliseconds since 1970.
pub fn now_ms() -> u64 {
    milliseconds(now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Returns `time` in whole milliseconds.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
