//! Emulates Lambda. Every instance of a function is a real bootstrap: a process with its own runtime API.
//!
//! [`api`] implements the Invoke API for callers, [`runtime_api`] the API for instances, [`instance`] one process and its
//! invocations, and [`versions`] the versions and aliases of a function. This module holds the functions, their warm
//! instances and the concurrency limit of the account.
//!
//! Follows <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html> and
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>. Differences:
//! - Memory is measured ten times a second, so a short peak above the memory size is not detected.
//! - CPU is not allocated by memory size.
//! - Request signatures are not checked; session tokens are.
//! - An `Event` without capacity waits in memory, for an unlimited time.

mod api;
mod fault;
mod instance;
mod runtime_api;
mod versions;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Account;
use crate::connections::Freeze;
use crate::process::Spawner;
pub use api::ApiError;
pub(crate) use api::answer;
pub use fault::Fault;
use instance::Instance;
pub use versions::LIVE;
use versions::{Version, Versions};

/// The configuration of a function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Name of the function (not its ARN).
    pub name: String,
    /// Program that every instance runs.
    pub bootstrap: PathBuf,
    /// Memory size in MB. An instance that uses more is killed.
    pub memory_mb: u64,
    /// Maximum duration of one invocation.
    pub timeout: Duration,
    /// Environment variables of the function.
    pub environment: BTreeMap<String, String>,
}

/// Counters of a function since the start of the local cloud.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of invocations that ran on an instance.
    pub invocations: usize,
    /// Number of instances started.
    pub cold_starts: usize,
    /// Number of requests rejected for lack of capacity.
    pub throttles: usize,
    /// Number of instances that are busy now.
    pub busy: usize,
    /// Maximum number of instances that were busy at the same time.
    pub busy_max: usize,
}

/// The outcome of an invocation.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The response, or the error as JSON.
    pub(crate) payload: Bytes,
    /// True for a function error.
    pub(crate) failed: bool,
    /// The last 4 KB of the log.
    pub(crate) log_tail: Vec<u8>,
}

/// The emulated Lambda service with all functions of the account.
#[derive(Debug, Clone)]
pub struct Lambda {
    account: Arc<Account>,
    spawner: Spawner,
    functions: Arc<HashMap<String, Arc<Deployed>>>,
    capacity: Arc<Semaphore>,
    /// Percentage of the invocations that are refused.
    refused_percent: Arc<AtomicU8>,
    /// Fate of the connections of an instance that is frozen.
    freeze: Arc<Mutex<Freeze>>,
}

/// A function and its warm instances.
#[derive(Debug)]
pub(crate) struct Deployed {
    versions: Mutex<Versions>,
    /// Frozen instances of all versions; the most recently used is last.
    idle: Mutex<Vec<Instance>>,
    faults: Mutex<VecDeque<Fault>>,
    invocations: AtomicUsize,
    cold_starts: AtomicUsize,
    throttles: AtomicUsize,
    busy: AtomicUsize,
    busy_max: AtomicUsize,
}

impl Lambda {
    pub(crate) fn new(account: Arc<Account>, spawner: Spawner, functions: Vec<Function>, concurrency: usize) -> Lambda {
        let deployed = |function: Function| Deployed {
            versions: Mutex::new(Versions::of(function)),
            idle: Mutex::default(),
            faults: Mutex::default(),
            invocations: AtomicUsize::default(),
            cold_starts: AtomicUsize::default(),
            throttles: AtomicUsize::default(),
            busy: AtomicUsize::default(),
            busy_max: AtomicUsize::default(),
        };
        let functions = functions.into_iter().map(|function| (function.name.clone(), Arc::new(deployed(function))));
        let (functions, capacity) = (Arc::new(functions.collect()), Arc::new(Semaphore::new(concurrency)));
        Lambda { account, spawner, functions, capacity, refused_percent: Arc::default(), freeze: Arc::default() }
    }

    /// Injects `fault` into the next `count` invocations of `function`.
    ///
    /// # Panics
    /// When `function` does not exist.
    pub fn fail_next(&self, function: &str, fault: &Fault, count: usize) {
        let deployed = self.functions.get(function).expect("the function exists");
        deployed.faults.lock().extend(std::iter::repeat_n(fault.clone(), count));
    }

    /// Returns the number of faults of [`fail_next`](Self::fail_next) that have not occurred yet.
    ///
    /// # Panics
    /// When `function` does not exist.
    pub fn faults_left(&self, function: &str) -> usize {
        let deployed = self.functions.get(function).expect("the function exists");
        deployed.faults.lock().len()
    }

    /// Returns the counters of `function`.
    ///
    /// # Panics
    /// When `function` does not exist.
    pub fn counts(&self, function: &str) -> Counts {
        let deployed = self.functions.get(function).expect("the function exists");
        Counts {
            invocations: deployed.invocations.load(Ordering::Relaxed),
            cold_starts: deployed.cold_starts.load(Ordering::Relaxed),
            throttles: deployed.throttles.load(Ordering::Relaxed),
            busy: deployed.busy.load(Ordering::Relaxed),
            busy_max: deployed.busy_max.load(Ordering::Relaxed),
        }
    }

    /// Takes the faults of [`fail_next`](Self::fail_next) back that have not occurred yet.
    ///
    /// # Panics
    /// When `function` does not exist.
    pub fn fail_no_more(&self, function: &str) {
        self.functions.get(function).expect("the function exists").faults.lock().clear();
    }

    /// Ends all warm instances, so that the next invocations start cold.
    pub fn cool_down(&self) {
        for deployed in self.functions.values() {
            deployed.idle.lock().clear();
        }
    }

    /// Updates the code and the settings of a function, as a deployment does: its `$LATEST` becomes `function`. Published
    /// versions stay as they are.
    ///
    /// # Panics
    /// When no function has this name.
    pub fn update(&self, function: Function) {
        let deployed = self.functions.get(&function.name).expect("the function exists");
        deployed.versions.lock().update(function);
    }

    /// Publishes the `$LATEST` of `function` and returns the number of the new version.
    ///
    /// # Panics
    /// When `function` does not exist.
    pub fn publish(&self, function: &str) -> String {
        self.functions.get(function).expect("the function exists").versions.lock().publish()
    }

    /// Points the alias [`LIVE`] of `function` to a published version.
    ///
    /// # Panics
    /// When `function` or the version does not exist.
    pub fn set_live(&self, function: &str, version: &str) {
        self.functions.get(function).expect("the function exists").versions.lock().set_live(version);
    }

    /// Deletes a published version. The instances that run it end with their invocation.
    ///
    /// # Panics
    /// When `function` or the version does not exist.
    pub fn delete_version(&self, function: &str, version: &str) {
        self.functions.get(function).expect("the function exists").versions.lock().delete(version);
    }

    /// Returns the settings of the `$LATEST` of `function`, to change and to [`update`](Self::update).
    ///
    /// # Panics
    /// When `function` does not exist.
    pub fn latest(&self, function: &str) -> Function {
        self.functions.get(function).expect("the function exists").versions.lock().latest()
    }

    /// Refuses `percent` of the invocations from now on with 429, chosen at random, as an account does that others use too.
    pub fn refuse(&self, percent: u8) {
        self.refused_percent.store(percent, Ordering::Relaxed);
    }

    /// Sets what happens from now on to the connections of an instance to the services while it is frozen.
    pub fn set_freeze(&self, freeze: Freeze) {
        *self.freeze.lock() = freeze;
    }

    /// Keeps a frozen instance for the next invocations. Its connections may die meanwhile.
    fn keep(&self, deployed: &Deployed, instance: Instance) {
        let freeze = *self.freeze.lock();
        if freeze != Freeze::Keep {
            self.account.connections.end(&instance.ports(), freeze);
        }
        deployed.keep(instance);
    }

    /// Takes a permit for one invocation. Returns `None` if the concurrency of the account is used up.
    fn room(&self) -> Option<OwnedSemaphorePermit> {
        if crate::by_chance(self.refused_percent.load(Ordering::Relaxed)) {
            return None;
        }
        Arc::clone(&self.capacity).try_acquire_owned().ok()
    }

    /// Runs `payload` on a warm instance of `version`, or on a new one if there is none.
    async fn run(
        &self,
        deployed: &Arc<Deployed>,
        version: &Version,
        payload: Bytes,
        fault: Option<Fault>,
    ) -> io::Result<Outcome> {
        deployed.invocations.fetch_add(1, Ordering::Relaxed);
        let _busy = Busy::enter(deployed);
        let warm = deployed.warm(version);
        let mut instance = match warm {
            Some(instance) => instance,
            None => {
                deployed.cold_starts.fetch_add(1, Ordering::Relaxed);
                Instance::start(&self.account, &self.spawner, version).await?
            }
        };
        let outcome = instance.invoke(payload, fault.as_ref()).await;
        if instance.settle_shortly().await {
            self.keep(deployed, instance);
        } else if instance.lives() {
            let (lambda, deployed) = (self.clone(), Arc::clone(deployed));
            tokio::spawn(async move {
                if instance.settle().await {
                    lambda.keep(&deployed, instance);
                }
            });
        }
        Ok(outcome)
    }
}

impl Deployed {
    fn next_fault(&self) -> Option<Fault> {
        self.faults.lock().pop_front()
    }

    /// Takes the most recently used instance of `version`, if one is idle. Ends those whose keys expire.
    fn warm(&self, version: &Version) -> Option<Instance> {
        let mut idle = self.idle.lock();
        idle.retain(Instance::has_valid_keys);
        let found = idle.iter().rposition(|instance| instance.version() == version)?;
        Some(idle.remove(found))
    }

    fn keep(&self, instance: Instance) {
        self.idle.lock().push(instance);
    }
}

/// Counts an instance as busy while it lives.
struct Busy<'a>(&'a Deployed);

impl Busy<'_> {
    fn enter(deployed: &Deployed) -> Busy<'_> {
        let busy = deployed.busy.fetch_add(1, Ordering::Relaxed) + 1;
        deployed.busy_max.fetch_max(busy, Ordering::Relaxed);
        Busy(deployed)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
