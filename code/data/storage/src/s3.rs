//! S3 buckets as object stores.

use buzz_protocol::{BucketOptions, NO_USER_INFO, QueryError, Result, without_user_info};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::{ClientConfigKey, RetryConfig};
use url::Url;

use crate::http::StoreConnector;
use crate::{RETRIES, RETRY_TIMEOUT, region};

/// Creates the store of a bucket. `options` override the usual `AWS_` variables; `credentials`, if given, provide the
/// keys. With `AWS_USE_DUALSTACK_ENDPOINT=true` and no endpoint, it uses the dual-stack host: the other host is not
/// reachable on a network without outgoing IPv4.
///
/// # Errors
/// `Invalid` if the settings are incomplete or the endpoint is not a URL.
pub(crate) fn bucket(
    bucket: &str,
    options: &BucketOptions,
    credentials: Option<AwsCredentialProvider>,
) -> Result<AmazonS3> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    });
    builder = builder.with_http_connector(StoreConnector::default());
    if let Some(credentials) = credentials {
        builder = builder.with_credentials(credentials);
    }
    if let Some(region) = &options.region {
        if !region::is_name(region) {
            return Err(QueryError::invalid(region::not_a_name(region)));
        }
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
    if !endpoint.is_empty() {
        let url = checked_endpoint(&endpoint)?;
        builder = builder.with_allow_http(url.scheme() == "http");
        if options.path_style == Some(false) {
            builder = builder.with_endpoint(bucket_host(&url, bucket)?);
        }
    }
    let dual_stack = std::env::var("AWS_USE_DUALSTACK_ENDPOINT").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    if endpoint.is_empty() && dual_stack && !region.is_empty() {
        let (host, by_host) = dual_stack_host(bucket, &region);
        builder = builder.with_endpoint(host).with_virtual_hosted_style_request(by_host);
        // The system knows which family has a route. In another order, each second connection waits for one that has none.
        builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::RandomizeAddresses), "false");
    }
    builder.build().map_err(|error| QueryError::invalid(format!("bucket `{bucket}` cannot be read: {error}")))
}

/// Parses `endpoint`. Rejects a URL without host or with another scheme than `http` and `https`.
fn checked_endpoint(endpoint: &str) -> Result<Url> {
    if let Some(redacted) = without_user_info(endpoint) {
        return Err(QueryError::invalid(format!("the endpoint `{redacted}` {NO_USER_INFO}")));
    }
    let wrong =
        || QueryError::invalid(format!("the endpoint `{endpoint}` is not a URL; write it as http://localhost:9000"));
    let url = Url::parse(endpoint).map_err(|_| wrong())?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() { Ok(url) } else { Err(wrong()) }
}

/// Returns `endpoint` with `bucket` as the first label of its host.
fn bucket_host(endpoint: &Url, bucket: &str) -> Result<String> {
    let host = endpoint.host_str().unwrap_or_default();
    let mut url = endpoint.clone();
    if !host.starts_with(&format!("{bucket}.")) {
        url.set_host(Some(&format!("{bucket}.{host}"))).map_err(|_| {
            QueryError::invalid(format!(
                "bucket `{bucket}` cannot be put in front of the host `{host}`; set `path_style` to true"
            ))
        })?;
    }
    Ok(url.as_str().trim_end_matches('/').to_string())
}

/// Returns true if `options` or the environment set an endpoint, that is, a service other than S3.
pub(crate) fn has_endpoint(options: &BucketOptions) -> bool {
    let builder = AmazonS3Builder::from_env();
    let keys = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    options.endpoint.is_some()
        || keys.iter().any(|key| builder.get_config_value(key).is_some_and(|url| !url.is_empty()))
}

/// Returns the dual-stack endpoint (IPv4 and IPv6) of a bucket, and true if its host contains the bucket's name. A name
/// with dots cannot be in the host, because S3's certificate does not cover it.
/// [Documented here](https://docs.aws.amazon.com/AmazonS3/latest/API/dual-stack-endpoints.html).
fn dual_stack_host(bucket: &str, region: &str) -> (String, bool) {
    let suffix = region::suffix(region);
    match bucket.contains('.') {
        false => (format!("https://{bucket}.s3.dualstack.{region}.{suffix}"), true),
        true => (format!("https://s3.dualstack.{region}.{suffix}"), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dual_stack_host_contains_bucket_without_dots() {
        let host = |bucket, region| dual_stack_host(bucket, region);
        assert_eq!(host("lake", "us-east-2"), ("https://lake.s3.dualstack.us-east-2.amazonaws.com".to_string(), true));
        assert_eq!(host("my.lake", "eu-west-1"), ("https://s3.dualstack.eu-west-1.amazonaws.com".to_string(), false));
        assert_eq!(host("l", "cn-north-1").0, "https://l.s3.dualstack.cn-north-1.amazonaws.com.cn");
        assert_eq!(host("l", "eusc-de-east-1").0, "https://l.s3.dualstack.eusc-de-east-1.amazonaws.eu");
    }

    #[test]
    fn endpoint_must_be_a_url_and_may_contain_the_bucket() {
        let told =
            |endpoint: &str| checked_endpoint(endpoint).map(|url| url.to_string()).map_err(|error| error.message);
        assert_eq!(told("http://localhost:9000").unwrap(), "http://localhost:9000/");
        for wrong in ["localhost:9000", "127.0.0.1:9000", "minio", "ftp://host", "http://"] {
            assert!(told(wrong).unwrap_err().contains(&format!("the endpoint `{wrong}` is not a URL")));
        }
        for keyed in ["http://KEY:SECRET@localhost:9000", "http://KEY:SEC/RET@localhost:9000"] {
            let told = told(keyed).unwrap_err();
            assert!(
                told.contains("`http://***` contains a user name, keys or a port") && !told.contains("SEC"),
                "{told}"
            );
        }
        let named = |endpoint: &str| bucket_host(&checked_endpoint(endpoint).unwrap(), "lake");
        assert_eq!(named("https://s3.example.com").unwrap(), "https://lake.s3.example.com");
        assert_eq!(named("https://lake.s3.example.com:9000").unwrap(), "https://lake.s3.example.com:9000");
        assert!(named("http://127.0.0.1:9000").unwrap_err().message.contains("in front of the host `127.0.0.1`"));
    }
}
