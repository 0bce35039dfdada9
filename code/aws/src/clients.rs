//! Configuration of the AWS clients, created once per process.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// Maximum time to connect to AWS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
