//! Uploads folders to buckets.

use std::fs;
use std::path::{Path, PathBuf};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};

use futures::TryStreamExt;

use crate::{ACCESS_KEY, REGION, SECRET_KEY};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The outcome of an upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Number of files that were uploaded.
    pub sent: usize,
    /// Number of files that already existed with the same size.
    pub kept: usize,
}

/// Copies the files below `folder` to `s3://bucket/prefix` of the local cloud at `endpoint`. A Delta log is
/// uploaded last, so that the table never refers to a missing file.
///
/// # Errors
/// When the folder cannot be read, `to` is not an S3 location, or S3 rejects a request.
pub async fn upload(endpoint: &str, folder: &Path, to: &str) -> Result<Uploaded, Error> {
    let place = to.strip_prefix("s3://").ok_or_else(|| format!("`{to}` is not of the form s3://bucket/prefix"))?;
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let (store, prefix) = (client(endpoint, bucket)?, Key::parse(prefix.trim_end_matches('/'))?);
    let there: Vec<(Key, u64)> =
        store.list(Some(&prefix)).map_ok(|object| (object.location, object.size)).try_collect().await?;

    let mut files = Vec::new();
    find_files(folder, &mut files).map_err(|error| format!("cannot read folder {}: {error}", folder.display()))?;
    files.sort_by_key(|file| (file.iter().any(|part| part == "_delta_log"), file.clone()));
    let mut uploaded = Uploaded::default();
    for file in files {
        let relative = file.strip_prefix(folder)?.to_str().ok_or_else(|| format!("{} is not UTF-8", file.display()))?;
        let key: Key = prefix.parts().chain(Key::parse(relative)?.parts()).collect();
        if there.contains(&(key.clone(), fs::metadata(&file)?.len())) {
            uploaded.kept += 1;
            continue;
        }
        store.put(&key, fs::read(&file)?.into()).await?;
        uploaded.sent += 1;
    }
    Ok(uploaded)
}

/// Creates an S3 client for one bucket of the local cloud at `endpoint`.
///
/// # Errors
/// When the endpoint is not a URL.
pub fn client(endpoint: &str, bucket: &str) -> object_store::Result<AmazonS3> {
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region(REGION)
        .with_bucket_name(bucket)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .build()
}

fn find_files(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { find_files(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
