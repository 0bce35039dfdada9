//! Reads from stores that are late, stop, or return other bytes.

use std::collections::VecDeque;

use buzz_protocol::ErrorKind;
use object_store::memory::InMemory;
use object_store::{Attributes, ObjectStoreExt};

use super::*;

/// The fault of one read.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// No response comes.
    Hangs,
    /// The response ends after so many bytes.
    Ends(usize),
    /// The response stands still after so many bytes.
    Stands(usize),
    /// The response breaks off after so many bytes.
    Breaks(usize),
    /// The response has the first byte of the object.
    OtherRange,
    /// The object is replaced, and the response ends after so many bytes.
    Replaced(usize),
}

/// A store of one object whose reads have faults, in turn.
#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    faults: Mutex<VecDeque<Fault>>,
    asked: AtomicU64,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn cut(meta: ObjectMeta, range: Range<u64>, bytes: Bytes, rest: BoxStream<'static, Result<Bytes>>) -> GetResult {
    let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).chain(rest).boxed());
    GetResult { payload, meta, range, attributes: Attributes::new() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let fault = self.faults.lock().pop_front();
        match fault {
            Some(Fault::Hangs) => return std::future::pending().await,
            Some(Fault::OtherRange) => options.range = Some(GetRange::Bounded(0..1)),
            _ => {}
        }
        let result = self.inner.get_opts(location, options).await?;
        let (Some(Fault::Ends(count) | Fault::Stands(count) | Fault::Breaks(count) | Fault::Replaced(count)), fault) =
            (fault, fault)
        else {
            return Ok(result);
        };
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let bytes = result.bytes().await?;
        let bytes = bytes.slice(..count.min(bytes.len()));
        let rest = match fault {
            Some(Fault::Stands(_)) => futures::stream::pending().boxed(),
            Some(Fault::Breaks(_)) => futures::stream::iter([Err(broken("reset".to_string()))]).boxed(),
            _ => futures::stream::empty().boxed(),
        };
        if let Some(Fault::Replaced(_)) = fault {
            self.inner.put(location, PutPayload::from_static(b"others of these")).await?;
        }
        Ok(cut(meta, range, bytes, rest))
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
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

const TEXT: &[u8] = b"fifteen letters";

fn object() -> Path {
    Path::from("t/a.parquet")
}

/// Makes a store whose reads have `faults`, and that waits for a hundredth of a second.
async fn steady(faults: &[Fault]) -> (SteadyStore, Arc<Faulty>) {
    let faulty = Faulty { inner: InMemory::new(), faults: Mutex::default(), asked: AtomicU64::new(0) };
    faulty.inner.put(&object(), PutPayload::from_static(TEXT)).await.unwrap();
    faulty.faults.lock().extend(faults);
    let faulty = Arc::new(faulty);
    let short = Duration::from_millis(10);
    let patience = Patience { response: short..short, factor: 1, bytes: short };
    (SteadyStore::new(Arc::clone(&faulty) as _, patience), faulty)
}

#[tokio::test]
async fn reads_have_all_their_bytes_whatever_the_store_does() {
    let once = [
        Fault::Hangs,
        Fault::Ends(0),
        Fault::Ends(3),
        Fault::Stands(0),
        Fault::Stands(3),
        Fault::Breaks(3),
        Fault::OtherRange,
    ];
    for fault in once {
        for faults in [vec![fault], vec![fault, fault]] {
            let (store, faulty) = steady(&faults).await;
            // A read without response is repeated once.
            if faults.len() == 2 && matches!(fault, Fault::Hangs) {
                continue;
            }
            let read = store.get_range(&object(), 2..9).await.unwrap_or_else(|error| panic!("{faults:?}: {error}"));
            assert_eq!(read, TEXT[2..9], "{faults:?}");
            assert_eq!(faulty.asked.load(Ordering::SeqCst), 1 + faults.len() as u64, "{faults:?}");
        }
        let (store, _) = steady(&[fault]).await;
        assert_eq!(store.get(&object()).await.unwrap().bytes().await.unwrap(), TEXT, "{fault:?}");
        let (store, _) = steady(&[fault]).await;
        assert_eq!(store.get_ranges(&object(), &[0..2, 12..15]).await.unwrap(), [&TEXT[..2], &TEXT[12..]], "{fault:?}");
    }
}

#[tokio::test]
async fn response_that_always_ends_early_is_an_error_not_fewer_bytes() {
    for fault in [Fault::Ends(0), Fault::Breaks(0), Fault::OtherRange] {
        let (store, faulty) = steady(&[fault; 50]).await;
        let error = QueryError::from(store.get_range(&object(), 2..9).await.unwrap_err());
        assert_eq!(error.kind, ErrorKind::Unavailable, "{fault:?}: {error}");
        assert!(faulty.asked.load(Ordering::SeqCst) <= 1 + u64::from(RESUMED_MAX), "{fault:?}");
    }
}

#[tokio::test]
async fn rest_of_a_response_is_of_the_same_object() {
    let (store, _) = steady(&[Fault::Replaced(3)]).await;
    let error = QueryError::from(store.get(&object()).await.unwrap().bytes().await.unwrap_err());
    assert!(error.kind == ErrorKind::Data && error.message.contains("was replaced"), "{error}");
}

#[tokio::test]
async fn few_reads_of_a_slow_store_are_repeated() {
    let reads = Reads {
        patience: Patience::default(),
        count: AtomicU64::new(3200),
        repeats: AtomicU64::new(0),
        usual: Mutex::default(),
    };
    let repeats = (0..1000).filter(|_| reads.may_repeat()).count();
    assert_eq!(repeats as u64, REPEATS_FREE + 100);
    assert_eq!(reads.response(), Duration::from_secs(1), "nothing is known yet");
    reads.began_after(Duration::from_millis(400));
    assert_eq!(reads.response(), Duration::from_millis(3200));
    (0..100).for_each(|_| reads.began_after(Duration::from_secs(60)));
    assert_eq!(reads.response(), Duration::from_secs(10));
}

#[tokio::test]
async fn missing_objects_and_ranges_beyond_the_end_fail_as_before() {
    let (store, _) = steady(&[]).await;
    assert!(matches!(store.get(&Path::from("other")).await, Err(Error::NotFound { .. })));
    assert!(store.get_range(&object(), 20..30).await.is_err());
    assert_eq!(store.get_range(&object(), 10..15).await.unwrap(), TEXT[10..]);
    let suffix = GetOptions { range: Some(GetRange::Suffix(7)), ..GetOptions::default() };
    assert_eq!(store.get_opts(&object(), suffix).await.unwrap().bytes().await.unwrap(), TEXT[8..]);
    assert_eq!(store.head(&object()).await.unwrap().size, TEXT.len() as u64);
}
