//! A host whose parts make one fault, and count what runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use buzz_fuse::Fuse;
use buzz_host::{Combs, Compute, Host, Refused};
use buzz_local::{LocalCombs, LocalCompute, LocalHost};
use buzz_protocol::{CombAddress, HBeeTask, QueryError, Result, TaskOutcome};
use buzz_storage::Stores;
use buzz_testkit::{SilentProxy, StoreFault, StoreSwitch, TroubledStore};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fault::Fault;
use super::parts::{TroubledNetwork, pausing};
use crate::common::{ask_fuse, options, statement};
use crate::tables::{rides, write_file};

/// File whose task meets the faults of HBees and stores.
const FILE: &str = "part-3";

/// Time until a response that never comes.
const SILENT: Duration = Duration::from_secs(3600);

/// Rows of each file before it is replaced.
const REPLACED_ROWS: usize = 77;

/// The state that the parts of a host share: the fault, how often it was made, and the number of running tasks.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    /// Faults that are made only once.
    once: AtomicU32,
    met: Arc<AtomicUsize>,
    running: AtomicUsize,
    pub(crate) switch: Arc<StoreSwitch>,
    /// Notified when the caller must cancel the query.
    pub(crate) cancel: Notify,
    combs: Arc<LocalCombs>,
    proxies: Mutex<Vec<SilentProxy>>,
    /// The way of Fuse to combs behind proxies of its own, and that of Fuse and HBees to combs whose proxies are between combs.
    pub(crate) routes: Mutex<HashMap<CombAddress, CombAddress>>,
    /// A fragment of another query.
    stranger: Option<HBeeTask>,
    /// Folder of the table, and the rows of its replaced file once it is replaced.
    rides: PathBuf,
    replaced: Mutex<bool>,
}

impl Trouble {
    /// Counts the fault.
    pub(crate) fn meet(&self) {
        self.met.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns how often the fault was made.
    pub(crate) fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst) + self.switch.met()
    }

    /// Returns true the first time, and counts the fault.
    pub(crate) fn first(&self) -> bool {
        let first = self.once.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if first {
            self.meet();
        }
        first
    }

    /// Returns the address under which Fuse, or an HBee, reaches the comb at `address`.
    pub(crate) fn route(&self, address: &CombAddress) -> CombAddress {
        self.routes.lock().get(address).unwrap_or(address).clone()
    }

    /// Returns the address under which Fuse reaches the comb at `address`. Puts a proxy between, if the fault is there.
    pub(crate) async fn route_of_fuse(&self, address: &CombAddress) -> CombAddress {
        let is_new = self.fault == Fault::FuseNetworkSilent && !self.routes.lock().contains_key(address);
        if is_new {
            let (addresses, proxies) = proxied(std::slice::from_ref(address)).await;
            self.proxies.lock().extend(proxies);
            self.routes.lock().extend(std::iter::once(address.clone()).zip(addresses));
        }
        self.route(address)
    }

    /// Loses all combs.
    pub(crate) fn kill_combs(&self) {
        self.combs.kill();
    }

    /// Returns the number of tasks that run, and of queries that are open on the combs.
    pub(crate) fn left(&self) -> (usize, usize) {
        let open = self.combs.combs().iter().map(|comb| comb.inboxes().open_queries()).sum();
        (self.running.load(Ordering::SeqCst), open)
    }

    /// Puts other rows in the place of the file, before any task reads it.
    fn replace_file(&self) {
        let mut replaced = self.replaced.lock();
        if !std::mem::replace(&mut *replaced, true) {
            self.meet();
            write_file(&self.rides.join(format!("{FILE}.parquet")), &rides(5000, REPLACED_ROWS));
        }
    }
}

/// A host with a fault.
pub(crate) struct Troubled {
    pub(crate) fuse: Fuse,
    pub(crate) trouble: Arc<Trouble>,
}

impl Troubled {
    /// Makes a host with `fault` for queries on the tables in `dir`, with the options `sets`.
    pub(crate) async fn new(fault: Fault, dir: &Path, sets: &[&str]) -> Self {
        let switch = Arc::new(StoreSwitch::default());
        let of_stores = Arc::clone(&switch);
        let stores =
            Stores::with_wrapper(move |store| Arc::new(TroubledStore::new(store, FILE, Arc::clone(&of_stores))))
                .with_steady_files();
        let met = Arc::new(AtomicUsize::new(0));
        let change = pausing(fault, &met);
        let host = LocalHost::changing_plans(Arc::new(stores), &options(sets), 2, change).unwrap();
        let stranger = match fault {
            Fault::HbeeDeliversOtherSchema => Some(stranger(dir).await),
            _ => None,
        };
        let trouble = Arc::new(Trouble {
            fault,
            once: AtomicU32::new(1),
            met,
            running: AtomicUsize::new(0),
            switch,
            cancel: Notify::new(),
            combs: Arc::clone(&host.combs),
            proxies: Mutex::default(),
            routes: Mutex::default(),
            stranger,
            rides: dir.join("rides"),
            replaced: Mutex::default(),
        });
        let compute = TroubledCompute { inner: Arc::clone(&host.compute), trouble: Arc::clone(&trouble) };
        let combs = TroubledCombs { inner: Arc::clone(&host.combs), trouble: Arc::clone(&trouble) };
        let network = TroubledNetwork { inner: Arc::clone(&host.network), trouble: Arc::clone(&trouble) };
        let fuse = Fuse::new(Host {
            compute: Arc::new(compute),
            combs: Arc::new(combs),
            network: Arc::new(network),
            ..host.host()
        });
        Self { fuse, trouble }
    }
}

/// Returns a task of another query on the table, whose rows have two columns of other types and names.
async fn stranger(dir: &Path) -> HBeeTask {
    let host = crate::common::host(&[]);
    let recorder = Arc::new(Recorder::default());
    let fuse = Fuse::new(Host { compute: Arc::clone(&recorder) as _, ..host.host() });
    let sql = "SELECT arrow_cast(id, 'Utf8') AS other, arrow_cast(id, 'Int16') AS small FROM rides";
    let query = statement(1, sql, &[("rides", "Parquet", "rides")]);
    ask_fuse(&fuse, &query, dir, &["attempts=1"]).await.unwrap_err();
    recorder.0.lock().take().expect("a task was sent")
}

/// Keeps a task instead of running it.
#[derive(Debug, Default)]
struct Recorder(Mutex<Option<HBeeTask>>);

#[async_trait]
impl Compute for Recorder {
    async fn run(&self, task: &HBeeTask, _refused: Refused<'_>) -> Result<TaskOutcome> {
        *self.0.lock() = Some(task.clone());
        Err(QueryError::data("it is only kept"))
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn tasks_min(&self) -> usize {
        8
    }
}

/// Runs tasks with the faults of HBees, and those that begin when the first task runs.
#[derive(Debug)]
struct TroubledCompute {
    inner: Arc<LocalCompute>,
    trouble: Arc<Trouble>,
}

/// Counts a task that runs.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns true if `task` reads the file that meets the fault.
fn reads_file(task: &HBeeTask) -> bool {
    task.scans.iter().flat_map(|scan| &scan.files).any(|file| file.path.contains(FILE))
}

impl TroubledCompute {
    /// Starts what begins once the query is planned.
    async fn before(&self, task: &HBeeTask) {
        let trouble = &self.trouble;
        let store = match trouble.fault {
            Fault::StoreUnavailable => Some((StoreFault::Unavailable, 1)),
            Fault::StoreMissing => Some((StoreFault::Missing, usize::MAX)),
            Fault::StoreSlow => Some((StoreFault::Slow(Duration::from_millis(400)), usize::MAX)),
            Fault::StoreTruncates => Some((StoreFault::Truncated, 1)),
            Fault::StoreBreaksOff => Some((StoreFault::Broken, 1)),
            Fault::StoreOtherRange => Some((StoreFault::OtherRange, 1)),
            Fault::StoreSilent => Some((StoreFault::Slow(SILENT), 1)),
            Fault::HbeeDiesReading => Some((StoreFault::Slow(Duration::from_secs(1)), 1)),
            _ => None,
        };
        if let Some((fault, count)) = store.filter(|_| reads_file(task) && task.attempt == 1) {
            trouble.switch.fail_next(fault, count);
        }
        match trouble.fault {
            Fault::FileReplaced => trouble.replace_file(),
            Fault::CombsDieBefore if trouble.first() => trouble.kill_combs(),
            Fault::CombsRestartEmpty if trouble.first() => {
                trouble.kill_combs();
                trouble.combs.ready(2).await.expect("combs start");
            }
            Fault::Cancelled => {
                trouble.meet();
                trouble.cancel.notify_one();
                std::future::pending().await
            }
            _ => {}
        }
    }

    /// Runs `task` with the fault of its HBee, if it has one.
    async fn troubled(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let trouble = &self.trouble;
        let lost = || QueryError::unavailable("the worker died");
        let run = || self.inner.run(task, refused);
        let (first, file) = (task.attempt == 1, reads_file(task));
        match trouble.fault {
            Fault::HbeeDiesBefore if first => {
                trouble.meet();
                Err(lost())
            }
            Fault::HbeeDiesReading if first && file => tokio::select! {
                biased;
                () = trouble.switch.meets() => Err(lost()),
                outcome = run() => outcome,
            },
            Fault::HbeeDiesAfter if first => {
                trouble.meet();
                run().await.and(Err(lost()))
            }
            Fault::HbeeAlwaysDies if file => {
                trouble.meet();
                Err(lost())
            }
            Fault::HbeeRunsTwice => {
                trouble.meet();
                tokio::join!(run(), run()).1
            }
            Fault::HbeeHangs if first && file => {
                trouble.meet();
                std::future::pending().await
            }
            Fault::OutOfTime if file => {
                trouble.meet();
                std::future::pending().await
            }
            Fault::HbeeIsSlow if first && file => {
                trouble.meet();
                tokio::time::sleep(Duration::from_secs(3)).await;
                run().await
            }
            Fault::HbeeCountsTooFew if file => {
                trouble.meet();
                let mut outcome = run().await?;
                outcome.rows.pop();
                Ok(outcome)
            }
            Fault::HbeeDeliversOtherSchema if file => {
                trouble.meet();
                let fragment = trouble.stranger.as_ref().expect("the fault has a stranger").fragment.clone();
                self.inner.run(&HBeeTask { fragment, ..task.clone() }, refused).await
            }
            Fault::HbeeNetworkSilent if first && file => {
                trouble.meet();
                let (combs, _open) = silent(&task.combs).await;
                self.inner.run(&HBeeTask { combs, ..task.clone() }, refused).await
            }
            Fault::CombsNetworkSilent => {
                let combs = task.combs.iter().map(|comb| trouble.route(comb)).collect();
                self.inner.run(&HBeeTask { combs, ..task.clone() }, refused).await
            }
            _ => run().await,
        }
    }
}

/// Puts proxies that forward nothing in front of `combs`.
async fn silent(combs: &[CombAddress]) -> (Vec<CombAddress>, Vec<SilentProxy>) {
    let (addresses, proxies) = proxied(combs).await;
    proxies.iter().for_each(SilentProxy::fall_silent);
    (addresses, proxies)
}

/// Puts proxies in front of `combs`.
pub(crate) async fn proxied(combs: &[CombAddress]) -> (Vec<CombAddress>, Vec<SilentProxy>) {
    let (mut addresses, mut proxies) = (Vec::new(), Vec::new());
    for comb in combs {
        let port = comb.0.port().expect("a comb behind a socket has a port");
        let proxy = SilentProxy::to(([127, 0, 0, 1], port).into()).await.unwrap();
        addresses.push(CombAddress(format!("http://{}", proxy.address).parse().unwrap()));
        proxies.push(proxy);
    }
    (addresses, proxies)
}

#[async_trait]
impl Compute for TroubledCompute {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let trouble = &self.trouble;
        let _counted = Counted::new(&trouble.running);
        self.before(task).await;
        let outcome = self.troubled(task, refused).await;
        match trouble.fault {
            Fault::CombsDieAfterDelivery if trouble.first() => trouble.kill_combs(),
            Fault::CombsFreeze | Fault::CombsNetworkSilent if trouble.first() => {
                trouble.proxies.lock().iter().for_each(SilentProxy::fall_silent);
            }
            Fault::FuseNetworkSilent if trouble.first() => {
                // A new connection passes.
                trouble.routes.lock().clear();
                trouble.proxies.lock().iter().for_each(SilentProxy::fall_silent);
            }
            Fault::NetworkHalfOpen if trouble.first() => {
                trouble.proxies.lock().iter().for_each(SilentProxy::lose_answers);
            }
            Fault::NetworkCut if trouble.first() => trouble.proxies.lock().iter().for_each(SilentProxy::cut),
            _ => {}
        }
        outcome
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn tasks_min(&self) -> usize {
        8
    }
}

/// Combs that cannot be started, or are behind proxies.
#[derive(Debug)]
struct TroubledCombs {
    inner: Arc<LocalCombs>,
    trouble: Arc<Trouble>,
}

#[async_trait]
impl Combs for TroubledCombs {
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>> {
        match self.trouble.fault {
            Fault::NoCombs => {
                self.trouble.meet();
                Err(QueryError::unavailable("no comb can be started"))
            }
            Fault::CombsFreeze | Fault::NetworkCut | Fault::NetworkHalfOpen | Fault::CombsNetworkSilent => {
                let combs = self.inner.ready(count).await?;
                let (addresses, proxies) = proxied(&combs).await;
                *self.trouble.proxies.lock() = proxies;
                if self.trouble.fault == Fault::CombsNetworkSilent {
                    self.trouble.routes.lock().extend(addresses.iter().cloned().zip(combs));
                }
                Ok(addresses)
            }
            _ => self.inner.ready(count).await,
        }
    }

    async fn warm(&self, count: usize) -> Result<Vec<CombAddress>> {
        match self.trouble.fault {
            Fault::NoCombs => {
                self.trouble.meet();
                Ok(Vec::new())
            }
            _ => self.ready(count).await,
        }
    }

    fn partitions_per_comb(&self, count: usize) -> usize {
        self.inner.partitions_per_comb(count)
    }
}
