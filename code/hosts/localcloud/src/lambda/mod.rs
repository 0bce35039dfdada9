//! Lambda: functions whose instances are real bootstraps, each a process with a runtime API of its own.
//!
//! [`api`] is the Invoke API in front, [`runtime_api`] what an instance speaks behind, [`instance`] one process and its
//! invocations; here are the functions, their warm instances and the account's concurrency.
//!
//! As the service: <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html> and
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>. Differences: memory is looked at ten times a second,
//! so a short peak above the size passes; CPU is not divided by size; requests are not checked for their signatures; an
//! `Event` that finds no capacity waits in memory, without an end.

mod api;
mod fault;
mod instance;
mod runtime_api;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Account;
use crate::process::Spawner;
pub use api::ApiError;
pub(crate) use api::answer;
pub use fault::Fault;
use instance::Instance;

/// A function as it is deployed.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its name, without an ARN's beginning.
    pub name: String,
    /// The program that every instance runs.
    pub bootstrap: PathBuf,
    /// Size in MB: an instance with more memory is killed.
    pub memory_mb: u64,
    /// How long one invocation may take.
    pub timeout: Duration,
    /// The function's own variables.
    pub environment: BTreeMap<String, String>,
}

/// What a function has done since the local cloud started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Invocations that an instance took.
    pub invocations: usize,
    /// Instances that were started.
    pub cold_starts: usize,
    /// Requests that were refused for lack of capacity.
    pub throttles: usize,
    /// The most instances that were busy at once.
    pub busy_max: usize,
}

/// How an invocation ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The answer, or the error's JSON.
    pub(crate) payload: Bytes,
    /// Whether it is a function error.
    pub(crate) failed: bool,
    /// The last 4 KB of the log.
    pub(crate) log_tail: Vec<u8>,
}

/// All functions of the account.
#[derive(Debug, Clone)]
pub struct Lambda {
    account: Arc<Account>,
    spawner: Spawner,
    functions: Arc<HashMap<String, Arc<Deployed>>>,
    capacity: Arc<Semaphore>,
}

/// A function and its warm instances.
#[derive(Debug)]
pub(crate) struct Deployed {
    function: Function,
    /// Frozen instances, the one that was used last at the end.
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
            function,
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
        Lambda { account, spawner, functions, capacity }
    }

    /// Makes the next `count` invocations of `function` go wrong.
    ///
    /// # Panics
    /// When there is no such function.
    pub fn fail_next(&self, function: &str, fault: &Fault, count: usize) {
        let deployed = self.functions.get(function).expect("a test names a function that is there");
        deployed
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(std::iter::repeat_n(fault.clone(), count));
    }

    /// How many of the faults of [`fail_next`](Self::fail_next) have not happened yet.
    ///
    /// # Panics
    /// When there is no such function.
    pub fn faults_left(&self, function: &str) -> usize {
        let deployed = self.functions.get(function).expect("a test names a function that is there");
        deployed.faults.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What `function` has done.
    ///
    /// # Panics
    /// When there is no such function.
    pub fn counts(&self, function: &str) -> Counts {
        let deployed = self.functions.get(function).expect("a test names a function that is there");
        Counts {
            invocations: deployed.invocations.load(Ordering::Relaxed),
            cold_starts: deployed.cold_starts.load(Ordering::Relaxed),
            throttles: deployed.throttles.load(Ordering::Relaxed),
            busy_max: deployed.busy_max.load(Ordering::Relaxed),
        }
    }

    /// Ends all warm instances, so that the next invocations are cold.
    pub fn cool_down(&self) {
        for deployed in self.functions.values() {
            deployed.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Room for one invocation, or none.
    fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.capacity).try_acquire_owned().ok()
    }

    /// Runs `payload` on a warm instance, or on a new one. The permit is given back with the outcome.
    async fn run(&self, deployed: &Arc<Deployed>, payload: Bytes, fault: Option<Fault>) -> io::Result<Outcome> {
        deployed.invocations.fetch_add(1, Ordering::Relaxed);
        let _busy = Busy::enter(deployed);
        let warm = deployed.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut instance = match warm {
            Some(instance) => instance,
            None => {
                deployed.cold_starts.fetch_add(1, Ordering::Relaxed);
                Instance::start(&self.account, &self.spawner, &deployed.function).await?
            }
        };
        let outcome = instance.invoke(payload, fault.as_ref()).await;
        if instance.settle_shortly().await {
            deployed.keep(instance);
        } else if instance.lives() {
            let deployed = Arc::clone(deployed);
            tokio::spawn(async move {
                if instance.settle().await {
                    deployed.keep(instance);
                }
            });
        }
        Ok(outcome)
    }
}

impl Deployed {
    fn next_fault(&self) -> Option<Fault> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn keep(&self, instance: Instance) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
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
