//! An object store whose faults are switched on while a query runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::{Notify, watch};

/// A fault of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// The store responds 503.
    Unavailable,
    /// The object does not exist.
    Missing,
    /// The response comes after a delay.
    Slow(Duration),
    /// The response ends after half of its bytes, without an error.
    Truncated,
    /// The response breaks off after half of its bytes, with an error.
    Broken,
    /// The response has the bytes of another range, and says so.
    OtherRange,
}

/// Switches the faults of a [`TroubledStore`].
#[derive(Debug, Default)]
pub struct StoreSwitch {
    fault: watch::Sender<Option<StoreFault>>,
    left: AtomicUsize,
    met: AtomicUsize,
    read: Notify,
}

impl StoreSwitch {
    /// Makes the next `count` reads fail by `fault`.
    pub fn fail_next(&self, fault: StoreFault, count: usize) {
        self.fault.send_replace(Some(fault));
        self.left.store(count, Ordering::SeqCst);
    }

    /// Returns the number of reads that met a fault.
    pub fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }

    /// Waits until a read meets a fault. One that met it before counts too, once.
    pub async fn meets(&self) {
        self.read.notified().await;
    }

    fn take(&self) -> Option<StoreFault> {
        let fault = (*self.fault.borrow())?;
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok()?;
        self.met.fetch_add(1, Ordering::SeqCst);
        self.read.notify_one();
        Some(fault)
    }
}

/// Wraps a store. Reads of objects whose path contains a given word meet the faults of a [`StoreSwitch`].
#[derive(Debug)]
pub struct TroubledStore {
    inner: Arc<dyn ObjectStore>,
    word: String,
    switch: Arc<StoreSwitch>,
}

impl TroubledStore {
    /// Creates a store whose reads of paths with `word` meet the faults of `switch`.
    pub fn new(inner: Arc<dyn ObjectStore>, word: &str, switch: Arc<StoreSwitch>) -> Self {
        Self { inner, word: word.to_string(), switch }
    }
}

impl fmt::Display for TroubledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TroubledStore({})", self.inner)
    }
}

/// Returns `result` with the first half of its bytes, and `end` after them.
async fn half(result: GetResult, end: Option<Error>) -> Result<GetResult> {
    let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
    let bytes = result.bytes().await?;
    let bytes = bytes.slice(..bytes.len() / 2);
    let parts = std::iter::once(Ok(bytes)).chain(end.map(Err)).collect::<Vec<_>>();
    let payload = GetResultPayload::Stream(Box::pin(futures::stream::iter(parts)));
    Ok(GetResult { payload, meta, range, attributes })
}

fn unavailable(what: &str) -> Error {
    Error::Generic { store: "TroubledStore", source: what.into() }
}

#[async_trait]
impl ObjectStore for TroubledStore {
    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        let fault = location.as_ref().contains(&self.word).then(|| self.switch.take()).flatten();
        match fault {
            None => self.inner.get_opts(location, options).await,
            Some(StoreFault::Unavailable) => Err(unavailable("503 Slow Down")),
            Some(StoreFault::Missing) => {
                let path = location.to_string();
                Err(Error::NotFound { source: format!("no object at {path}").into(), path })
            }
            Some(StoreFault::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                self.inner.get_opts(location, options).await
            }
            Some(StoreFault::Truncated) => half(self.inner.get_opts(location, options).await?, None).await,
            Some(StoreFault::Broken) => {
                let end = unavailable("the connection was reset");
                half(self.inner.get_opts(location, options).await?, Some(end)).await
            }
            Some(StoreFault::OtherRange) => {
                options.range = Some(GetRange::Bounded(0..1));
                self.inner.get_opts(location, options).await
            }
        }
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
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
