//! The wall clock. Every other module takes the time from here, or as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the current time.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns the current time in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
