//! Tests faults: HBees that crash, are slow or deliver twice, stores that fail, and combs that are lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use buzz_fuse::Fuse;
use buzz_host::{Combs, Compute, Host, Refused};
use buzz_local::{LocalCombs, LocalCompute, LocalHost};
use buzz_protocol::{CombAddress, ErrorKind, HBeeTask, Place, QueryError, Result, TaskIndex, TaskOutcome};
use buzz_storage::Stores;
use buzz_testkit::{FaultyStore, SilentProxy, sorted_text};
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::tempdir;

use crate::common::{ask_fuse, ask_on, host, options, steps};
use crate::tables::parquet_folder;

const TRANSPORTS: [&str; 2] = ["transport=memory", "transport=tcp"];

fn query(zones: usize) -> Value {
    steps(
        zones,
        &[("m", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp")],
        &[("r", "SELECT grp, SUM(n) AS n FROM m GROUP BY grp")],
        &[("rides", "Parquet", "rides")],
    )
}

const EXPECTED: [&str; 3] = ["cash | 267", "credit | 267", "dispute | 266"];

/// The fault of an HBee that runs a task.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The first attempt of every task fails before it starts, as if the HBee had crashed.
    DiesBefore,
    /// The first attempt of every task delivers all rows, and then its outcome is lost.
    DiesAfter,
    /// Every attempt runs twice concurrently; the outcome of the second run is returned.
    RunsTwice,
    /// The HBee reports an error that a retry cannot fix.
    Fails,
    /// No HBee is ever available.
    NeverThere,
}

#[derive(Debug)]
struct FaultyCompute {
    inner: Arc<LocalCompute>,
    fault: Fault,
    runs: Mutex<HashMap<u32, u32>>,
}

impl FaultyCompute {
    fn on(host: &LocalHost, fault: Fault) -> (Fuse, Arc<Self>) {
        let inner = Arc::clone(&host.compute);
        let compute = Arc::new(Self { inner, fault, runs: Mutex::default() });
        let fuse = Fuse::new(Host { compute: Arc::clone(&compute) as _, ..host.host() });
        (fuse, compute)
    }

    fn runs(&self) -> u32 {
        self.runs.lock().values().sum()
    }
}

#[async_trait]
impl Compute for FaultyCompute {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let first = {
            let mut runs = self.runs.lock();
            let runs = runs.entry(task.task.0).or_default();
            *runs += 1;
            assert_eq!(*runs, task.attempt);
            *runs == 1
        };
        let lost = || QueryError::unavailable("the worker died");
        match self.fault {
            Fault::DiesBefore if first => Err(lost()),
            Fault::DiesAfter if first => self.inner.run(task, refused).await.and(Err(lost())),
            Fault::RunsTwice => {
                let (_, second) = tokio::join!(self.inner.run(task, refused), self.inner.run(task, refused));
                second
            }
            Fault::Fails => Err(QueryError::data("file `x` is not as it should be")),
            Fault::NeverThere => Err(lost()),
            _ => self.inner.run(task, refused).await,
        }
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn tasks_min(&self) -> usize {
        4
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_or_duplicate_task_runs_are_counted_once() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::RunsTwice] {
        for transport in TRANSPORTS {
            for zones in [1, 3] {
                let host = host(&[transport]);
                let (fuse, _) = FaultyCompute::on(&host, fault);
                let answer = ask_fuse(&fuse, &query(zones), dir.path(), &[transport]).await.unwrap();
                assert_eq!(sorted_text(&answer.rows), EXPECTED, "{fault:?}, {transport}, {zones} zones");
                let retried = if matches!(fault, Fault::RunsTwice) { 0 } else { answer.summary.tasks };
                assert_eq!(answer.summary.retries, retried);
                assert!(host.combs.combs().iter().all(|comb| comb.inboxes().open_queries() == 0));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_unavailable_tasks_are_retried_up_to_the_attempt_limit() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 10);
    let host = host(&[]);
    let (fuse, compute) = FaultyCompute::on(&host, Fault::Fails);
    let error = ask_fuse(&fuse, &query(1), dir.path(), &["tasks=1"]).await.unwrap_err();
    assert_eq!((error.kind, compute.runs()), (ErrorKind::Data, 1));

    let (fuse, compute) = FaultyCompute::on(&host, Fault::NeverThere);
    let error = ask_fuse(&fuse, &query(1), dir.path(), &["tasks=1"]).await.unwrap_err();
    assert_eq!((error.kind, compute.runs()), (ErrorKind::Unavailable, 3));
    assert!(host.combs.combs().iter().all(|comb| comb.inboxes().open_queries() == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_store_failure_is_retried_without_losing_rows() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let options = options(&[]);
    let stores = Stores::with_wrapper(|store| Arc::new(FaultyStore::new(store, "part-3", 1, Duration::from_millis(1))));
    let host = LocalHost::new(Arc::new(stores), &options, 2).unwrap();
    // Planning does not read the files of a manifest, so the first read is by a task.
    let mut manifest = serde_json::json!({
        "schema": [{"name": "id", "type": "Int64"}, {"name": "grp", "type": "Utf8"}],
        "files": []
    });
    for file in 0..8 {
        let uri = format!("rides/part-{file}.parquet");
        let size = std::fs::metadata(dir.path().join(&uri)).unwrap().len();
        manifest["files"].as_array_mut().unwrap().push(serde_json::json!({"uri": uri, "size": size}));
    }
    std::fs::write(dir.path().join("list.json"), manifest.to_string()).unwrap();
    let mut query = query(2);
    query["catalogs"][0] = serde_json::json!({"name": "rides", "type": "Static", "uri": "list.json"});
    let answer = ask_on(&host, &query, dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), EXPECTED);
    assert_eq!(answer.summary.retries, 1);
}

/// Kills all combs during the first `deaths_left` task attempts, before or after they deliver.
#[derive(Debug)]
struct CombKiller {
    inner: Arc<LocalCompute>,
    combs: Arc<LocalCombs>,
    deaths_left: AtomicU32,
    after_delivery: bool,
}

#[async_trait]
impl Compute for CombKiller {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let kills =
            || self.deaths_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if self.after_delivery {
            let outcome = self.inner.run(task, refused).await;
            if kills() {
                self.combs.kill();
            }
            outcome
        } else {
            if kills() {
                self.combs.kill();
            }
            self.inner.run(task, refused).await
        }
    }

    fn concurrency(&self) -> usize {
        2
    }

    fn tasks_min(&self) -> usize {
        4
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_combs_cause_reruns_without_losing_rows() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    for transport in TRANSPORTS {
        for (zones, after_delivery) in [(1, false), (1, true), (3, false), (3, true)] {
            for (deaths, reducer) in [(1, "auto"), (3, "auto"), (1000, "auto"), (1000, "comb")] {
                let host = host(&[transport]);
                let compute = CombKiller {
                    inner: Arc::clone(&host.compute),
                    combs: Arc::clone(&host.combs),
                    deaths_left: AtomicU32::new(deaths),
                    after_delivery,
                };
                let fuse = Fuse::new(Host { compute: Arc::new(compute), ..host.host() });
                let case =
                    format!("{transport}, {zones} zones, after delivery {after_delivery}, {deaths} deaths, {reducer}");
                let reducer = format!("reducer={reducer}");
                let (query, sets) = (query(zones), [transport, "attempts=1", &reducer]);
                let asked = ask_fuse(&fuse, &query, dir.path(), &sets);
                let asked = tokio::time::timeout(Duration::from_secs(60), asked).await.expect(&case);
                if deaths == 1000 && reducer == "reducer=comb" {
                    assert_eq!(asked.expect_err(&case).kind, ErrorKind::Unavailable, "{case}");
                    continue;
                }
                let answer = asked.expect(&case);
                assert_eq!(sorted_text(&answer.rows), EXPECTED, "{case}");
                // If combs are lost in every run, Fuse reduces the last one.
                let (reruns, combs) = if deaths == 1000 { (4, 0) } else { (u64::from(deaths), zones) };
                assert_eq!(answer.summary.combs, combs, "{case}");
                assert!((1..=reruns).contains(&answer.reruns), "{case}: {} reruns", answer.reruns);
            }
        }
    }
}

/// Runs the tasks but the first attempt of the last one, which hangs.
#[derive(Debug)]
struct Straggles {
    inner: Arc<LocalCompute>,
    hanging: Arc<()>,
}

#[async_trait]
impl Compute for Straggles {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        if task.task.0 == 7 && task.attempt == 1 {
            let _dropped_with_the_attempt = Arc::clone(&self.hanging);
            return std::future::pending().await;
        }
        self.inner.run(task, refused).await
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn tasks_min(&self) -> usize {
        8
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn straggler_runs_a_second_time_and_counts_once() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    for reducer in ["reducer=comb", "reducer=inline"] {
        let sets = ["transport=tcp", "tasks=8", reducer];
        let host = host(&sets);
        let hanging = Arc::new(());
        let compute = Straggles { inner: Arc::clone(&host.compute), hanging: Arc::clone(&hanging) };
        let fuse = Fuse::new(Host { compute: Arc::new(compute), ..host.host() });
        let answer = ask_fuse(&fuse, &query(2), dir.path(), &sets).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), EXPECTED);
        assert_eq!((answer.summary.stragglers, answer.summary.retries, answer.reruns), (1, 1, 0));
        drop(fuse);
        assert_eq!(Arc::strong_count(&hanging), 1, "the slow attempt is dropped");

        let compute = Straggles { inner: Arc::clone(&host.compute), hanging };
        let fuse = Fuse::new(Host { compute: Arc::new(compute), ..host.host() });
        let off = [&sets[..], &["straggler_factor=0", "timeout_seconds=3"]].concat();
        let error = ask_fuse(&fuse, &query(2), dir.path(), &off).await.unwrap_err();
        assert!(error.kind == ErrorKind::Limit && error.message.contains("7 of 8 tasks were done"), "{error}");
    }
}

/// Runs the first task. At the others, stops the inboxes of the last comb for `reason`, and never ends.
#[derive(Debug)]
struct InboxStopper {
    inner: Arc<LocalCompute>,
    combs: Arc<LocalCombs>,
    reason: QueryError,
}

#[async_trait]
impl Compute for InboxStopper {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        if task.task.0 == 0 {
            return self.inner.run(task, refused).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.combs.combs().last().expect("a comb runs").inboxes().stop(&self.reason);
        std::future::pending().await
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn tasks_min(&self) -> usize {
        4
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reason_of_a_stopped_inbox_reaches_the_caller_whole_through_the_combs() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    // The second GROUP BY sends rows from each comb to the others.
    let query = steps(
        2,
        &[("m", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp")],
        &[("r", "SELECT n, COUNT(*) AS k FROM (SELECT grp, SUM(n) AS n FROM m GROUP BY grp) GROUP BY n")],
        &[("rides", "Parquet", "rides")],
    );
    for transport in TRANSPORTS {
        for kind in [ErrorKind::Data, ErrorKind::Limit, ErrorKind::Invalid] {
            let reason = QueryError::new(kind, "is \"truncated\"").retry_after(Some(Duration::from_secs(1)));
            let reason = reason.at(Place::file_of("rides", "s3://lake/a")).at_task("m", TaskIndex(7));
            let sets = [transport, "reducer=comb"];
            let host = host(&sets);
            let (inner, combs) = (Arc::clone(&host.compute), Arc::clone(&host.combs));
            let compute = InboxStopper { inner, combs, reason: reason.clone() };
            let fuse = Fuse::new(Host { compute: Arc::new(compute), ..host.host() });
            let asked = ask_fuse(&fuse, &query, dir.path(), &sets);
            let asked = tokio::time::timeout(Duration::from_secs(30), asked).await.expect(transport);
            assert_eq!(asked.unwrap_err(), reason.at(Place::Step("r".to_string())), "{transport}");
        }
    }
}

/// The first task that runs is refused by a service that accepts a retry after 2 seconds.
#[derive(Debug)]
struct Throttled {
    inner: Arc<LocalCompute>,
    refusals_left: AtomicU32,
}

#[async_trait]
impl Compute for Throttled {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let left = self.refusals_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(QueryError::unavailable("slow down").retry_after(Some(Duration::from_secs(2)))),
            Err(_) => self.inner.run(task, refused).await,
        }
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn tasks_min(&self) -> usize {
        4
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn task_is_retried_after_the_time_that_the_service_requires() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let host = host(&[]);
    let compute = Throttled { inner: Arc::clone(&host.compute), refusals_left: AtomicU32::new(1) };
    let fuse = Fuse::new(Host { compute: Arc::new(compute), ..host.host() });
    let started = std::time::Instant::now();
    let answer = ask_fuse(&fuse, &query(1), dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), EXPECTED);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
}

/// Creates a host whose store delays every read of a data file by 30 seconds, and a query on it.
fn slow_host(dir: &std::path::Path, sets: &[&str]) -> (LocalHost, Value) {
    parquet_folder(dir, "rides", 1, 100);
    let size = std::fs::metadata(dir.join("rides/part-0.parquet")).unwrap().len();
    let manifest = serde_json::json!({
        "schema": [{"name": "id", "type": "Int64"}, {"name": "grp", "type": "Utf8"}],
        "files": [{"uri": "rides/part-0.parquet", "size": size}]
    });
    std::fs::write(dir.join("list.json"), manifest.to_string()).unwrap();
    let mut query = query(2);
    query["catalogs"][0] = serde_json::json!({"name": "rides", "type": "Static", "uri": "list.json"});
    let slow = |store| Arc::new(FaultyStore::new(store, "part-0", 0, Duration::from_secs(30))) as _;
    (LocalHost::new(Arc::new(Stores::with_wrapper(slow)), &options(sets), 2).unwrap(), query)
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_query_closes_its_inboxes() {
    for transport in TRANSPORTS {
        let dir = tempdir().unwrap();
        let sets = [transport];
        let (host, query) = slow_host(dir.path(), &sets);
        let open = || host.combs.combs().iter().map(|comb| comb.inboxes().open_queries()).sum::<usize>();
        let asked = ask_on(&host, &query, dir.path(), &sets);
        assert!(tokio::time::timeout(Duration::from_secs(1), asked).await.is_err());
        for _ in 0..2000 {
            if open() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(open(), 0, "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_past_timeout_seconds_fails_with_kind_limit() {
    let dir = tempdir().unwrap();
    let sets = ["timeout_seconds=1"];
    let (host, query) = slow_host(dir.path(), &sets);
    let error = ask_on(&host, &query, dir.path(), &sets).await.unwrap_err();
    assert_eq!((error.kind, error.to_string().contains("`timeout_seconds`")), (ErrorKind::Limit, true));
}

/// Combs behind proxies that stop forwarding: with `at_once` from the start, otherwise after the first task.
#[derive(Debug)]
struct SilentCombs {
    inner: Arc<LocalCombs>,
    at_once: bool,
    proxies: Mutex<Vec<SilentProxy>>,
}

#[async_trait]
impl Combs for SilentCombs {
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>> {
        let mut addresses = Vec::new();
        for comb in self.inner.ready(count).await? {
            let port = comb.0.port().expect("a comb behind a socket has a port");
            let proxy = SilentProxy::to(([127, 0, 0, 1], port).into()).await.unwrap();
            addresses.push(CombAddress(format!("http://{}", proxy.address).parse().unwrap()));
            if self.at_once {
                proxy.fall_silent();
            }
            self.proxies.lock().push(proxy);
        }
        Ok(addresses)
    }

    fn partitions_per_comb(&self, count: usize) -> usize {
        self.inner.partitions_per_comb(count)
    }
}

#[derive(Debug)]
struct Silencer {
    inner: Arc<LocalCompute>,
    combs: Arc<SilentCombs>,
}

#[async_trait]
impl Compute for Silencer {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let outcome = self.inner.run(task, refused).await;
        self.combs.proxies.lock().iter().for_each(SilentProxy::fall_silent);
        outcome
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn tasks_min(&self) -> usize {
        1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_comb_is_detected_by_keep_alive() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let sets = ["transport=tcp", "attempts=1"];
    let host = host(&sets);
    let combs = Arc::new(SilentCombs { inner: Arc::clone(&host.combs), at_once: false, proxies: Mutex::default() });
    let compute = Silencer { inner: Arc::clone(&host.compute), combs: Arc::clone(&combs) };
    let fuse = Fuse::new(Host { compute: Arc::new(compute), combs, ..host.host() });
    let query = query(2);
    // No run on combs gets a response. Keep-alive detects it each time, long before this timeout. Fuse reduces the last run.
    let asked = tokio::time::timeout(Duration::from_secs(180), ask_fuse(&fuse, &query, dir.path(), &sets)).await;
    let answer = asked.expect("the query ends").unwrap();
    assert_eq!(sorted_text(&answer.rows), EXPECTED);
    assert_eq!((answer.reruns, answer.summary.combs), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_comb_fails_the_query_at_its_deadline() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    // Shorter than the time that keep-alive needs to detect the lost comb.
    let sets = ["transport=tcp", "timeout_seconds=1"];
    let host = host(&sets);
    let combs = SilentCombs { inner: Arc::clone(&host.combs), at_once: true, proxies: Mutex::default() };
    let fuse = Fuse::new(Host { combs: Arc::new(combs), ..host.host() });
    let error = ask_fuse(&fuse, &query(2), dir.path(), &sets).await.unwrap_err();
    assert_eq!((error.kind, error.to_string().contains("`timeout_seconds`")), (ErrorKind::Limit, true), "{error}");
}
