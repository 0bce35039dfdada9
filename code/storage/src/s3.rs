//! Buckets of S3.

use buzz_protocol::{QueryError, Result};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};

use crate::{RETRIES, RETRY_TIMEOUT};

/// A bucket in `region`, or in that of the environment. Credentials, region and endpoint come from the usual `AWS_`
/// variables. With `AWS_USE_DUALSTACK_ENDPOINT=true` and no endpoint, it is reached by the host that has IPv6 addresses
/// too: the other one does not answer where there is no way out for IPv4.
///
/// # Errors
/// `Invalid` when the settings are not complete.
pub(crate) fn bucket(bucket: &str, region: Option<&str>) -> Result<AmazonS3> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    });
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    let value = |key| builder.get_config_value(&key).unwrap_or_default();
    let endpoint = match value(AmazonS3ConfigKey::S3Endpoint) {
        endpoint if endpoint.is_empty() => value(AmazonS3ConfigKey::Endpoint),
        endpoint => endpoint,
    };
    let region = match value(AmazonS3ConfigKey::Region) {
        region if region.is_empty() => value(AmazonS3ConfigKey::DefaultRegion),
        region => region,
    };
    if endpoint.starts_with("http://") {
        builder = builder.with_allow_http(true);
    }
    let dual_stack = std::env::var("AWS_USE_DUALSTACK_ENDPOINT").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    if endpoint.is_empty() && dual_stack && !region.is_empty() {
        let (host, by_host) = dual_stack_host(bucket, &region);
        builder = builder.with_endpoint(host).with_virtual_hosted_style_request(by_host);
    }
    builder.build().map_err(|error| QueryError::invalid(format!("bucket `{bucket}` cannot be read: {error}")))
}

/// The endpoint of a bucket by IPv6 and IPv4, and whether it names the bucket. A name with dots is no part of a host that
/// a certificate covers.
/// [Documented here](https://docs.aws.amazon.com/AmazonS3/latest/API/dual-stack-endpoints.html).
fn dual_stack_host(bucket: &str, region: &str) -> (String, bool) {
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    match bucket.contains('.') {
        false => (format!("https://{bucket}.s3.dualstack.{region}.{suffix}"), true),
        true => (format!("https://s3.dualstack.{region}.{suffix}"), false),
    }
}

#[cfg(test)]
mod tests {
    use super::dual_stack_host;

    #[test]
    fn buckets_have_a_host_of_both_families() {
        let host = |bucket, region| dual_stack_host(bucket, region);
        assert_eq!(host("lake", "us-east-2"), ("https://lake.s3.dualstack.us-east-2.amazonaws.com".to_string(), true));
        assert_eq!(host("my.lake", "eu-west-1"), ("https://s3.dualstack.eu-west-1.amazonaws.com".to_string(), false));
        assert_eq!(host("l", "cn-north-1").0, "https://l.s3.dualstack.cn-north-1.amazonaws.com.cn");
    }
}
