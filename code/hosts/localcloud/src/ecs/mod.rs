//! Emulates ECS with one cluster and one task definition, whose tasks are real processes.
//!
//! [`api`] implements the JSON protocol of the service and [`task`] the life cycle of a task. This module holds the
//! tasks and the tokens that make `RunTask` idempotent. Each task has its own loopback address, so that all tasks can
//! listen on the same port.
//!
//! Follows <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/>. Differences: reads are consistent with writes, or late
//! by [`Ecs::set_lag`]; memory and CPU are not limited; subnets, security groups and roles are ignored; request signatures are not
//! checked, but session tokens are; a task has its keys in variables, and they are not renewed.

mod api;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rand::Rng;
use serde_json::Value;

use crate::Account;
use crate::process::Spawner;
pub(crate) use api::{answer, is_ecs};
use task::{Status, Task};

/// The kind of address that `DescribeTasks` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressKind {
    /// `privateIpv4Address`, in the form 127.a.b.c.
    #[default]
    Ipv4,
    /// `ipv6Address`, in the form ::ffff:127.a.b.c, since loopback has only one IPv6 address of its own.
    Ipv6,
}

/// A task definition with one container that listens on a port.
#[derive(Debug, Clone)]
pub struct TaskDefinition {
    /// Name of the cluster.
    pub cluster: String,
    /// Family of the task definition; the revision is 1.
    pub family: String,
    /// Name of the container.
    pub container: String,
    /// Program of the container.
    pub program: PathBuf,
    /// Environment variables of the container.
    pub environment: BTreeMap<String, String>,
    /// Environment variable that holds the program's listen address. On AWS the program can listen on all addresses.
    pub listen_variable: String,
    /// Port on which the program listens.
    pub port: u16,
    /// Kind of address that `DescribeTasks` returns.
    pub address: AddressKind,
    /// Time from `RunTask` to the start of the program.
    pub start_delay: Duration,
    /// Time from SIGTERM to SIGKILL after `StopTask`; the default of the service is 30 s.
    pub stop_timeout: Duration,
}

/// The emulated ECS service with the tasks of its cluster.
#[derive(Debug, Clone)]
pub struct Ecs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    account: Arc<Account>,
    spawner: Spawner,
    definition: TaskDefinition,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Tasks by id. Stopped tasks are kept; the service keeps them for an hour.
    tasks: BTreeMap<String, Task>,
    /// By client token: the request and the ids of its tasks.
    tokens: HashMap<String, (Value, Vec<String>)>,
    refusals: usize,
    /// Calls that will be rejected because of their rate.
    throttles: usize,
    /// Tasks that will fail to start.
    failed_starts: usize,
    calls: usize,
    /// Time from `RunTask` until other calls know the task.
    lag: Duration,
}

impl Ecs {
    pub(crate) fn new(account: Arc<Account>, spawner: Spawner, definition: TaskDefinition) -> Ecs {
        Ecs(Arc::new(Shared { account, spawner, definition, state: Mutex::default() }))
    }

    /// Rejects the next `count` calls of `RunTask` for lack of capacity.
    pub fn refuse_next(&self, count: usize) {
        self.0.state().refusals += count;
    }

    /// Rejects the next `count` calls of any action because of their rate.
    pub fn throttle_next(&self, count: usize) {
        self.0.state().throttles += count;
    }

    /// Makes lists and descriptions leave out tasks for `lag` after their `RunTask`: the service is eventually consistent.
    pub fn set_lag(&self, lag: Duration) {
        self.0.state().lag = lag;
    }

    /// Makes the next `count` tasks stop while they start.
    pub fn fail_starting_next(&self, count: usize) {
        self.0.state().failed_starts += count;
    }

    /// Takes the faults of [`fail_starting_next`](Self::fail_starting_next) back that have not occurred yet.
    pub fn fail_starting_no_more(&self) {
        self.0.state().failed_starts = 0;
    }

    /// Stops the processes of all running tasks without ending them. Returns the number of processes.
    pub fn freeze_running(&self) -> usize {
        self.signal_running(libc::SIGSTOP)
    }

    /// Lets the processes of [`freeze_running`](Self::freeze_running) go on. Returns the number of running processes.
    pub fn thaw_running(&self) -> usize {
        self.signal_running(libc::SIGCONT)
    }

    /// Kills the processes of all running tasks, as a host failure does. Returns the number of processes.
    pub fn kill_running(&self) -> usize {
        self.signal_running(libc::SIGKILL)
    }

    /// Kills the processes of all running tasks, as the kernel does if a container exceeds its memory. Returns the number of
    /// processes.
    pub fn exceed_memory_running(&self) -> usize {
        for task in self.0.state().tasks.values_mut().filter(|task| task.status == Status::Running) {
            task.exceeds_memory();
        }
        self.signal_running(libc::SIGKILL)
    }

    /// Removes the folders for temporary files of all running tasks, as if their disks were lost. Returns the number of
    /// folders.
    pub fn lose_disks_running(&self) -> usize {
        let state = self.0.state();
        let running = state.tasks.values().filter(|task| task.status == Status::Running);
        let folders = running.map(|task| self.0.account.scratch.join(format!("task-{}", task.id)));
        folders.filter(|folder| std::fs::remove_dir_all(folder).is_ok()).count()
    }

    /// Sends SIGTERM to all running tasks, as host maintenance does. Returns the number of processes.
    pub fn stop_running(&self) -> usize {
        self.signal_running(libc::SIGTERM)
    }

    fn signal_running(&self, signal: i32) -> usize {
        let state = self.0.state();
        let running: Vec<_> = state.tasks.values().filter_map(|task| task.process.as_ref()).collect();
        let running = running.into_iter().filter(|process| process.exit_status().is_none());
        running.inspect(|process| process.signal(signal)).count()
    }

    /// Returns the number of tasks started so far.
    pub fn started(&self) -> usize {
        self.0.state().tasks.len()
    }

    /// Returns the number of `RunTask` calls so far.
    pub fn run_calls(&self) -> usize {
        self.0.state().calls
    }

    /// Returns the addresses of the running tasks, in the form `host:port`.
    pub fn running(&self) -> Vec<String> {
        let state = self.0.state();
        let running = state.tasks.values().filter(|task| task.status == Status::Running);
        running.map(|task| format!("{}:{}", task.address, self.0.definition.port)).collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns true if the next task must fail to start, and counts it.
    fn fails_to_start(&self) -> bool {
        let mut state = self.state();
        let left = state.failed_starts;
        state.failed_starts = left.saturating_sub(1);
        left > 0
    }

    /// Returns a random loopback address whose port is free, or `None` after 64 tries. Random, since several local
    /// clouds may run on one machine.
    fn free_address(&self) -> Option<Ipv4Addr> {
        let mut random = rand::rng();
        for _ in 0..64 {
            let address =
                Ipv4Addr::new(127, random.random_range(64..128), random.random(), random.random_range(1..255));
            if TcpListener::bind((address, self.definition.port)).is_ok() {
                return Some(address);
            }
        }
        None
    }
}
