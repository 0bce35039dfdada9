//! The semantics of S3 on which Buzz relies.

use buzz_localcloud::s3::Shape;
use buzz_localcloud::upload::{Uploaded, client, upload};
use buzz_localcloud::{ACCESS_KEY, REGION, SECRET_KEY};
use bytes_of::bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, UpdateVersion,
    WriteMultipart,
};

use crate::clients::{Cloud, Sizes, start};

mod bytes_of {
    use object_store::{ObjectStore, Result};

    pub(super) async fn bytes(
        store: &impl ObjectStore,
        key: &str,
        options: object_store::GetOptions,
    ) -> Result<Vec<u8>> {
        Ok(store.get_opts(&key.into(), options).await?.bytes().await?.to_vec())
    }
}

fn store(cloud: &Cloud) -> AmazonS3 {
    client(&cloud.cloud.endpoint, "bucket").unwrap()
}

fn kind<T: std::fmt::Debug>(result: object_store::Result<T>) -> &'static str {
    match result.expect_err("it fails") {
        Error::NotFound { .. } => "not found",
        Error::AlreadyExists { .. } => "already exists",
        Error::Precondition { .. } => "precondition",
        Error::NotModified { .. } => "not modified",
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => "denied",
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn objects_are_read_whole_and_by_range() {
    let cloud = start(Sizes::default()).await;
    let store = store(&cloud);
    store.put(&"a/b=1%2F2/c".into(), "0123456789".into()).await.unwrap();
    let range = |range: GetRange| GetOptions { range: Some(range), ..GetOptions::default() };
    assert_eq!(bytes(&store, "a/b=1%2F2/c", GetOptions::default()).await.unwrap(), b"0123456789");
    assert_eq!(bytes(&store, "a/b=1%2F2/c", range(GetRange::Bounded(2..5))).await.unwrap(), b"234");
    assert_eq!(bytes(&store, "a/b=1%2F2/c", range(GetRange::Offset(7))).await.unwrap(), b"789");
    assert_eq!(bytes(&store, "a/b=1%2F2/c", range(GetRange::Suffix(3))).await.unwrap(), b"789");
    assert_eq!(bytes(&store, "a/b=1%2F2/c", range(GetRange::Suffix(30))).await.unwrap(), b"0123456789");
    assert_eq!(store.head(&"a/b=1%2F2/c".into()).await.unwrap().size, 10);
}

#[tokio::test]
async fn missing_object_or_bucket_returns_not_found() {
    let cloud = start(Sizes::default()).await;
    let store = store(&cloud);
    store.put(&"folder/file".into(), "x".into()).await.unwrap();
    assert_eq!(kind(store.head(&"nothing".into()).await), "not found");
    assert_eq!(kind(store.get(&"nothing".into()).await), "not found");
    assert_eq!(kind(store.head(&"folder".into()).await), "not found", "a folder of objects is not an object");
    assert_eq!(kind(store.get(&"folder".into()).await), "not found");
    let elsewhere = client(&cloud.cloud.endpoint, "no-such-bucket").unwrap();
    assert_eq!(kind(elsewhere.get(&"x".into()).await), "not found");
    assert_eq!(kind(elsewhere.put(&"x".into(), "x".into()).await), "not found");
    store.delete(&"folder/file".into()).await.unwrap();
    assert_eq!(kind(store.head(&"folder/file".into()).await), "not found");
}

#[tokio::test]
async fn concurrent_creates_have_one_winner() {
    let cloud = start(Sizes::default()).await;
    let store = store(&cloud);
    let create = async |text: String| store.put_opts(&"once".into(), text.into(), PutMode::Create.into()).await;
    let results = futures::future::join_all((0..32).map(|n| create(format!("writer {n}")))).await;
    let winners: Vec<usize> = (0..32).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1);
    let text = bytes(&store, "once", GetOptions::default()).await.unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), format!("writer {}", winners[0]));
    assert_eq!(kind(create("late".to_string()).await), "already exists");
}

#[tokio::test]
async fn concurrent_conditional_updates_have_one_winner() {
    let cloud = start(Sizes::default()).await;
    let store = store(&cloud);
    let tag = store.put(&"state".into(), "0".into()).await.unwrap().e_tag;
    let replace = async |text: String| {
        let mode = PutMode::Update(UpdateVersion { e_tag: tag.clone(), version: None });
        store.put_opts(&"state".into(), text.into(), PutOptions::from(mode)).await
    };
    let results = futures::future::join_all((1..33).map(|n| replace(n.to_string()))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(kind(replace("late".to_string()).await), "precondition");
}

#[tokio::test]
async fn conditional_reads_check_the_etag() {
    let cloud = start(Sizes::default()).await;
    let store = store(&cloud);
    let tag = store.put(&"a".into(), "x".into()).await.unwrap().e_tag;
    let matching = |if_match, if_none_match| GetOptions { if_match, if_none_match, ..GetOptions::default() };
    let other = Some("\"00\"".to_string());
    assert!(store.get_opts(&"a".into(), matching(tag.clone(), None)).await.is_ok());
    assert_eq!(kind(store.get_opts(&"a".into(), matching(other.clone(), None)).await), "precondition");
    assert_eq!(kind(store.get_opts(&"a".into(), matching(None, tag)).await), "not modified");
    assert!(store.get_opts(&"a".into(), matching(None, other)).await.is_ok());
}

#[tokio::test]
async fn multipart_upload_is_visible_only_after_completion() {
    let cloud = start(Sizes::default()).await;
    let store = store(&cloud);
    let part = vec![7_u8; 5 << 20];
    let mut writer = WriteMultipart::new(store.put_multipart(&"large".into()).await.unwrap());
    writer.write(&part);
    writer.write(&part);
    writer.write(b"end");
    assert_eq!(kind(store.head(&"large".into()).await), "not found");
    writer.finish().await.unwrap();
    assert_eq!(store.head(&"large".into()).await.unwrap().size, (10 << 20) + 3);
    let mut upload = store.put_multipart(&"given-up".into()).await.unwrap();
    upload.put_part(part.into()).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(kind(store.head(&"given-up".into()).await), "not found");
}

#[tokio::test]
async fn wrong_signature_is_denied_for_requests_and_presigned_urls() {
    let cloud = start(Sizes::default()).await;
    let ours = store(&cloud);
    ours.put(&"a".into(), "secret".into()).await.unwrap();
    let theirs = AmazonS3Builder::new()
        .with_endpoint(&cloud.cloud.endpoint)
        .with_allow_http(true)
        .with_region("us-east-2")
        .with_bucket_name("bucket")
        .with_access_key_id("AKIALOCAL")
        .with_secret_access_key(format!("not {SECRET_KEY}"))
        .build()
        .unwrap();
    assert_eq!(kind(theirs.get(&"a".into()).await), "denied");

    let link =
        ours.signed_url("GET".parse().unwrap(), &Path::from("a"), std::time::Duration::from_secs(60)).await.unwrap();
    let fetch = async |url: String| {
        let script = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())";
        let output = tokio::process::Command::new("python3").args(["-c", script, &url]).output().await.unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(fetch(link.to_string()).await.as_deref(), Some("secret"));
    assert_eq!(fetch(link.as_str().replace("bucket/a", "bucket/b")).await, None);
}

#[tokio::test]
async fn second_upload_skips_existing_files() {
    let cloud = start(Sizes::default()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("_delta_log")).unwrap();
    std::fs::create_dir_all(folder.path().join("day=2009-01-01")).unwrap();
    std::fs::write(folder.path().join("_delta_log/0.json"), "{}").unwrap();
    std::fs::write(folder.path().join("day=2009-01-01/a.parquet"), "PAR1").unwrap();
    let once = upload(&cloud.cloud.endpoint, folder.path(), "s3://bucket/t").await.unwrap();
    assert_eq!(once, Uploaded { sent: 2, kept: 0 });
    let again = upload(&cloud.cloud.endpoint, folder.path(), "s3://bucket/t/").await.unwrap();
    assert_eq!(again, Uploaded { sent: 0, kept: 2 });
    let listed = store(&cloud).list_with_delimiter(Some(&"t".into())).await.unwrap();
    assert_eq!(listed.common_prefixes, [Path::from("t/_delta_log"), Path::from("t/day=2009-01-01")]);
    let wrong = upload(&cloud.cloud.endpoint, folder.path(), "bucket/t").await.unwrap_err();
    assert!(wrong.to_string().contains("s3://bucket/prefix"), "{wrong}");
}

#[tokio::test]
async fn aws_cli_copies_objects_and_reads_bucket_region() {
    let cloud = start(Sizes::default()).await;
    std::fs::write(cloud.path("file"), vec![1_u8; 9 << 20]).unwrap();
    cloud.aws(&["s3", "cp", "file", "s3://bucket/a/file"]).await.unwrap();
    assert!(cloud.aws(&["s3", "ls", "s3://bucket/a/"]).await.unwrap().contains("9437184 file"));
    cloud.aws(&["s3", "cp", "s3://bucket/a/file", "back"]).await.unwrap();
    assert_eq!(std::fs::metadata(cloud.path("back")).unwrap().len(), 9 << 20);
    let head = cloud.aws(&["s3api", "head-bucket", "--bucket", "bucket"]).await.unwrap();
    assert!(head.contains(r#""BucketRegion": "us-east-2""#), "{head}");
    let refused = cloud.aws(&["s3api", "head-object", "--bucket", "bucket", "--key", "nothing"]).await.unwrap_err();
    assert!(refused.contains("404"), "{refused}");
}

#[tokio::test]
async fn part_of_the_requests_is_refused() {
    let cloud = start(Sizes::default()).await;
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let builder =
        AmazonS3Builder::new().with_bucket_name("bucket").with_endpoint(&cloud.cloud.endpoint).with_retry(retry);
    let builder = builder.with_access_key_id(ACCESS_KEY).with_secret_access_key(SECRET_KEY).with_allow_http(true);
    let store = builder.with_region(REGION).build().unwrap();
    store.put(&"a".into(), "x".into()).await.unwrap();
    cloud.cloud.s3.set_shape(Shape { refused_percent: 100, ..Shape::default() });
    let refused = store.get(&"a".into()).await.unwrap_err().to_string();
    assert!(refused.contains("SlowDown") || refused.contains("503"), "{refused}");
    cloud.cloud.s3.set_shape(Shape { refused_percent: 50, ..Shape::default() });
    let mut read = 0;
    for _ in 0..64 {
        read += usize::from(store.get(&"a".into()).await.is_ok());
    }
    assert!((1..64).contains(&read), "{read} of 64");
}
