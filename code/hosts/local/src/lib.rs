//! A host on one machine: HBees are Tokio tasks. Combs run in this process, in memory or behind loopback sockets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buzz_exchange::{MemoryNetwork, Network, TcpNetwork};
use buzz_hbee::HBee;
use buzz_hcomb::{Comb, ComputeRuntime, PlanChange, serve};
use buzz_host::{Combs, Compute, Host, ObjectRoot, Refused, ResultCache};
use buzz_protocol::{CombAddress, HBeeTask, Options, QueryError, Result, THREAD_STACK_BYTES, TaskOutcome, Transport};
use buzz_storage::Stores;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

/// A host that runs everything in this process.
#[derive(Debug)]
pub struct LocalHost {
    /// Stores of the tables.
    pub stores: Arc<Stores>,
    /// Runs tasks.
    pub compute: Arc<LocalCompute>,
    /// Starts combs.
    pub combs: Arc<LocalCombs>,
    /// Connects to combs.
    pub network: Arc<dyn Network>,
    /// The place of exchanged objects: a temporary folder.
    pub objects: Arc<ObjectRoot>,
    /// Results of earlier queries, for the option `reuse`.
    pub cache: Option<Arc<ResultCache>>,
}

impl LocalHost {
    /// Creates a host with `threads` threads. `options` set the transport and the memory.
    ///
    /// # Errors
    /// `Internal` if there is no directory for temporary files.
    pub fn new(stores: Arc<Stores>, options: &Options, threads: usize) -> Result<LocalHost> {
        Self::changing_plans(stores, options, threads, Arc::new(Ok))
    }

    /// Creates a host as [`LocalHost::new`] whose combs run `change` of every plan. Tests inject faults with it.
    ///
    /// # Errors
    /// As [`LocalHost::new`].
    pub fn changing_plans(
        stores: Arc<Stores>,
        options: &Options,
        threads: usize,
        change: PlanChange,
    ) -> Result<LocalHost> {
        let memory = Arc::new(MemoryNetwork::default());
        let network: Arc<dyn Network> = match options.transport {
            Transport::Memory => Arc::clone(&memory) as _,
            Transport::Tcp => Arc::new(TcpNetwork::default()),
        };
        let hbee = HBee::new(Arc::clone(&stores), Arc::clone(&network) as _, options.memory_bytes)?;
        let combs = LocalCombs {
            running: Mutex::default(),
            transport: options.transport,
            memory,
            network: Arc::clone(&network),
            memory_bytes: options.memory_bytes,
            threads,
            change: Change(change),
        };
        let compute = LocalCompute { hbee: Arc::new(hbee), threads };
        let objects = Arc::new(ObjectRoot::temporary());
        Ok(LocalHost { stores, compute: Arc::new(compute), combs: Arc::new(combs), network, objects, cache: None })
    }

    /// Has the results of queries kept in `folder`, with the option `reuse`.
    #[must_use]
    pub fn keeping_in(mut self, folder: PathBuf) -> Self {
        self.cache = Some(Arc::new(ResultCache::in_folder(folder)));
        self
    }

    /// Returns the parts of this host as one value.
    pub fn host(&self) -> Host {
        Host {
            stores: Arc::clone(&self.stores),
            compute: Arc::clone(&self.compute) as _,
            combs: Arc::clone(&self.combs) as _,
            network: Arc::clone(&self.network),
            objects: Arc::clone(&self.objects),
            cache: self.cache.clone(),
        }
    }
}

/// Runs each task as a Tokio task, which is aborted if its future is dropped.
#[derive(Debug)]
pub struct LocalCompute {
    hbee: Arc<HBee>,
    threads: usize,
}

#[async_trait]
impl Compute for LocalCompute {
    async fn run(&self, task: &HBeeTask, _refused: Refused<'_>) -> Result<TaskOutcome> {
        let (hbee, task) = (Arc::clone(&self.hbee), task.clone());
        let (step, index) = (task.step.clone(), task.task);
        let running = AbortOnDropHandle::new(tokio::spawn(async move { hbee.run(&task).await }));
        match running.await {
            Ok(outcome) => outcome,
            Err(ended) => Err(match ended.try_into_panic() {
                Ok(panic) => QueryError::panicked(panic.as_ref()).at_task(&step, index),
                Err(_) => QueryError::cancelled("the task was stopped").at_task(&step, index),
            }),
        }
    }

    fn concurrency(&self) -> usize {
        self.threads
    }

    fn runs_once(&self) -> bool {
        true
    }

    fn tasks_min(&self) -> usize {
        // Twice the threads, so that one long task does not leave the others idle.
        2 * self.threads
    }
}

/// Combs in this process, started on demand.
#[derive(Debug)]
pub struct LocalCombs {
    running: Mutex<Vec<RunningComb>>,
    transport: Transport,
    memory: Arc<MemoryNetwork>,
    network: Arc<dyn Network>,
    memory_bytes: u64,
    threads: usize,
    change: Change,
}

/// The change of the combs' plans.
struct Change(PlanChange);

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Change")
    }
}

#[derive(Debug)]
struct RunningComb {
    address: CombAddress,
    comb: Comb,
    /// Runtimes of a comb behind a socket.
    server: Option<CombServer>,
}

/// The runtimes of a comb behind a socket. When the one of connections stops, the connections of the comb close.
#[derive(Debug)]
struct CombServer {
    connections: Runtime,
    /// Runs operators until it is dropped.
    _compute: ComputeRuntime,
}

/// Threads of the connections of a comb.
const CONNECTION_THREADS: usize = 2;

/// Interval at which a comb ends the queries that their Fuse has left.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[async_trait]
impl Combs for LocalCombs {
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>> {
        let mut running = self.running.lock();
        while running.len() < count {
            let next = running.len();
            running.push(self.start(next)?);
        }
        Ok(running[..count].iter().map(|comb| comb.address.clone()).collect())
    }

    fn partitions_per_comb(&self, count: usize) -> usize {
        self.threads.div_ceil(count).max(1)
    }
}

impl LocalCombs {
    fn start(&self, index: usize) -> Result<RunningComb> {
        let comb = Comb::changing_plans(Arc::clone(&self.network), self.memory_bytes, Arc::clone(&self.change.0))?;
        match self.transport {
            Transport::Memory => {
                let address = CombAddress::in_memory(index);
                self.memory.add(address.clone(), Arc::clone(comb.inboxes()), comb.worker().clone());
                Ok(RunningComb { address, comb, server: None })
            }
            Transport::Tcp => self.serve(comb),
        }
    }

    fn serve(&self, comb: Comb) -> Result<RunningComb> {
        let failed = |error: std::io::Error| QueryError::unavailable(format!("a comb cannot be started: {error}"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let connections = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONNECTION_THREADS)
            .thread_name("comb")
            .thread_stack_size(THREAD_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(failed)?;
        let compute = ComputeRuntime::start(self.threads)?;
        let (served, operators) = (comb.clone(), compute.handle().clone());
        connections.spawn(async move {
            let outcome = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => serve(served, listener, None, operators, std::future::pending()).await,
                Err(error) => Err(failed(error)),
            };
            if let Err(error) = outcome {
                tracing::error!(%error, "a comb stopped serving");
            }
        });
        let inboxes = Arc::clone(comb.inboxes());
        connections.spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                inboxes.end_overdue(buzz_protocol::now_ms());
            }
        });
        let address = format!("http://127.0.0.1:{port}").parse();
        let address = address.map_err(|_| QueryError::internal("the address of a comb is invalid"))?;
        let server = CombServer { connections, _compute: compute };
        Ok(RunningComb { address: CombAddress(address), comb, server: Some(server) })
    }

    /// Returns the running combs, for tests and reports.
    pub fn combs(&self) -> Vec<Comb> {
        let running = self.running.lock();
        running.iter().map(|running| running.comb.clone()).collect()
    }

    /// Stops all combs, as if their hosts were lost. [`Combs::ready`] starts new ones.
    pub fn kill(&self) {
        let killed: Vec<RunningComb> = self.running.lock().drain(..).collect();
        for running in killed {
            self.memory.remove(&running.address);
            let comb = running.comb.clone();
            drop(running);
            comb.remove_spilled();
        }
    }
}

impl Drop for LocalCombs {
    /// Ends the combs. A comb knows the network and the network the comb, so both would stay, with the comb's folder for spilled
    /// rows.
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for RunningComb {
    fn drop(&mut self) {
        match self.server.take() {
            // Connections break. The inboxes of a real comb would be lost with its process.
            Some(server) => server.connections.shutdown_background(),
            None => self.comb.inboxes().stop(&QueryError::unavailable(format!("comb {} is lost", self.address))),
        }
    }
}

#[cfg(test)]
mod tests {
    use buzz_testkit::check_combs;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn combs_in_memory_end_with_their_host() {
        let options = Options { transport: Transport::Memory, ..Options::default() };
        let host = LocalHost::new(Arc::default(), &options, 2).unwrap();
        host.combs.ready(2).await.unwrap();
        let inboxes: Vec<_> = host.combs.combs().iter().map(|comb| Arc::downgrade(comb.inboxes())).collect();
        assert!(inboxes.len() == 2 && inboxes.iter().all(|inboxes| inboxes.upgrade().is_some()));
        drop(host);
        assert!(inboxes.iter().all(|inboxes| inboxes.upgrade().is_none()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn local_combs_keep_the_contract() {
        for transport in [Transport::Memory, Transport::Tcp] {
            let options = Options { transport, ..Options::default() };
            let host = LocalHost::new(Arc::default(), &options, 2).unwrap();
            check_combs(host.combs.as_ref(), 3).await;
            host.combs.kill();
            assert_eq!(host.combs.ready(1).await.unwrap().len(), 1, "{transport:?}: others are started");
        }
    }
}
