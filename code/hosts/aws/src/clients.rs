//! Configuration of the AWS clients, created once per process.

use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use parking_lot::Mutex;

/// Maximum time to connect to AWS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time for one answer to a call that computes nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time for such a call with its repeats.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Milliseconds without a call after which connections are opened again. A function that slept for as long may have lost its
/// connections without a notice: requests over them would wait for minutes.
pub(crate) const PAUSE_MS: u64 = 30_000;

/// Returns the timeouts of calls that only ask or submit: 5 seconds for an answer, 15 with repeats.
pub fn short_timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(ANSWER_TIMEOUT)
        .operation_attempt_timeout(ANSWER_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build()
}

/// A client whose connections are opened again after a pause.
pub struct Renewed<Client> {
    make: Box<dyn Fn() -> Client + Send + Sync>,
    /// The client, and the time of its last use in milliseconds since 1970.
    kept: Mutex<(Client, u64)>,
}

impl<Client> fmt::Debug for Renewed<Client> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

impl<Client: Clone> Renewed<Client> {
    /// Makes the first client. Each client that `make` returns must have connections of its own.
    pub fn new(make: impl Fn() -> Client + Send + Sync + 'static) -> Self {
        let first = (make(), buzz_protocol::now_ms());
        Self { make: Box::new(make), kept: Mutex::new(first) }
    }

    /// Returns the client for a call that begins now.
    pub fn now(&self) -> Client {
        self.at(buzz_protocol::now_ms())
    }

    fn at(&self, now_ms: u64) -> Client {
        let mut kept = self.kept.lock();
        if now_ms.saturating_sub(kept.1) > PAUSE_MS {
            kept.0 = (self.make)();
        }
        kept.1 = now_ms;
        Client::clone(&kept.0)
    }
}

/// Loads region, credentials and endpoint from the standard files and variables, such as `AWS_USE_DUALSTACK_ENDPOINT`.
/// `endpoint_url` overrides the endpoint. Requests time out after `read_timeout` and are not retried: only callers can
/// decide whether a retry is safe.
pub async fn sdk(read_timeout: Duration, endpoint_url: Option<&str>) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(read_timeout).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // An invocation can compute for minutes without sending a byte.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(url) = endpoint_url {
        loader = loader.endpoint_url(url);
    }
    loader.load().await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn client_is_made_again_after_a_pause_only() {
        let made = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&made);
        let client = Renewed::new(move || counted.fetch_add(1, Ordering::Relaxed));
        let start = client.kept.lock().1;
        assert_eq!((client.at(start), client.at(start + PAUSE_MS), client.at(start + 2 * PAUSE_MS)), (0, 0, 0));
        assert_eq!((client.at(start + 3 * PAUSE_MS + 1), client.at(start + 3 * PAUSE_MS + 2)), (1, 1));
        // A clock that is set back does not matter.
        assert_eq!((client.at(start), made.load(Ordering::Relaxed)), (1, 2));
    }
}
