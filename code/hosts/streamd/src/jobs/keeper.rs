//! Keeps the pipelines of a state going: takes those that no server runs, starts and stops them, and writes down what they do.
//!
//! A server owns a pipeline by the newest document of the sequence `owner`. It gives signs of life. When these stop for
//! [`SILENT_BEATS`], measured by the clock of the one who looks, any other server may create the next document. A server that
//! was only slow sees that at its next epoch at the latest: of two records of one epoch, one is created.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_epoch::EpochLog;
use buzz_protocol::{Result, now_ms};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::jobs::job::{At, Job, Outcome};
use crate::jobs::registry::{Entry, Lease, Registry};
use crate::jobs::status::{JobState, Level, Status};
use crate::jobs::wanted::Wanted;
use crate::live::{Figures, Live};
use crate::process::Process;
use crate::run::Order;
use crate::start::forget_readers;
use crate::thread;

/// Signs of life that a server may miss before others take its pipelines.
const SILENT_BEATS: u32 = 5;

/// Looks after all pipelines, after which signs of life of servers that were killed are removed.
const ROUNDS_OF_SIGNS: u64 = 60;

/// Interval at which a server looks if its jobs have ended, while it stops.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Time for a job that has received the order to end at once.
const ABANDON_WITHIN: Duration = Duration::from_secs(1);

/// A server, and the pipelines that it runs.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) registry: Arc<Registry>,
    pub(crate) process: Process,
    pub(crate) server: String,
    /// Interval of signs of life, and of looking what is wanted.
    pub(crate) beat: Duration,
    /// Something has changed that need not wait for the next look.
    pub(crate) changed: Arc<Notify>,
    pub(crate) stopping: CancellationToken,
    own: Mutex<BTreeMap<String, Own>>,
}

/// A pipeline that this server runs or has run.
#[derive(Debug, Clone, Default)]
struct Own {
    job: Option<Arc<Job>>,
    live: Arc<Live>,
    /// The status that was written down.
    written: Status,
}

/// Signs of life of other servers, and since when each has not changed.
#[derive(Debug, Default)]
struct Signs(BTreeMap<String, (Bytes, Instant)>);

impl Signs {
    /// Enters the newest sign of `server`. Returns the time since which it is the same.
    fn enter(&mut self, server: &str, sign: Bytes, now: Instant) -> Duration {
        match self.0.get(server) {
            Some((before, since)) if *before == sign => now.saturating_duration_since(*since),
            _ => {
                self.0.insert(server.to_string(), (sign, now));
                Duration::ZERO
            }
        }
    }
}

impl Keeper {
    pub(crate) fn new(registry: Arc<Registry>, process: Process, server: String, beat: Duration) -> Self {
        let (changed, stopping, own) = Default::default();
        Self { registry, process, server, beat, changed, stopping, own }
    }

    /// Gives signs of life until the server stops.
    pub(crate) async fn live(&self) {
        while !self.stopping.is_cancelled() {
            if let Err(error) = self.registry.beat(&self.server).await {
                tracing::warn!(%error, "a sign of life was not written");
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = tokio::time::sleep(self.beat) => {}
            }
        }
    }

    /// Looks after all pipelines, again and again, until the server stops.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut signs = Signs::default();
        for round in 1_u64.. {
            if self.stopping.is_cancelled() {
                return;
            }
            if round.is_multiple_of(ROUNDS_OF_SIGNS)
                && let Err(error) = self.clear(&mut signs).await
            {
                tracing::warn!(%error, "the signs of life of servers cannot be read");
            }
            match self.registry.ids().await {
                Ok(ids) => {
                    for id in ids {
                        if let Err(error) = self.attend(&id, &mut signs).await {
                            tracing::warn!(%error, pipeline = id, "a pipeline was not looked after");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "the pipelines of the state cannot be listed"),
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(self.beat) => {}
            }
        }
    }

    /// Removes the signs of life of servers that were killed, also of those that ran nothing.
    async fn clear(&self, signs: &mut Signs) -> Result<()> {
        let servers = self.registry.servers().await?;
        signs.0.retain(|server, _| servers.contains(server));
        for server in servers.iter().filter(|server| **server != self.server) {
            if let Some(sign) = self.registry.sign_of(server).await?
                && signs.enter(server, sign, Instant::now()) >= self.beat * SILENT_BEATS
            {
                self.registry.forget(server).await?;
            }
        }
        Ok(())
    }

    /// Looks after one pipeline.
    async fn attend(&self, id: &str, signs: &mut Signs) -> Result<()> {
        let entry = self.registry.entry(id);
        let Some((n, wanted)) = self.registry.wanted(&entry).await? else { return Ok(()) };
        let lease = self.registry.lease(&entry).await?;
        let is_mine = lease.as_ref().is_some_and(|(_, lease)| lease.server.as_deref() == Some(&self.server));
        if self.is_busy(&entry, n, &wanted, is_mine).await? {
            return Ok(());
        }
        let status = self.registry.status(&entry).await?;
        if status.settles(n) {
            return Ok(());
        }
        let number = lease.as_ref().map_or(0, |(number, _)| *number);
        let number = match lease {
            Some((number, _)) if is_mine => number,
            Some((_, lease)) if !self.is_free(&lease, signs).await? => return Ok(()),
            _ if self.registry.take(&entry, number + 1, Some(&self.server)).await? => number + 1,
            _ => return Ok(()),
        };
        if wanted.is_running() {
            self.start(entry, (n, wanted, number), status);
            return Ok(());
        }
        let mut status = Status { wanted: n, server: self.server.clone(), ..status };
        if wanted.deleted {
            self.forget_readers(&wanted).await;
            self.registry.delete_log(&wanted.log).await?;
            status = Status { wanted: n, state: JobState::Deleted, ..Default::default() };
            self.own.lock().remove(id);
        } else {
            status.state = JobState::Stopped;
            status.ended_ms = status.ended_ms.or_else(|| status.started_ms.map(|_| now_ms()));
            status.add(Level::Info, "stopped");
        }
        self.write(&entry, status).await
    }

    /// Notes in the streams of a pipeline that is deleted that it reads them no more. A failure keeps their rows.
    async fn forget_readers(&self, wanted: &Wanted) {
        let (store, root) = (Arc::clone(&self.registry.store), self.registry.root.clone());
        let (name, process) = (wanted.log.clone(), self.process.clone());
        let forget = move || async move {
            let Some(log) = EpochLog::existing(store, root, &name).await? else { return Ok(()) };
            let spec = &log.manifest().spec;
            let id = spec.options.get("id").cloned().unwrap_or_default();
            forget_readers(&spec.script, &id, &BTreeSet::new(), &process).await
        };
        if let Err(error) = thread::run("forget", forget).await {
            tracing::warn!(%error, pipeline = wanted.log, "streams keep the rows that a deleted pipeline has not read");
        }
    }

    /// Looks after a run of this server. Returns true if there is one that goes on.
    async fn is_busy(&self, entry: &Entry, n: u64, wanted: &Wanted, is_mine: bool) -> Result<bool> {
        let own = self.own.lock().get(&entry.id).cloned();
        let Some(own) = own else { return Ok(false) };
        let Some(job) = own.job else { return Ok(false) };
        let Some(outcome) = job.outcome() else {
            if !is_mine {
                job.order(Order::Abandon);
            } else if n != job.n {
                job.order(wanted.order());
            }
            let status = job.status();
            if is_mine && status != own.written {
                self.write(entry, status).await?;
            }
            return Ok(true);
        };
        if is_mine && outcome != Outcome::Superseded {
            // Before it is forgotten, so that an outcome that could not be written is written by the next look.
            self.write(entry, job.status()).await?;
        }
        if let Some(own) = self.own.lock().get_mut(&entry.id) {
            own.job = None;
        }
        Ok(false)
    }

    /// Returns true if no server runs a pipeline with this lease. A server writes its first sign before it takes a pipeline, and
    /// removes it after it has given all back.
    async fn is_free(&self, lease: &Lease, signs: &mut Signs) -> Result<bool> {
        let Some(server) = &lease.server else { return Ok(true) };
        let Some(sign) = self.registry.sign_of(server).await? else { return Ok(true) };
        let is_silent = signs.enter(server, sign, Instant::now()) >= self.beat * SILENT_BEATS;
        if is_silent {
            self.registry.forget(server).await?;
        }
        Ok(is_silent)
    }

    /// Starts a run.
    fn start(&self, entry: Arc<Entry>, what: (u64, Wanted, u64), status: Status) {
        let live = self.own.lock().entry(entry.id.clone()).or_default().live.clone();
        let (registry, process, server) = (Arc::clone(&self.registry), self.process.clone(), self.server.clone());
        let (id, changed) = (entry.id.clone(), Arc::clone(&self.changed));
        let at = At { registry, entry, process, server };
        let job = Job::start(what, status, live, at, move || changed.notify_one());
        if let Some(own) = self.own.lock().get_mut(&id) {
            own.job = Some(job);
        }
    }

    async fn write(&self, entry: &Entry, status: Status) -> Result<()> {
        self.registry.put_status(entry, &status).await?;
        if let Some(own) = self.own.lock().get_mut(&entry.id) {
            own.written = status;
        }
        Ok(())
    }

    /// Returns the status of a pipeline that this server runs.
    pub(crate) fn status(&self, id: &str) -> Option<Status> {
        self.own.lock().get(id)?.job.as_ref().map(|job| job.status())
    }

    /// Returns the figures of the pipelines that this server runs or has run.
    pub(crate) fn figures(&self) -> Vec<(String, bool, Figures)> {
        let own = self.own.lock();
        let figures = own.iter().map(|(id, own)| {
            let runs = own.job.as_ref().is_some_and(|job| job.status().state == JobState::Running);
            (id.clone(), runs, own.live.figures())
        });
        figures.collect()
    }

    /// Ends the runs of this server after their epochs, within `within`, and gives the pipelines back.
    pub(crate) async fn give_back(&self, within: Duration) {
        let jobs: Vec<(String, Arc<Job>)> = {
            let own = self.own.lock();
            own.iter().filter_map(|(id, own)| Some((id.clone(), own.job.clone()?))).collect()
        };
        for (order, within) in [(Order::Finish, within), (Order::Abandon, ABANDON_WITHIN)] {
            let until = Instant::now() + within;
            jobs.iter().for_each(|(_, job)| job.order(order));
            while jobs.iter().any(|(_, job)| job.outcome().is_none()) && Instant::now() < until {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let given_back = async {
            for (id, job) in &jobs {
                if let Err(error) = self.give_back_one(id, job).await {
                    tracing::warn!(%error, pipeline = id, "a pipeline was not given back");
                }
            }
            self.registry.forget(&self.server).await
        };
        // A store that does not answer must not keep the server: others take the pipelines when signs of life stop.
        match tokio::time::timeout(within, given_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the sign of life was not removed"),
            Err(_) => tracing::warn!("the state does not answer, so pipelines were not given back"),
        }
    }

    async fn give_back_one(&self, id: &str, job: &Job) -> Result<()> {
        let entry = self.registry.entry(id);
        let Some((number, lease)) = self.registry.lease(&entry).await? else { return Ok(()) };
        if lease.server.as_deref() != Some(&self.server) {
            return Ok(());
        }
        let mut status = job.status();
        if !status.state.is_final() {
            status.state = JobState::Scheduling;
            status.add(Level::Info, "its server has ended");
        }
        self.write(&entry, status).await?;
        self.registry.take(&entry, number + 1, None).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_silent_while_its_sign_is_the_same() {
        let (mut signs, start) = (Signs::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(signs.enter("a", "1".into(), after(0)), Duration::ZERO);
        assert_eq!(signs.enter("a", "1".into(), after(3)), Duration::from_secs(3));
        assert_eq!(signs.enter("a", "2".into(), after(4)), Duration::ZERO, "it lives");
        assert_eq!(signs.enter("b", "2".into(), after(4)), Duration::ZERO, "it is another one");
        assert_eq!(signs.enter("a", "2".into(), after(10)), Duration::from_secs(6));
    }
}
