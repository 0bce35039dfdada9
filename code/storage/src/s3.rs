//! Buckets of S3.

use buzz_protocol::{BucketOptions, QueryError, Result};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};

use crate::{RETRIES, RETRY_TIMEOUT};

/// A bucket that is reached as `options` say, or else as the usual `AWS_` variables do. With
/// `AWS_USE_DUALSTACK_ENDPOINT=true` and no endpoint, it is reached by the host that has IPv6 addresses too: the other one
/// does not answer where there is no way out for IPv4.
///
/// # Errors
/// `Invalid` when the settings are not complete.
pub(crate) fn bucket(bucket: &str, options: &BucketOptions) -> Result<AmazonS3> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    });
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(path_style) = options.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    if let Some(anonymous) = options.anonymous {
        builder = builder.with_skip_signature(anonymous);
    }
    if let Some(requester_pays) = options.requester_pays {
        builder = builder.with_request_payer(requester_pays);
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

/// Whether `options` or the environment name a service that is not at S3's own hosts.
pub(crate) fn has_endpoint(options: &BucketOptions) -> bool {
    let builder = AmazonS3Builder::from_env();
    let keys = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    options.endpoint.is_some()
        || keys.iter().any(|key| builder.get_config_value(key).is_some_and(|url| !url.is_empty()))
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
