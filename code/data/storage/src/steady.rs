//! A store that repeats reads without an answer, and resumes responses that end or stop before their last byte.
//!
//! `object_store` repeats requests that fail, and resumes responses that break off. It waits 30 seconds for a response that
//! does not come, and takes the end of a response for the end of its bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use buzz_protocol::QueryError;
use bytes::Bytes;
use futures::future::Either;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Number of times that one response may be resumed.
const RESUMED_MAX: u32 = 4;

/// Repeats that are always allowed, and the number of reads for each further one: about 3 %.
const REPEATS_FREE: u64 = 8;
const READS_PER_REPEAT: u64 = 32;

/// The times that a read may take before it is repeated.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// Minimum and maximum time until a response begins.
    pub(crate) response: Range<Duration>,
    /// Multiple of the usual time until a response begins.
    pub(crate) factor: u32,
    /// Time in which a response that has begun goes on.
    pub(crate) bytes: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { response: Duration::from_secs(1)..Duration::from_secs(10), factor: 8, bytes: Duration::from_secs(3) }
    }
}

/// Repeats reads whose response is late, and resumes those that stop. The repeats are bounded to about 3 % of the reads, so
/// that a store that is slow for all does not get twice as many.
#[derive(Debug)]
pub(crate) struct SteadyStore {
    inner: Arc<dyn ObjectStore>,
    reads: Arc<Reads>,
}

/// Counts and times of the reads of a store.
#[derive(Debug)]
struct Reads {
    patience: Patience,
    count: AtomicU64,
    repeats: AtomicU64,
    /// Mean time until a response begins; recent ones weigh more.
    usual: Mutex<Option<Duration>>,
}

impl Reads {
    /// Returns true if a read may be repeated, and counts the repeat.
    fn may_repeat(&self) -> bool {
        let most = REPEATS_FREE + self.count.load(Ordering::Relaxed) / READS_PER_REPEAT;
        let more = |repeats: u64| (repeats < most).then_some(repeats + 1);
        self.repeats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn began_after(&self, time: Duration) {
        let mut usual = self.usual.lock();
        *usual = Some(usual.map_or(time, |usual| (usual * 7 + time) / 8));
    }

    /// Returns the time after which a read without response is repeated.
    fn response(&self) -> Duration {
        let Range { start, end } = self.patience.response;
        let usual = (*self.usual.lock()).unwrap_or_default();
        usual.saturating_mul(self.patience.factor).clamp(start, end.max(start))
    }
}

impl SteadyStore {
    /// Creates a store that reads from `inner`.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, patience: Patience) -> Self {
        let reads = Reads { patience, count: AtomicU64::new(0), repeats: AtomicU64::new(0), usual: Mutex::default() };
        Self { inner, reads: Arc::new(reads) }
    }
}

/// Returns the response to a read. If it is late, the read is sent a second time, and the first response counts.
async fn respond(
    inner: &Arc<dyn ObjectStore>,
    reads: &Reads,
    location: &Path,
    options: &GetOptions,
) -> Result<GetResult> {
    reads.count.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    let mut first = inner.get_opts(location, options.clone());
    let in_time = tokio::time::timeout(reads.response(), &mut first).await;
    let response = match in_time {
        Ok(response) => response,
        Err(_) if !reads.may_repeat() => first.await,
        Err(_) => {
            let second = inner.get_opts(location, options.clone());
            match futures::future::select(first, second).await {
                Either::Left((Err(_), second)) => second.await,
                Either::Right((Err(_), first)) => first.await,
                Either::Left((response, _)) | Either::Right((response, _)) => response,
            }
        }
    };
    if response.is_ok() {
        reads.began_after(started.elapsed());
    }
    response
}

/// Returns the bytes that `options` ask for of an object of `size` bytes. `None` if they ask for none of its bytes.
fn asked(options: &GetOptions, size: u64) -> Option<Range<u64>> {
    match &options.range {
        None => Some(0..size),
        Some(range) => range.as_range(size).ok(),
    }
}

fn broken(why: String) -> Error {
    Error::Generic { store: "response", source: why.into() }
}

/// A response that is being read.
struct Body {
    inner: Arc<dyn ObjectStore>,
    reads: Arc<Reads>,
    location: Path,
    options: GetOptions,
    e_tag: Option<String>,
    bytes: BoxStream<'static, Result<Bytes>>,
    /// Bytes that are still missing.
    left: Range<u64>,
    resumed: u32,
}

/// The next part of a response.
enum Next {
    Bytes(Bytes),
    /// It ended or broke off; with the error to report if it cannot be resumed.
    Stopped(Error),
}

impl Body {
    /// Returns the next bytes, or `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.left.is_empty() {
                return Ok(None);
            }
            match self.wait().await {
                Next::Bytes(bytes) => {
                    self.left.start += bytes.len() as u64;
                    if self.left.start > self.left.end {
                        return Err(broken("it has more bytes than the request names".to_string()));
                    }
                    return Ok(Some(bytes));
                }
                Next::Stopped(error) => self.resume(error).await?,
            }
        }
    }

    /// Waits for the next bytes. A response that stands still counts as stopped, if a repeat is allowed.
    async fn wait(&mut self) -> Next {
        let next = match tokio::time::timeout(self.reads.patience.bytes, self.bytes.next()).await {
            Ok(next) => next,
            Err(_) if self.can_resume() && self.reads.may_repeat() => {
                return Next::Stopped(broken("it stood still".to_string()));
            }
            Err(_) => self.bytes.next().await,
        };
        match next {
            Some(Ok(bytes)) => Next::Bytes(bytes),
            Some(Err(error)) => Next::Stopped(error),
            None => {
                let missing = self.left.end - self.left.start;
                Next::Stopped(broken(format!("the response ended {missing} bytes before its end")))
            }
        }
    }

    /// Returns true if the rest can be read by another request, which must find the same version of the object. A weak tag
    /// never meets the condition of a request (RFC 9110, 13.1.1).
    fn can_resume(&self) -> bool {
        self.e_tag.as_deref().is_some_and(|tag| !tag.starts_with("W/")) && self.resumed < RESUMED_MAX
    }

    /// Requests the rest. Fails with `error` if that is not possible.
    async fn resume(&mut self, error: Error) -> Result<()> {
        if !self.can_resume() {
            return Err(error);
        }
        self.resumed += 1;
        let range = Some(GetRange::Bounded(self.left.clone()));
        let options = GetOptions { range, if_match: self.e_tag.clone(), ..self.options.clone() };
        // The response that stopped holds one of the bounded requests of the store.
        self.bytes = futures::stream::empty().boxed();
        let rest = respond(&self.inner, &self.reads, &self.location, &options).await.map_err(changed)?;
        // Not every store heeds the condition.
        if rest.meta.e_tag.is_none() {
            return Err(error);
        }
        if rest.meta.e_tag != self.e_tag {
            return Err(replaced());
        }
        if rest.range != self.left {
            return Err(other_range(&rest.range, &self.left));
        }
        self.bytes = rest.into_stream();
        Ok(())
    }
}

/// Returns the error of an object that is not the one whose first bytes were read.
fn replaced() -> Error {
    let why = "the file was replaced while it was read; run the query again";
    Error::Generic { store: "response", source: Box::new(QueryError::data(why)) }
}

/// Names the reason if the object is not the one whose first bytes were read.
fn changed(error: Error) -> Error {
    match error {
        Error::Precondition { .. } => replaced(),
        error => error,
    }
}

fn other_range(found: &Range<u64>, asked: &Range<u64>) -> Error {
    broken(format!("the store returned bytes {found:?} instead of {asked:?}"))
}

impl fmt::Display for SteadyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SteadyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for SteadyStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.inner.get_opts(location, options).await;
        }
        let mut tries = 0;
        let (result, left) = loop {
            let result = respond(&self.inner, &self.reads, location, &options).await?;
            // Without bytes of the range, the response is what the store makes of that.
            let Some(left) = asked(&options, result.meta.size) else { return Ok(result) };
            if result.range == left {
                break (result, left);
            }
            if tries == RESUMED_MAX {
                return Err(other_range(&result.range, &left));
            }
            tries += 1;
        };
        let GetResult { payload, meta, range, attributes } = result;
        let payload = match payload {
            GetResultPayload::Stream(bytes) => {
                let body = Body {
                    inner: Arc::clone(&self.inner),
                    reads: Arc::clone(&self.reads),
                    location: location.clone(),
                    options,
                    e_tag: meta.e_tag.clone(),
                    bytes,
                    left,
                    resumed: 0,
                };
                let next = |mut body: Body| async move { Ok(body.next().await?.map(|bytes| (bytes, body))) };
                GetResultPayload::Stream(futures::stream::try_unfold(body, next).into_stream().boxed())
            }
            file @ GetResultPayload::File(..) => file,
        };
        Ok(GetResult { payload, meta, range, attributes })
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

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests;
