//! How AWS's clients are set up, once per process.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// How long a connection to AWS may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Region, credentials and endpoint from the usual variables and files (`AWS_USE_DUALSTACK_ENDPOINT` among them), or the
/// endpoint at `endpoint_url`. An answer may take `read_timeout`. Nothing is tried again here: callers know what a
/// repetition means.
pub async fn sdk(read_timeout: Duration, endpoint_url: Option<&str>) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(read_timeout).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // An invocation that computes for minutes sends nothing meanwhile.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(url) = endpoint_url {
        loader = loader.endpoint_url(url);
    }
    loader.load().await
}
