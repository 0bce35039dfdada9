//! An object store with added latency.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// Wraps a store: delays every read and listing by a fixed latency, and counts them.
#[derive(Debug)]
pub struct DistantStore {
    inner: Arc<dyn ObjectStore>,
    latency: Duration,
    asked: Arc<Asked>,
}

/// Request counters of a [`DistantStore`].
#[derive(Debug, Default)]
pub struct Asked {
    requests: AtomicUsize,
    waiting: AtomicUsize,
    waiting_max: AtomicUsize,
}

impl Asked {
    /// Returns the number of reads and listings so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of concurrent reads and listings.
    pub fn at_once_max(&self) -> usize {
        self.waiting_max.load(Ordering::Relaxed)
    }

    async fn wait(&self, latency: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        self.waiting_max.fetch_max(waiting, Ordering::Relaxed);
        tokio::time::sleep(latency).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DistantStore {
    /// Creates a store whose reads and listings take `latency` longer and are counted in `asked`.
    pub fn new(inner: Arc<dyn ObjectStore>, latency: Duration, asked: Arc<Asked>) -> Self {
        Self { inner, latency, asked }
    }
}

impl fmt::Display for DistantStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DistantStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for DistantStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.asked.wait(self.latency).await;
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (asked, latency, listed) = (Arc::clone(&self.asked), self.latency, self.inner.list(prefix));
        let far = async move {
            asked.wait(latency).await;
            listed
        };
        futures::stream::once(far).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.asked.wait(self.latency).await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
