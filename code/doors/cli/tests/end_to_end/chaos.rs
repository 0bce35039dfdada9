//! Random faults of all parts while several callers ask. Each answer is right or `Unavailable`; none is wrong, none hangs,
//! and nothing is left.
#![expect(clippy::print_stdout, reason = "the run reports what it saw")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use buzz_fuse::Fuse;
use buzz_host::{Combs, Compute, Host, Refused};
use buzz_local::{LocalCombs, LocalCompute, LocalHost};
use buzz_protocol::{CombAddress, ErrorKind, HBeeTask, QueryError, Result, TaskOutcome};
use buzz_storage::Stores;
use buzz_testkit::{SilentProxy, StoreFault, StoreSwitch, TroubledStore, sorted_text};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::tempdir;

use crate::common::{ask_fuse, options};
use crate::matrix::host::proxied;
use crate::matrix::shapes::{Shape, shapes, write_tables};

const SETS: [&str; 3] = ["transport=tcp", "tasks=8", "build_bytes=0"];

/// Callers that ask at the same time.
const CALLERS: u64 = 4;

/// Queries of a run whose time is not given.
const QUERIES: usize = 100;

/// Time after which a query counts as hanging.
const HANGS_AFTER: Duration = Duration::from_secs(150);

/// The faults of a run: which are made, and how many.
#[derive(Debug)]
struct Chaos {
    random: Mutex<StdRng>,
    combs: Arc<LocalCombs>,
    /// Proxies by the combs behind them.
    proxies: Mutex<HashMap<CombAddress, (CombAddress, SilentProxy)>>,
    switch: Arc<StoreSwitch>,
    running: AtomicUsize,
    made: Mutex<BTreeMap<&'static str, usize>>,
}

impl Chaos {
    fn number(&self, range: std::ops::Range<u64>) -> u64 {
        self.random.lock().random_range(range)
    }

    fn made(&self, fault: &'static str) {
        *self.made.lock().entry(fault).or_default() += 1;
    }

    /// Makes faults of combs, networks and stores until it is dropped.
    async fn make_faults(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(self.number(500..4000))).await;
            match self.number(0..10) {
                0..3 => {
                    self.made("combs die");
                    self.proxies.lock().clear();
                    self.combs.kill();
                }
                3..5 => {
                    self.made("network cut");
                    self.proxies.lock().drain().for_each(|(_, (_, proxy))| proxy.cut());
                }
                5 => {
                    self.made("combs freeze");
                    let frozen: Vec<SilentProxy> = self.proxies.lock().drain().map(|(_, (_, proxy))| proxy).collect();
                    frozen.iter().for_each(SilentProxy::fall_silent);
                    tokio::time::sleep(Duration::from_secs(8)).await;
                    frozen.iter().for_each(SilentProxy::cut);
                }
                fault => {
                    self.made("store faults");
                    let fault = match fault {
                        6 => StoreFault::Slow(Duration::from_secs(2)),
                        7 => StoreFault::Truncated,
                        8 => StoreFault::OtherRange,
                        _ => StoreFault::Broken,
                    };
                    self.switch.fail_next(fault, 3);
                }
            }
        }
    }
}

/// Runs tasks, some of which die, run twice, are slow or hang until they die.
#[derive(Debug)]
struct ChaosCompute {
    inner: Arc<LocalCompute>,
    chaos: Arc<Chaos>,
}

/// Counts a task that runs.
struct Counted(Arc<Chaos>);

impl Counted {
    fn new(chaos: &Arc<Chaos>) -> Self {
        chaos.running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(chaos))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Compute for ChaosCompute {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let chaos = &self.chaos;
        let _counted = Counted::new(chaos);
        let lost = || QueryError::unavailable("the worker died");
        let run = || self.inner.run(task, refused);
        let wait = Duration::from_millis(chaos.number(0..100));
        match chaos.number(0..1000) {
            0..20 => {
                chaos.made("HBee dies before it starts");
                Err(lost())
            }
            20..40 => {
                chaos.made("HBee dies before its answer");
                run().await.and(Err(lost()))
            }
            40..60 => {
                chaos.made("HBee dies in the middle");
                tokio::select! {
                    () = tokio::time::sleep(wait) => Err(lost()),
                    outcome = run() => outcome,
                }
            }
            60..70 => {
                chaos.made("HBee runs twice");
                tokio::join!(run(), run()).1
            }
            70..80 => {
                chaos.made("HBee is slow");
                tokio::time::sleep(wait * 20).await;
                run().await
            }
            80..83 => {
                chaos.made("HBee hangs");
                tokio::time::sleep(Duration::from_secs(10)).await;
                Err(lost())
            }
            _ => run().await,
        }
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn tasks_min(&self) -> usize {
        8
    }
}

/// Combs behind proxies.
#[derive(Debug)]
struct ChaosCombs(Arc<Chaos>);

#[async_trait]
impl Combs for ChaosCombs {
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>> {
        let combs = self.0.combs.ready(count).await?;
        let known: Vec<CombAddress> = {
            let proxies = self.0.proxies.lock();
            combs.iter().filter_map(|comb| proxies.get(comb)).map(|(address, _)| address.clone()).collect()
        };
        if known.len() == combs.len() {
            return Ok(known);
        }
        let (addresses, made) = proxied(&combs).await;
        let mut proxies = self.0.proxies.lock();
        for ((comb, address), proxy) in combs.into_iter().zip(&addresses).zip(made) {
            proxies.insert(comb, (address.clone(), proxy));
        }
        Ok(addresses)
    }

    fn partitions_per_comb(&self, count: usize) -> usize {
        self.0.combs.partitions_per_comb(count)
    }
}

/// The answers that a caller got.
#[derive(Debug, Default)]
struct Seen {
    right: usize,
    unavailable: usize,
    /// Wrong rows, other errors, and queries that hang.
    bad: Vec<String>,
    longest: Duration,
}

/// When the callers stop.
struct Until {
    at: Option<Instant>,
    asked: AtomicUsize,
    failed: AtomicBool,
}

impl Until {
    /// Returns true if a caller may ask once more.
    fn goes_on(&self) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        let time_left = self.at.map_or(asked < QUERIES, |at| Instant::now() < at);
        time_left && !self.failed.load(Ordering::SeqCst)
    }
}

/// Runs one query after the other.
async fn caller(fuse: &Fuse, dir: &Path, shapes: &[Shape], seed: u64, until: &Until) -> Seen {
    let mut random = StdRng::seed_from_u64(seed);
    let mut seen = Seen::default();
    while until.goes_on() {
        let shape = &shapes[random.random_range(0..shapes.len())];
        let started = Instant::now();
        let asked = ask_fuse(fuse, &shape.query, dir, &SETS);
        let bad = match tokio::time::timeout(HANGS_AFTER, asked).await {
            Err(_) => Some("the query hangs".to_string()),
            Ok(Ok(answer)) if sorted_text(&answer.rows) == shape.right => {
                seen.right += 1;
                None
            }
            Ok(Ok(answer)) => Some(format!("wrong rows: {:?}", sorted_text(&answer.rows))),
            Ok(Err(error)) if error.kind == ErrorKind::Unavailable => {
                println!("{}: {error}", shape.name);
                seen.unavailable += 1;
                None
            }
            Ok(Err(error)) => Some(format!("{}: {error}", error.kind)),
        };
        seen.longest = seen.longest.max(started.elapsed());
        if let Some(bad) = bad {
            until.failed.store(true, Ordering::SeqCst);
            seen.bad.push(format!("{}: {bad}", shape.name));
        }
    }
    seen
}

/// Makes the host of the run.
fn chaotic(seed: u64) -> (Fuse, Arc<Chaos>) {
    let switch = Arc::new(StoreSwitch::default());
    let of_stores = Arc::clone(&switch);
    let stores =
        Stores::with_wrapper(move |store| Arc::new(TroubledStore::new(store, "part-", Arc::clone(&of_stores))))
            .with_steady_files();
    let host = LocalHost::new(Arc::new(stores), &options(&SETS), 2).unwrap();
    let chaos = Arc::new(Chaos {
        random: Mutex::new(StdRng::seed_from_u64(seed)),
        combs: Arc::clone(&host.combs),
        proxies: Mutex::default(),
        switch,
        running: AtomicUsize::new(0),
        made: Mutex::default(),
    });
    let compute = ChaosCompute { inner: Arc::clone(&host.compute), chaos: Arc::clone(&chaos) };
    let combs = ChaosCombs(Arc::clone(&chaos));
    (Fuse::new(Host { compute: Arc::new(compute), combs: Arc::new(combs), ..host.host() }), chaos)
}

/// Waits until no task runs and no comb has a query. Combs that Fuse did not reach end theirs when the lease is over.
async fn nothing_left(chaos: &Chaos) {
    let left = || {
        let open: usize = chaos.combs.combs().iter().map(|comb| comb.inboxes().open_queries()).sum();
        (chaos.running.load(Ordering::SeqCst), open)
    };
    for _ in 0..900 {
        if left() == (0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (tasks, queries) = left();
    panic!("{tasks} tasks and {queries} open queries are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_never_give_wrong_rows() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("BUZZ_CHAOS_SEED").unwrap_or(1);
    let seconds = number("BUZZ_CHAOS_SECONDS");
    let dir = tempdir().unwrap();
    write_tables(dir.path(), 300);
    let shapes = shapes(dir.path()).await;
    let (fuse, chaos) = chaotic(seed);
    let until = Until {
        at: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        asked: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    };
    let callers = (1..=CALLERS).map(|index| caller(&fuse, dir.path(), &shapes, seed ^ (index << 32), &until));
    let callers = futures::future::join_all(callers);
    let seen = tokio::select! {
        seen = callers => seen,
        () = chaos.make_faults() => unreachable!("faults are made until the callers stop"),
    };
    let bad: Vec<&String> = seen.iter().flat_map(|seen| &seen.bad).collect();
    let (right, unavailable) =
        (seen.iter().map(|seen| seen.right).sum(), seen.iter().map(|seen| seen.unavailable).sum());
    let (right, unavailable): (usize, usize) = (right, unavailable);
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap_or_default();
    println!("seed {seed}: {right} right, {unavailable} `Unavailable`, {} bad, longest {longest:.1?}", bad.len());
    for (fault, count) in chaos.made.lock().iter() {
        println!("{count:6} {fault}");
    }
    assert!(bad.is_empty(), "seed {seed}: {bad:#?}");
    assert!(unavailable * 10 <= right, "seed {seed}: {unavailable} of {} queries failed", right + unavailable);
    nothing_left(&chaos).await;
}
