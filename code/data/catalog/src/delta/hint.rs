//! Hides a `_last_checkpoint` that names no checkpoint. The Delta protocol calls it a hint, but delta-rs fails on it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde::Deserialize;

/// A store without those `_last_checkpoint` files whose checkpoint does not exist.
#[derive(Debug)]
pub(super) struct TrueHints(pub(super) Arc<dyn ObjectStore>);

/// The part of a `_last_checkpoint` that is needed here.
#[derive(Deserialize)]
struct Hint {
    version: u64,
}

impl TrueHints {
    /// Returns whether the hint at `location` names a version without a checkpoint. A hint that cannot be read is left to
    /// delta-rs.
    async fn is_wrong(&self, location: &Path) -> bool {
        let Ok(got) = self.0.get(location).await else { return false };
        let Ok(bytes) = got.bytes().await else { return false };
        let Ok(hint) = serde_json::from_slice::<Hint>(&bytes) else { return false };
        let Some(log) = location.as_ref().strip_suffix("/_last_checkpoint").and_then(|log| Path::parse(log).ok())
        else {
            return false;
        };
        let start = format!("{:020}.checkpoint", hint.version);
        let Ok(before) = Path::parse(format!("{log}/{start}")) else { return false };
        let mut later = self.0.list_with_offset(Some(&log), &before);
        while let Some(found) = later.next().await {
            match found {
                Ok(found) if !found.location.filename().is_some_and(|name| name.starts_with(&start)) => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

impl fmt::Display for TrueHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrueHints({})", self.0)
    }
}

#[async_trait]
impl ObjectStore for TrueHints {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.filename() == Some("_last_checkpoint") && self.is_wrong(location).await {
            let source = "it names a checkpoint that does not exist".into();
            return Err(Error::NotFound { path: location.to_string(), source });
        }
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
