//! The wall clock of the stand-ins, which use no other crate of Buzz.

use std::time::SystemTime;

/// Returns the current time.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
