//! One run of a pipeline by this server, in a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use buzz_protocol::{ErrorKind, QueryError, Result, now_ms};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::graph::graph;
use crate::jobs::registry::{Entry, Registry};
use crate::jobs::status::{JobState, Level, Status};
use crate::jobs::wanted::Wanted;
use crate::live::Live;
use crate::notes::Notes;
use crate::process::Process;
use crate::run::{End, Losses, Order, Pace, drive, ordered};
use crate::runner::Runner;
use crate::start::{Opening, stateful};
use crate::thread;

/// Time before a job that found a store or a sink unavailable tries again: at first, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The end of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// All sources have ended.
    Finished,
    /// It has failed, and would fail again.
    Failed(QueryError),
    /// It has received an order to end.
    Ordered,
    /// Another server owns the pipeline.
    Superseded,
}

/// A run of a pipeline by this server.
#[derive(Debug)]
pub(crate) struct Job {
    /// The number of what is wanted, with which it runs.
    pub(crate) n: u64,
    wanted: Wanted,
    /// The number of the take-over.
    lease: u64,
    orders: watch::Sender<Order>,
    status: Mutex<Status>,
    outcome: Mutex<Option<Outcome>>,
    live: Arc<Live>,
}

impl Notes for Job {
    fn note(&self, text: &str) {
        self.status.lock().add(Level::Info, text);
    }

    fn warn(&self, text: &str) {
        self.status.lock().add(Level::Warn, text);
    }
}

impl Job {
    /// Starts a run. `before` is the last status of the pipeline. `ended` is called when it has an outcome.
    pub(crate) fn start(
        (n, wanted, lease): (u64, Wanted, u64),
        before: Status,
        live: Arc<Live>,
        at: At,
        ended: impl FnOnce() + Send + 'static,
    ) -> Arc<Self> {
        let mut status = Status {
            wanted: n,
            state: JobState::Scheduling,
            error: None,
            run: before.run + 1,
            started_ms: Some(now_ms()),
            ended_ms: None,
            server: at.server.clone(),
            ..before
        };
        status.add(Level::Info, &format!("run {} starts", status.run));
        let job = Arc::new(Self {
            n,
            wanted,
            lease,
            orders: watch::Sender::new(Order::Go),
            status: Mutex::new(status),
            outcome: Mutex::new(None),
            live,
        });
        let process = Process { notes: Arc::clone(&job) as Arc<dyn Notes>, ..at.process.clone() };
        let (own, name) = (Arc::clone(&job), format!("job {}", at.entry.id));
        let own_end = Arc::clone(&job);
        let run = move || async move { own.run(&at, &process).await };
        let done = move |outcome: Result<Outcome>| {
            own_end.end(outcome.unwrap_or_else(Outcome::Failed));
            ended();
        };
        if let Err(error) = thread::spawn(&name, run, done) {
            job.end(Outcome::Failed(error));
        }
        job
    }

    /// Gives an order. An earlier order to end at once stays.
    pub(crate) fn order(&self, order: Order) {
        self.orders.send_if_modified(|given| {
            let is_new = *given != order && *given != Order::Abandon;
            if is_new {
                *given = order;
            }
            is_new
        });
    }

    /// Returns the outcome, if the run has ended.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.outcome.lock().clone()
    }

    /// Returns the status.
    pub(crate) fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Enters the outcome.
    fn end(&self, outcome: Outcome) {
        let mut status = self.status.lock();
        status.ended_ms = Some(now_ms());
        match &outcome {
            Outcome::Finished => {
                status.state = JobState::Finished;
                status.add(Level::Info, "all sources have ended");
            }
            Outcome::Failed(error) => {
                status.state = JobState::Failed;
                status.error = Some(error.to_string());
                status.add(Level::Error, &error.to_string());
            }
            Outcome::Ordered | Outcome::Superseded => {}
        }
        *self.outcome.lock() = Some(outcome);
    }

    fn enter(&self, state: JobState) {
        self.status.lock().state = state;
    }

    /// Runs until the pipeline ends. While a store or a sink is unavailable, it tries again.
    async fn run(self: Arc<Self>, at: &At, process: &Process) -> Outcome {
        let mut orders = self.orders.subscribe();
        let mut wait = RETRY_AFTER;
        loop {
            let epochs = self.live.figures().epochs;
            let error = match self.attempt(at, process, &mut orders).await {
                Ok(outcome) => return outcome,
                Err(error) => error,
            };
            if let Ok(true) = at.entry.owner.is_replaced(self.lease).await {
                return Outcome::Superseded;
            }
            if error.kind != ErrorKind::Unavailable {
                return Outcome::Failed(error);
            }
            if self.live.figures().epochs > epochs {
                wait = RETRY_AFTER;
            }
            {
                let mut status = self.status.lock();
                status.state = JobState::Recovering;
                status.error = Some(error.to_string());
                status.add(Level::Error, &format!("{error}; tries again in {:.1} s", wait.as_secs_f64()));
            }
            self.publish(at).await;
            tokio::select! {
                () = ordered(&mut orders, Order::Finish) => return Outcome::Ordered,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 3 / 2).min(RETRY_AFTER_MAX);
        }
    }

    /// Opens the pipeline and drives it.
    async fn attempt(&self, at: &At, process: &Process, orders: &mut watch::Receiver<Order>) -> Result<Outcome> {
        self.enter(JobState::Scheduling);
        self.publish(at).await;
        let opening = Opening {
            store: Arc::clone(&at.registry.store),
            root: at.registry.root.clone(),
            remote: at.registry.is_remote,
            name: self.wanted.log.clone(),
            parallelism: self.wanted.parallelism,
            from_epoch: None,
            continues: self.wanted.continues,
        };
        let mut runner = tokio::select! {
            biased;
            () = ordered(orders, Order::Abandon) => return Ok(Outcome::Ordered),
            opened = stateful(&self.wanted.script, &opening, process) => opened?,
        };
        runner.live = Arc::clone(&self.live);
        let pace = self.begin(&runner, at.registry.is_remote);
        self.publish(at).await;
        let mut losses = Losses::default();
        loop {
            match drive(&mut runner, pace, orders).await? {
                End::Sources | End::Closed | End::Epochs => {
                    runner.stop().await?;
                    return Ok(Outcome::Finished);
                }
                End::Lost => {
                    if at.entry.owner.is_replaced(self.lease).await? {
                        return Ok(Outcome::Superseded);
                    }
                    losses.add(&runner)?;
                    runner.load().await?;
                }
                End::Ordered(Order::Abandon) => return Ok(Outcome::Ordered),
                End::Ordered(Order::Go | Order::Finish) => {
                    runner.stop().await?;
                    return Ok(Outcome::Ordered);
                }
            }
        }
    }

    /// Enters that the pipeline runs. Returns its pace.
    fn begin(&self, runner: &Runner, is_remote: bool) -> Pace {
        let planned = &runner.planned;
        let of_script = u64::try_from(planned.settings.epoch_nanos(is_remote) / 1000).unwrap_or_default();
        let micros = self.wanted.epoch_micros.unwrap_or(of_script);
        let mut status = self.status.lock();
        status.state = JobState::Running;
        status.error = None;
        status.workers = planned.workers;
        status.epoch_micros = micros;
        status.graph = graph(planned);
        let (workers, epoch) = (planned.workers, runner.record.epoch);
        status.add(Level::Info, &format!("runs with {workers} workers after epoch {epoch}"));
        Pace { epoch: Duration::from_micros(micros), epochs: None }
    }

    /// Writes the status down, for other servers. A failure changes nothing.
    async fn publish(&self, at: &At) {
        let status = self.status();
        if let Err(error) = at.registry.put_status(&at.entry, &status).await {
            tracing::warn!(%error, pipeline = at.entry.id, "the status of a pipeline was not written");
        }
    }
}

/// The place of a run.
#[derive(Debug, Clone)]
pub(crate) struct At {
    pub(crate) registry: Arc<Registry>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) process: Process,
    pub(crate) server: String,
}
