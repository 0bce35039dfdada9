//! The store, the clock and the target that all simulated processes share.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use buzz_protocol::QueryError;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use futures::{FutureExt, TryFutureExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::run::{Mutant, Row};
use crate::{Clock, EpochLog, OutputFile, Target, VirtualClock};

/// A fault at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies; the call has no effect.
    DieBefore,
    /// The process dies; the call took effect.
    DieAfter,
    /// The call took effect, and the process gets an error.
    LostAnswer,
    /// The process gets an error. A put takes effect later, whatever happens to the process; another call never does.
    Late,
}

pub(super) const FAULTS: [Fault; 4] = [Fault::DieBefore, Fault::DieAfter, Fault::LostAnswer, Fault::Late];

impl Fault {
    /// Returns the name in the figures of a run.
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::DieBefore => "deaths before the effect",
            Fault::DieAfter => "deaths after the effect",
            Fault::LostAnswer => "lost answers",
            Fault::Late => "late effects",
        }
    }
}

/// When faults happen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Faults {
    /// One, at the call with this number.
    At(u64, Fault),
    /// At random, so many in 1,000 calls.
    PerMille(u32),
}

/// The target outside: rows, and the epoch of the last ones.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) marker: Option<u64>,
    pub(super) rows: Vec<Row>,
}

pub(super) struct World {
    pub(super) store: InMemory,
    pub(super) clock: VirtualClock,
    pub(super) faults: Faults,
    pub(super) mutant: Option<Mutant>,
    pub(super) trims: bool,
    pub(super) sink: Mutex<Sink>,
    shared: Mutex<Shared>,
}

struct Shared {
    rng: StdRng,
    calls: u64,
    late: Vec<(Path, PutPayload, PutOptions)>,
    producing: usize,
    stats: BTreeMap<&'static str, u64>,
    violation: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults, mutant: Option<Mutant>, producers: usize, trims: bool) -> Arc<World> {
        let rng = StdRng::seed_from_u64(seed);
        let (calls, late, stats, violation) = Default::default();
        let shared = Shared { rng, calls, late, producing: producers, stats, violation };
        Arc::new(World {
            store: InMemory::new(),
            clock: VirtualClock::new(1_000_000),
            faults,
            mutant,
            trims,
            sink: Mutex::default(),
            shared: Mutex::new(shared),
        })
    }

    /// Returns a random number below `n`.
    pub(super) fn random(&self, n: u64) -> u64 {
        self.shared.lock().rng.random_range(0..n)
    }

    pub(super) fn count(&self, what: &'static str, n: u64) {
        *self.shared.lock().stats.entry(what).or_default() += n;
    }

    /// Notes what must never happen, and ends the run.
    pub(super) fn violate(&self, what: impl Into<String>) {
        self.shared.lock().violation.get_or_insert(what.into());
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.shared.lock().violation.clone()
    }

    pub(super) fn stats(&self) -> (u64, BTreeMap<&'static str, u64>) {
        let shared = self.shared.lock();
        (shared.calls, shared.stats.clone())
    }

    pub(super) fn producer_ends(&self) {
        self.shared.lock().producing -= 1;
    }

    pub(super) fn all_sent(&self) -> bool {
        self.shared.lock().producing == 0
    }

    /// Counts a call, moves the clock, lets late puts arrive, and returns the call's fault.
    fn begin_call(&self) -> Option<Fault> {
        self.clock.advance(1);
        let mut shared = self.shared.lock();
        let number = shared.calls;
        shared.calls += 1;
        if !shared.late.is_empty() && shared.rng.random_range(0..10) == 0 {
            let waiting = shared.late.len();
            let at = shared.rng.random_range(0..waiting);
            let (path, payload, options) = shared.late.swap_remove(at);
            // A put that would overwrite an object fails now, as it would have failed then.
            let _ = self.store.put_opts(&path, payload, options).now_or_never().expect("memory does not wait");
        }
        let fault = match self.faults {
            Faults::At(at, fault) => (at == number).then_some(fault),
            Faults::PerMille(rate) => {
                (shared.rng.random_range(0..1000) < rate).then(|| FAULTS[shared.rng.random_range(0..FAULTS.len())])
            }
        };
        if let Some(fault) = fault {
            *shared.stats.entry(fault.name()).or_default() += 1;
        }
        fault
    }
}

/// Lets the scheduler poll another actor.
pub(super) async fn pause() {
    let mut polled = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        // Combinators such as `buffered` poll only what was woken.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// One process, which sees the shared store through calls that may fail.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) world: Arc<World>,
    dead: Arc<AtomicBool>,
}

impl Process {
    pub(super) fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), dead: Arc::default() }
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(SimulatedStore(self.clone()))
    }

    /// Runs `work` until it ends or the process dies. Returns `None` in the latter case; `work` does not run on.
    pub(super) async fn live<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.dead.load(Ordering::SeqCst) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    async fn call<T>(&self, effect: impl Future<Output = Result<T>>) -> Result<T> {
        self.call_or_later(effect, None).await
    }

    async fn call_or_later<T>(
        &self,
        effect: impl Future<Output = Result<T>>,
        put: Option<(Path, PutPayload, PutOptions)>,
    ) -> Result<T> {
        pause().await;
        match self.world.begin_call() {
            None => return effect.await,
            Some(Fault::LostAnswer) => drop(effect.await),
            Some(Fault::Late) => self.world.shared.lock().late.extend(put),
            Some(Fault::DieBefore) => self.die().await,
            Some(Fault::DieAfter) => {
                drop(effect.await);
                self.die().await;
            }
        }
        Err(Error::Generic { store: "simulation", source: "the answer was lost".into() })
    }

    async fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        pending::<()>().await;
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Process")
    }
}

/// The store as one process sees it.
#[derive(Debug)]
struct SimulatedStore(Process);

impl fmt::Display for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}

impl SimulatedStore {
    fn listed(&self, prefix: Option<Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let process = self.0.clone();
        let listing = async move {
            let store = &process.world.store;
            let all = match offset {
                Some(offset) => store.list_with_offset(prefix.as_ref(), &offset),
                None => store.list(prefix.as_ref()),
            };
            process.call(all.try_collect::<Vec<_>>()).await
        };
        stream::once(listing.map_ok(|all| stream::iter(all.into_iter().map(Ok)))).try_flatten().boxed()
    }
}

#[async_trait]
impl ObjectStore for SimulatedStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let later = (path.clone(), payload.clone(), options.clone());
        self.0.call_or_later(self.0.world.store.put_opts(path, payload, options), Some(later)).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("the protocol does not upload in parts")
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.call(self.0.world.store.get_opts(path, options)).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.call(self.0.world.store.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let process = self.0.clone();
        let delete = move |path: Path| {
            let process = process.clone();
            async move { process.call(process.world.store.delete(&path).map_ok(|()| path.clone())).await }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned(), None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.call(self.0.world.store.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.call(self.0.world.store.copy_opts(from, to, options)).await
    }
}

/// The target as one process sees it.
#[derive(Debug)]
pub(super) struct SimulatedTarget(pub(super) Process);

#[async_trait]
impl Target for SimulatedTarget {
    async fn marker(&self) -> buzz_protocol::Result<Option<u64>> {
        Ok(self.0.call(async { Ok(self.0.world.sink.lock().marker) }).await?)
    }

    async fn publish(&self, epoch: u64, files: &[OutputFile], log: &EpochLog) -> buzz_protocol::Result<()> {
        let mut rows: Vec<Row> = Vec::new();
        for file in files {
            let bytes = log.get(&Path::from(file.path.as_str())).await?;
            let bytes = bytes.ok_or_else(|| QueryError::data(format!("output `{}` is missing", file.path)))?;
            rows.extend(serde_json::from_slice::<Vec<Row>>(&bytes).expect("the file was written by this program"));
        }
        let world = &self.0.world;
        let apply = async {
            let mut sink = world.sink.lock();
            let has_it = sink.marker.is_some_and(|marker| marker >= epoch);
            if !has_it || world.mutant == Some(Mutant::TargetWithoutMarker) {
                sink.marker = sink.marker.max(Some(epoch));
                if world.mutant != Some(Mutant::RowsBeforeRecord) {
                    sink.rows.extend(rows);
                }
            }
            Ok(())
        };
        Ok(self.0.call(apply).await?)
    }
}

/// The clock of one machine, which differs from those of others.
#[derive(Debug)]
pub(super) struct SkewedClock {
    pub(super) world: Arc<World>,
    pub(super) skew_ms: i64,
}

impl Clock for SkewedClock {
    fn now_ms(&self) -> i64 {
        self.world.clock.now_ms() + self.skew_ms
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}
