//! Lookup of a bucket's region.

use std::time::Duration;

use ::http::{Method, Request};
use object_store::ClientOptions;
use object_store::client::{HttpConnector, HttpRequestBody, ReqwestConnector};

/// Timeout of the lookup. Without a response, the environment's region is used.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests the region of `bucket` from S3 at `host`. Returns `None` if S3 does not respond. Every response has the
/// header, including those that deny access or redirect to another region
/// ([HeadBucket](https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html)).
pub(crate) async fn find(host: &str, bucket: &str) -> Option<String> {
    let options = ClientOptions::new().with_timeout(PATIENCE).with_connect_timeout(PATIENCE).with_allow_http(true);
    let client = ReqwestConnector::default().connect(&options).ok()?;
    let request = Request::builder().method(Method::HEAD).uri(format!("{host}/{bucket}"));
    let response = client.execute(request.body(HttpRequestBody::empty()).ok()?).await.ok()?;
    let region = response.headers().get("x-amz-bucket-region")?.to_str().ok()?;
    is_name(region).then(|| region.to_string())
}

/// Returns true if `region` has the form of a region's name. A region becomes part of a host name.
pub(crate) fn is_name(region: &str) -> bool {
    !region.is_empty() && region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Returns the message about a region that is not one.
pub(crate) fn not_a_name(region: &str) -> String {
    format!("`{region}` is not the name of a region, such as us-east-1")
}

/// Returns the domain of AWS in `region`, which depends on its partition.
pub(crate) fn suffix(region: &str) -> &'static str {
    match region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

/// Returns the URL of S3 for region lookups: of the process's own region, since each region knows the buckets of all regions of
/// its partition, and others are far away. On a network without outgoing IPv4, only the dual-stack host (IPv4 and IPv6) is
/// reachable.
pub(crate) fn default_host() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let dual_stack = variable("AWS_USE_DUALSTACK_ENDPOINT").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let own = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")).filter(|region| is_name(region));
    host(own.as_deref().unwrap_or("us-east-1"), dual_stack)
}

fn host(region: &str, dual_stack: bool) -> String {
    let kind = if dual_stack { "s3.dualstack" } else { "s3" };
    format!("https://{kind}.{region}.{}", suffix(region))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn regions_are_asked_for_in_the_own_region() {
        assert_eq!(host("eu-west-1", false), "https://s3.eu-west-1.amazonaws.com");
        assert_eq!(host("us-east-2", true), "https://s3.dualstack.us-east-2.amazonaws.com");
        assert_eq!(host("cn-north-1", true), "https://s3.dualstack.cn-north-1.amazonaws.com.cn");
        assert!(default_host().starts_with("https://s3."));
    }

    #[tokio::test]
    async fn region_is_read_from_any_response() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let length = stream.read(&mut asked).await.unwrap();
            let answer = "HTTP/1.1 403 Forbidden\r\nx-amz-bucket-region: eu-west-1\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        assert_eq!(find(&host, "lake").await.as_deref(), Some("eu-west-1"));
        assert!(served.await.unwrap().starts_with("HEAD /lake HTTP/1.1"));
        assert_eq!(find(&host, "lake").await, None);
    }
}
