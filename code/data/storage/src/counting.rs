//! Counts requests to storage, because each of them is billed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use buzz_protocol::Requests;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Objects in one page of a [listing](https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html).
const PAGE_OBJECTS: usize = 1000;

/// Counts of requests that grow while they are sent.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    gets: AtomicU64,
    puts: AtomicU64,
}

impl Counted {
    fn get(&self) {
        self.gets.fetch_add(1, Ordering::Relaxed);
    }

    fn put(&self) {
        self.puts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the requests so far.
    pub(crate) fn requests(&self) -> Requests {
        Requests { gets: self.gets.load(Ordering::Relaxed), puts: self.puts.load(Ordering::Relaxed) }
    }
}

/// A store that counts its requests. Repetitions within the client of a store are not seen.
#[derive(Debug)]
pub(crate) struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counted: Arc<Counted>,
}

impl CountingStore {
    /// Wraps `inner` and counts its requests in `counted`.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, counted: Arc<Counted>) -> Self {
        Self { inner, counted }
    }

    /// Counts the requests of a listing, one for each page.
    fn paged(&self, objects: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counted.put();
        let counted = Arc::clone(&self.counted);
        let pages = objects.enumerate().map(move |(index, object)| {
            if index > 0 && index % PAGE_OBJECTS == 0 {
                counted.put();
            }
            object
        });
        pages.boxed()
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.counted.get();
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.counted.put();
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.counted.put();
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(CountingUpload { inner, counted: Arc::clone(&self.counted) }))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counted.put();
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counted.put();
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload that counts its parts and its end.
#[derive(Debug)]
struct CountingUpload {
    inner: Box<dyn MultipartUpload>,
    counted: Arc<Counted>,
}

#[async_trait]
impl MultipartUpload for CountingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.counted.put();
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.counted.put();
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_class() {
        let counted = Arc::new(Counted::default());
        let store = CountingStore::new(Arc::new(InMemory::new()), Arc::clone(&counted));
        let path = Path::from("a");
        store.put(&path, PutPayload::from(vec![0; 3 << 20])).await.unwrap();
        assert_eq!(counted.requests(), Requests { gets: 0, puts: 1 });
        store.head(&path).await.unwrap();
        // The first two ranges are less than 1 MiB apart, and are read by one request.
        store.get_ranges(&path, &[0..10, 1000..1010, 2 << 20..(2 << 20) + 10]).await.unwrap();
        assert_eq!(counted.requests(), Requests { gets: 3, puts: 1 });
        store.list(None).try_collect::<Vec<_>>().await.unwrap();
        let mut upload = store.put_multipart(&Path::from("b")).await.unwrap();
        upload.put_part(PutPayload::from("x".to_string())).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(counted.requests(), Requests { gets: 3, puts: 5 });
    }

    #[tokio::test]
    async fn each_page_of_a_listing_is_a_request() {
        let memory = Arc::new(InMemory::new());
        for number in 0..2001 {
            memory.put(&Path::from(format!("{number}")), PutPayload::new()).await.unwrap();
        }
        let counted = Arc::new(Counted::default());
        let store = CountingStore::new(memory, Arc::clone(&counted));
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 2001);
        assert_eq!(counted.requests().puts, 3);
    }
}
