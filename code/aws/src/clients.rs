//! AWS's clients and what else is made once per process.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use buzz_protocol::QueryError;
use buzz_storage::Storage;
use lambda_runtime::Diagnostic;

use crate::counting::CountingStore;

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

/// Share of a process's memory that sorts, joins and aggregates may fill. The rest is for decoded batches on their way,
/// connections and code.
pub const POOL_PERCENT: u64 = 60;

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Storage for one process, and the number of requests to it so far.
pub fn counting_storage() -> (Storage, Arc<AtomicU64>) {
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    let storage = Storage::with_wrapper(move |store| Arc::new(CountingStore::new(store, Arc::clone(&counted))));
    (storage, requests)
}

/// A failed event, as a Lambda function says it.
pub fn failed(error: &QueryError) -> Diagnostic {
    Diagnostic { error_type: error.kind.to_string(), error_message: error.to_string() }
}
