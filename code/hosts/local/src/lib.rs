//! One machine as a host: HBees are Tokio tasks, combs are in this process, in memory or behind loopback sockets.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use buzz_exchange::{MemoryNetwork, Network, TcpNetwork};
use buzz_fuse::{Combs, Compute, Fuse, Refused};
use buzz_hbee::HBee;
use buzz_hcomb::{Comb, serve};
use buzz_protocol::{CombAddress, HBeeTask, Options, QueryError, Result, TaskOutcome, Transport};
use buzz_storage::{Storage, panic_message};
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

/// A host that needs nothing but this process.
#[derive(Debug)]
pub struct LocalHost {
    /// Where tables are read from.
    pub storage: Arc<Storage>,
    /// What runs tasks.
    pub compute: Arc<LocalCompute>,
    /// What reduces.
    pub combs: Arc<LocalCombs>,
    /// The way to the combs.
    pub network: Arc<dyn Network>,
}

impl LocalHost {
    /// A host with `threads` threads, whose transport and memory are as `options` say.
    ///
    /// # Errors
    /// `Internal` when there is no directory for temporary files.
    pub fn new(storage: Arc<Storage>, options: &Options, threads: usize) -> Result<LocalHost> {
        let memory = Arc::new(MemoryNetwork::default());
        let network: Arc<dyn Network> = match options.transport {
            Transport::Memory => Arc::clone(&memory) as _,
            Transport::Tcp => Arc::new(TcpNetwork::default()),
        };
        let hbee = HBee::new(Arc::clone(&storage), Arc::clone(&network) as _, options.memory_bytes)?;
        let combs = LocalCombs {
            running: Mutex::default(),
            transport: options.transport,
            memory,
            network: Arc::clone(&network),
            memory_bytes: options.memory_bytes,
            threads,
        };
        let compute = LocalCompute { hbee: Arc::new(hbee), threads };
        Ok(LocalHost { storage, compute: Arc::new(compute), combs: Arc::new(combs), network })
    }

    /// A Fuse on this host.
    pub fn fuse(&self) -> Fuse {
        Fuse::new(
            Arc::clone(&self.storage),
            Arc::clone(&self.compute) as _,
            Arc::clone(&self.combs) as _,
            Arc::clone(&self.network),
        )
    }
}

/// Runs tasks as Tokio tasks; dropping the future of one stops it.
#[derive(Debug)]
pub struct LocalCompute {
    hbee: Arc<HBee>,
    threads: usize,
}

#[async_trait]
impl Compute for LocalCompute {
    async fn run(&self, task: &HBeeTask, _refused: Refused<'_>) -> Result<TaskOutcome> {
        let (hbee, task) = (Arc::clone(&self.hbee), task.clone());
        let place = format!("step `{}`, task {}", task.step, task.task);
        let running = AbortOnDropHandle::new(tokio::spawn(async move { hbee.run(&task).await }));
        match running.await {
            Ok(outcome) => outcome,
            Err(ended) => Err(match ended.try_into_panic() {
                Ok(panic) => {
                    QueryError::internal(format!("a bug in Buzz: {}", panic_message(panic.as_ref()))).at(place)
                }
                Err(_) => QueryError::cancelled("the task was stopped").at(place),
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

/// Combs in this process, started when they are first needed.
#[derive(Debug)]
pub struct LocalCombs {
    running: Mutex<Vec<RunningComb>>,
    transport: Transport,
    memory: Arc<MemoryNetwork>,
    network: Arc<dyn Network>,
    memory_bytes: u64,
    threads: usize,
}

#[derive(Debug)]
struct RunningComb {
    address: CombAddress,
    comb: Comb,
    /// A comb behind a socket has threads of its own: when it is gone, so are its connections.
    server: Option<Runtime>,
}

#[async_trait]
impl Combs for LocalCombs {
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
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
        let comb = Comb::new(Arc::clone(&self.network), self.memory_bytes)?;
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
        let server = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads)
            .thread_name("comb")
            .enable_all()
            .build()
            .map_err(failed)?;
        let served = comb.clone();
        server.spawn(async move {
            let outcome = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => serve(served, listener, std::future::pending()).await,
                Err(error) => Err(failed(error)),
            };
            if let Err(error) = outcome {
                tracing::error!(%error, "a comb stopped serving");
            }
        });
        let address = format!("http://127.0.0.1:{port}").parse();
        let address = address.map_err(|_| QueryError::internal("a socket without an address"))?;
        Ok(RunningComb { address: CombAddress(address), comb, server: Some(server) })
    }

    /// The combs that run, for tests and reports.
    pub fn combs(&self) -> Vec<Comb> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|running| running.comb.clone()).collect()
    }

    /// Kills all combs, as if their hosts had gone; [`Combs::ready`] starts others.
    pub fn kill(&self) {
        let killed: Vec<RunningComb> = self.running.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        for running in killed {
            self.memory.remove(&running.address);
            drop(running);
        }
    }
}

impl Drop for RunningComb {
    fn drop(&mut self) {
        match self.server.take() {
            // Connections break; the inboxes die with the process that a real comb is.
            Some(server) => server.shutdown_background(),
            None => self.comb.inboxes().stop(&QueryError::unavailable(format!("comb {} is gone", self.address))),
        }
    }
}
