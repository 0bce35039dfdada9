//! Temporary keys of functions, and the name of the endpoint.

use std::time::Duration;

use aws_sdk_lambda::error::ProvideErrorMetadata;
use aws_sdk_lambda::primitives::Blob;
use buzz_localcloud::REGION;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ObjectStoreExt, RetryConfig};
use serde_json::Value;

use crate::clients::{Cloud, Sizes, start};

/// Returns the environment of the instance that answers an invocation.
async fn environment(cloud: &Cloud) -> Value {
    let invoked = cloud.lambda().await.invoke().function_name("echo").payload(Blob::new("{}")).send().await.unwrap();
    let answer: Value = serde_json::from_slice(invoked.payload().unwrap().as_ref()).unwrap();
    answer["environment"].clone()
}

/// Returns the bucket as the keys of `environment` reach it, with another session token if `token` is given.
fn store(cloud: &Cloud, environment: &Value, token: Option<&str>) -> AmazonS3 {
    let value = |name: &str| environment[name].as_str().unwrap().to_string();
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let builder = AmazonS3Builder::new().with_endpoint(&cloud.cloud.endpoint).with_allow_http(true).with_retry(retry);
    let builder = builder.with_region(REGION).with_bucket_name("bucket").with_access_key_id(value("AWS_ACCESS_KEY_ID"));
    let token = token.map_or_else(|| value("AWS_SESSION_TOKEN"), str::to_string);
    builder.with_secret_access_key(value("AWS_SECRET_ACCESS_KEY")).with_token(token).build().unwrap()
}

async fn refusal(store: &AmazonS3) -> String {
    store.get(&"a".into()).await.unwrap_err().to_string()
}

/// Returns the text at a link; `None` if it is refused.
async fn fetched(url: &str) -> Option<String> {
    let script = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())";
    let output = tokio::process::Command::new("python3").args(["-c", script, url]).output().await.unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn function_has_temporary_keys_until_they_expire() {
    let cloud = start(Sizes::default()).await;
    let first = environment(&cloud).await;
    assert!(first["AWS_ACCESS_KEY_ID"].as_str().unwrap().starts_with("ASIA"), "{first}");
    let own = store(&cloud, &first, None);
    own.put(&"a".into(), "text".into()).await.unwrap();
    assert_eq!(own.get(&"a".into()).await.unwrap().bytes().await.unwrap().as_ref(), b"text");
    let other_token = refusal(&store(&cloud, &first, Some("another"))).await;
    assert!(other_token.contains("InvalidToken"), "{other_token}");

    let link = own.signed_url("GET".parse().unwrap(), &Path::from("a"), Duration::from_secs(60)).await.unwrap();
    assert!(link.query().unwrap().contains("X-Amz-Security-Token="), "{link}");
    assert_eq!(fetched(link.as_str()).await.as_deref(), Some("text"));
    let without = link.as_str().replace("X-Amz-Security-Token=", "X-Other=");
    assert_eq!(fetched(&without).await, None);

    cloud.cloud.keys.expire();
    let expired = refusal(&own).await;
    assert!(expired.contains("ExpiredToken"), "{expired}");
    assert_eq!(fetched(link.as_str()).await, None, "a link ends with the keys that signed it");
    let second = environment(&cloud).await;
    assert_ne!(second["AWS_ACCESS_KEY_ID"], first["AWS_ACCESS_KEY_ID"], "another instance has other keys");
    assert_eq!(store(&cloud, &second, None).get(&"a".into()).await.unwrap().meta.size, 4);
}

#[tokio::test]
async fn expired_keys_are_refused_by_lambda() {
    let cloud = start(Sizes::default()).await;
    let keys = environment(&cloud).await;
    let value = |name: &str| keys[name].as_str().unwrap().to_string();
    let call = async || {
        let token = Some(value("AWS_SESSION_TOKEN"));
        let keys = aws_sdk_lambda::config::Credentials::new(
            value("AWS_ACCESS_KEY_ID"),
            value("AWS_SECRET_ACCESS_KEY"),
            token,
            None,
            "test",
        );
        let config = aws_sdk_lambda::config::Builder::new()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(REGION))
            .endpoint_url(&cloud.cloud.endpoint)
            .credentials_provider(keys);
        let client = aws_sdk_lambda::Client::from_conf(config.build());
        client.invoke().function_name("echo").payload(Blob::new("{}")).send().await
    };
    assert_eq!(call().await.unwrap().status_code(), 200);
    cloud.cloud.keys.expire();
    let refused = call().await.unwrap_err();
    assert_eq!(refused.code(), Some("ExpiredTokenException"), "{refused:?}");
}

#[tokio::test]
async fn endpoint_can_have_a_name() {
    let cloud = start(Sizes { host: Some("localhost".to_string()), ..Sizes::default() }).await;
    assert!(cloud.cloud.endpoint.starts_with("http://localhost:"), "{}", cloud.cloud.endpoint);
    let keys = environment(&cloud).await;
    assert_eq!(keys["AWS_ENDPOINT_URL"], cloud.cloud.endpoint.as_str());
    store(&cloud, &keys, None).put(&"a".into(), "x".into()).await.unwrap();
}
