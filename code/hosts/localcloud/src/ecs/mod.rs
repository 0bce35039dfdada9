//! ECS: one cluster with one task definition, whose tasks are real processes.
//!
//! [`api`] speaks the service's JSON protocol, [`task`] is a task's life; here are the tasks and the tokens that make
//! `RunTask` idempotent. Each task has a loopback address of its own, so that all can listen on the same port.
//!
//! As the service: <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/>. Differences: reads never lag behind
//! writes; memory and CPU are not bounded; subnets, security groups and roles are not looked at; requests are not checked
//! for their signatures.

mod api;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use serde_json::Value;

use crate::Account;
use crate::process::Spawner;
pub(crate) use api::{answer, is_ecs};
use task::{Status, Task};

/// Which address a task is described with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressKind {
    /// `privateIpv4Address`, as 127.a.b.c.
    #[default]
    Ipv4,
    /// `ipv6Address`, as ::ffff:127.a.b.c: loopback has a single IPv6 address of its own.
    Ipv6,
}

/// The task definition: a container that listens on a port.
#[derive(Debug, Clone)]
pub struct TaskDefinition {
    /// Name of the cluster it runs in.
    pub cluster: String,
    /// Its family; the revision is 1.
    pub family: String,
    /// The container's name.
    pub container: String,
    /// The container's program.
    pub program: PathBuf,
    /// The container's own variables.
    pub environment: BTreeMap<String, String>,
    /// The variable that tells the program its address: on the service it may listen on every one.
    pub listen_variable: String,
    /// The port it listens on.
    pub port: u16,
    /// Which address it is described with.
    pub address: AddressKind,
    /// From `RunTask` until the program starts.
    pub start_delay: Duration,
    /// From the first signal of `StopTask` to the second; the service's default is 30 s.
    pub stop_timeout: Duration,
}

/// The tasks of the cluster.
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
    /// By id; ended tasks stay, as on the service for an hour.
    tasks: BTreeMap<String, Task>,
    /// Token, parameters and ids of the tasks.
    tokens: HashMap<String, (Value, Vec<String>)>,
    refusals: usize,
    calls: usize,
}

impl Ecs {
    pub(crate) fn new(account: Arc<Account>, spawner: Spawner, definition: TaskDefinition) -> Ecs {
        Ecs(Arc::new(Shared { account, spawner, definition, state: Mutex::default() }))
    }

    /// Refuses the next `count` calls of `RunTask` for lack of capacity.
    pub fn refuse_next(&self, count: usize) {
        self.0.state().refusals += count;
    }

    /// Kills the processes of all running tasks at once, as when their hosts fail; returns how many there were.
    pub fn kill_running(&self) -> usize {
        self.signal_running(libc::SIGKILL)
    }

    /// Tells all running tasks to stop, as when their hosts are maintained; returns how many there were.
    pub fn stop_running(&self) -> usize {
        self.signal_running(libc::SIGTERM)
    }

    fn signal_running(&self, signal: i32) -> usize {
        let state = self.0.state();
        let running: Vec<_> = state.tasks.values().filter_map(|task| task.process.as_ref()).collect();
        let running = running.into_iter().filter(|process| process.exit_status().is_none());
        running.inspect(|process| process.signal(signal)).count()
    }

    /// How many tasks were ever started.
    pub fn started(&self) -> usize {
        self.0.state().tasks.len()
    }

    /// How many calls of `RunTask` there were.
    pub fn run_calls(&self) -> usize {
        self.0.state().calls
    }

    /// Addresses of the running tasks, with the port.
    pub fn running(&self) -> Vec<String> {
        let state = self.0.state();
        let running = state.tasks.values().filter(|task| task.status == Status::Running);
        running.map(|task| format!("{}:{}", task.address, self.0.definition.port)).collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A loopback address whose port is free. Random, since several local clouds may run on one machine.
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
