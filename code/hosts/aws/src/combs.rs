//! Combs on Fargate: finds the running combs and starts the missing ones.
//!
//! A stack has slots for combs, numbered from 0. Fuse starts a comb for the first free slot and records the slot in
//! `startedBy`. ECS returns the same task for the same `clientToken`, so two Fuses that need the same comb at the same
//! time start it once. ECS also returns a task that stopped long ago. The token therefore contains a generation, which
//! a conditional write increments once when its task is found stopped.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use buzz_engine::{Between, CombStarts};
use buzz_exchange::Network;
use buzz_host::Combs;
use buzz_protocol::{BUILD_ID, CombAddress, QueryError, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::combs::certificates::Certificates;
use crate::combs::tasks::{CombTask, Tasks};
use crate::combs::wait::{Fleet, Wait, Waiting};
use crate::price::COMB_START_SECONDS;
use crate::results::Results;
use crate::settings::CombSettings;

mod certificates;
pub mod tasks;
mod wait;

/// First and longest interval between two looks at tasks that are starting. ECS limits the rate of such calls.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(2);

/// Maximum time for the answer to a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Time during which a comb that rejected a query is not used again. The build of a lost comb is unknown.
const AVOIDED_FOR: Duration = Duration::from_secs(30);

/// Maximum number of combs of one slot that may stop before the call fails.
const DEAD_MAX: usize = 3;

/// Maximum time between the start of a task and the first answer of its comb.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// Maximum number of slots of a stack.
const SLOTS_MAX: usize = 64;

/// The combs of one stack and build.
#[derive(Debug)]
pub struct FargateCombs {
    settings: CombSettings,
    tasks: Arc<dyn Tasks>,
    results: Results,
    certificates: Certificates,
    network: Arc<dyn Network>,
    /// Identifies this stack, build and kind of comb in tokens and in the paths of the generations.
    fleet: String,
    avoided: Mutex<HashMap<CombAddress, Instant>>,
    /// ARNs of the tasks whose combs answered, by address.
    seen: Mutex<HashMap<CombAddress, String>>,
    /// Combs that were started here, and the milliseconds that queries waited for them.
    started: AtomicU64,
    started_ms: AtomicU64,
}

impl FargateCombs {
    /// Creates the combs of stack `stage`: `tasks` starts them and `results` stores their generations.
    pub fn new(
        stage: &str,
        settings: CombSettings,
        tasks: Arc<dyn Tasks>,
        results: Results,
        network: Arc<dyn Network>,
    ) -> Self {
        let fleet = fleet(stage, &settings);
        Self {
            settings,
            tasks,
            certificates: Certificates::new(results.clone()),
            results,
            network,
            fleet,
            avoided: Mutex::default(),
            seen: Mutex::default(),
            started: AtomicU64::default(),
            started_ms: AtomicU64::default(),
        }
    }

    /// Lists the live tasks of this fleet and sends each a health check.
    async fn look(&self, started: &HashSet<String>) -> Result<Fleet> {
        let mut fleet = Fleet::default();
        let (live, dead) = self.tasks.find(started).await?;
        fleet.dead = dead;
        let checks = live.into_iter().map(|task| async {
            let (address, health) = self.check(&task).await;
            (task, address, health)
        });
        for (task, address, health) in futures::future::join_all(checks).await {
            fleet.slots.extend(task.slot());
            match (health, address) {
                (Health::Ready, Some(address)) => {
                    let mut seen = self.seen.lock();
                    seen.insert(address.clone(), task.arn.clone());
                    fleet.ready.push((task.slot().unwrap_or(usize::MAX), address));
                }
                (Health::Coming, address) => fleet.coming.push((task, address)),
                _ => {}
            }
        }
        fleet.ready.sort_by_key(|(slot, address)| (*slot, address.to_string()));
        Ok(fleet)
    }

    /// Returns the address of the comb of `task`, which names its certificate if it uses TLS, and its health.
    async fn check(&self, task: &CombTask) -> (Option<CombAddress>, Health) {
        let Some(address) = task.address(&self.settings).filter(|_| task.is_running()) else {
            return (task.address(&self.settings), Health::Coming);
        };
        // The setting was changed while the comb runs.
        if task.certificate.is_some() != self.settings.tls {
            return (Some(address), Health::NotForUs);
        }
        if !self.settings.tls {
            let health = self.health(&address).await;
            return (Some(address), health);
        }
        match self.certificates.pinned(task, &address).await {
            Ok(Some(pinned)) => {
                let health = self.health(&pinned).await;
                // The record may be that of an earlier comb, which was started by the same token.
                if matches!(health, Health::Coming) {
                    self.certificates.forget(task);
                }
                (Some(pinned), health)
            }
            Ok(None) => (Some(address), Health::Coming),
            Err(error) => {
                tracing::warn!(%error, task = task.arn, "the certificate of a comb is not known");
                (Some(address), Health::Coming)
            }
        }
    }

    async fn health(&self, address: &CombAddress) -> Health {
        {
            let mut avoided = self.avoided.lock();
            avoided.retain(|_, until| *until > Instant::now());
            if avoided.contains_key(address) {
                return Health::NotForUs;
            }
        }
        // A connection may have broken while this function was frozen. The second attempt opens a new one.
        let build = async {
            match self.network.build(address).await {
                Ok(build) => Ok(build),
                Err(_) => self.network.build(address).await,
            }
        };
        match tokio::time::timeout(HEALTH_TIMEOUT, build).await {
            Ok(Ok(build)) if build == BUILD_ID => Health::Ready,
            Ok(Ok(_)) => Health::NotForUs,
            Ok(Err(_)) | Err(_) => Health::Coming,
        }
    }

    /// Starts a comb for `slot`, or finds the one that another Fuse started. Returns its ARN and generation.
    async fn start(&self, slot: usize) -> Result<(String, u64)> {
        let place = |error: QueryError| error.at(format!("starting comb {slot}"));
        for _ in 0..DEAD_MAX {
            let generation = self.results.generation(&self.fleet, slot).await.map_err(place)?;
            let token = client_token(&self.fleet, slot, generation);
            let certificate = match self.settings.tls {
                true => Some(self.results.certificate(&token)?.to_string()),
                false => None,
            };
            let task = self.tasks.run(&token, &started_by(slot), certificate.as_deref()).await.map_err(place)?;
            if !task.is_over() {
                return Ok((task.arn, generation));
            }
            self.results.end_generation(&self.fleet, slot, generation).await.map_err(place)?;
        }
        Err(place(QueryError::unavailable(format!("the last {DEAD_MAX} combs stopped right after their start"))))
    }

    /// Returns `count` combs that are ready, and starts those that are missing. A refusal of ECS is not final: capacity and rates
    /// change within seconds.
    async fn wait_for(&self, count: usize, wait: &mut Wait) -> Result<Vec<CombAddress>> {
        let deadline = Instant::now() + self.settings.start_max;
        let mut pause = LOOK_AGAIN;
        loop {
            let fleet = match self.look(&wait.known()).await {
                Ok(fleet) => Some(fleet),
                Err(error) => {
                    wait.refused(error)?;
                    None
                }
            };
            if let Some(fleet) = &fleet {
                if fleet.ready.len() >= count {
                    return Ok(fleet.ready.iter().take(count).map(|(_, address)| address.clone()).collect());
                }
                for dead in &fleet.dead {
                    self.bury(dead, wait).await?;
                }
                self.start_missing(fleet, count, wait).await?;
            }
            if Instant::now() > deadline {
                return Err(self.too_late(count, &fleet.unwrap_or_default(), wait));
            }
            // Waiting queries do not look at the same time.
            tokio::time::sleep(pause.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 3 / 2).min(LOOK_AGAIN_MAX);
        }
    }

    /// Starts the combs that are missing in `fleet`, all at the same time.
    async fn start_missing(&self, fleet: &Fleet, count: usize, wait: &mut Wait) -> Result<()> {
        let missing = count.saturating_sub(fleet.ready.len() + wait.coming(fleet));
        let free = (0..SLOTS_MAX).filter(|slot| !fleet.slots.contains(slot) && !wait.started.contains_key(slot));
        let since = Instant::now();
        let starting = free.take(missing).map(|slot| async move {
            tracing::info!(slot, "starting a comb");
            (slot, self.start(slot).await)
        });
        let mut failed = Ok(());
        for (slot, started) in futures::future::join_all(starting.collect::<Vec<_>>()).await {
            match started {
                Ok(started) => {
                    wait.started.insert(slot, started);
                    wait.since.push(since);
                    self.started.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => failed = failed.and(wait.refused(error)),
            }
        }
        failed
    }

    /// Returns the error of a wait for `count` combs that took too long, of which `fleet` is the last look.
    fn too_late(&self, count: usize, fleet: &Fleet, wait: &Wait) -> QueryError {
        let (seconds, ready) = (self.settings.start_max.as_secs(), fleet.ready.len());
        let why = match (fleet.coming.first(), &wait.refused) {
            (Some((task, address)), _) => task.why_not(address),
            (None, Some(refused)) => refused.to_string(),
            (None, None) => "no other comb is starting".to_string(),
        };
        QueryError::unavailable(format!("only {ready} of {count} combs answered within {seconds} seconds; {why}"))
    }

    /// Frees the slot of a comb that was started here and stopped, so that another comb can start in it.
    async fn bury(&self, dead: &CombTask, wait: &mut Wait) -> Result<()> {
        let slot = wait.started.iter().find(|(_, (arn, _))| *arn == dead.arn).map(|(slot, _)| *slot);
        let Some((slot, (_, generation))) = slot.and_then(|slot| wait.started.remove_entry(&slot)) else {
            return Ok(());
        };
        let deaths = wait.dead.entry(slot).or_default();
        *deaths += 1;
        if *deaths >= DEAD_MAX {
            let reason = dead.stopped_reason.as_deref().unwrap_or("no reason given");
            return Err(QueryError::unavailable(format!("combs stop as soon as they are started: {reason}")));
        }
        self.results.end_generation(&self.fleet, slot, generation).await
    }
}

enum Health {
    Ready,
    /// Does not answer yet.
    Coming,
    /// Has another build, or recently rejected a query.
    NotForUs,
}

#[async_trait]
impl Combs for FargateCombs {
    async fn ready(&self, count: usize) -> Result<Vec<CombAddress>> {
        let mut waiting = Waiting { combs: self, wait: Wait::default() };
        self.wait_for(count, &mut waiting.wait).await
    }

    fn starts(&self) -> CombStarts {
        CombStarts {
            combs: self.started.load(Ordering::Relaxed),
            milliseconds: self.started_ms.load(Ordering::Relaxed),
        }
    }

    fn start_seconds(&self) -> Between<f64> {
        COMB_START_SECONDS
    }

    async fn warm(&self, count: usize) -> Result<Vec<CombAddress>> {
        let fleet = self.look(&HashSet::new()).await?;
        Ok(fleet.ready.into_iter().take(count).map(|(_, address)| address).collect())
    }

    fn avoid(&self, address: &CombAddress) {
        let until = Instant::now() + AVOIDED_FOR;
        self.avoided.lock().insert(address.clone(), until);
    }

    async fn fate(&self, address: &CombAddress) -> Option<QueryError> {
        let arn = self.seen.lock().get(address).cloned()?;
        let (_, dead) = self.tasks.find(&HashSet::from([arn])).await.ok()?;
        let reason = dead.first()?.stopped_reason.clone()?;
        // ECS reports this when the kernel kills a container for its memory use.
        reason.contains("OutOfMemory").then(|| {
            QueryError::limit(format!(
                "a comb of {} MB ran out of memory ({reason}); use more combs (`capacity.zones`), lower the \
                 options `inbox_memory_bytes` and `memory_bytes`, or raise `comb_memory_mb` in infra/env/conf.tf",
                self.settings.memory_mb
            ))
        })
    }

    fn partitions_per_comb(&self, _count: usize) -> usize {
        (self.settings.vcpus.ceil() as usize).max(1)
    }
}

/// The combs of a stack without combs. Fuse reduces every query itself.
#[derive(Debug)]
pub struct NoCombs;

#[async_trait]
impl Combs for NoCombs {
    async fn ready(&self, _count: usize) -> Result<Vec<CombAddress>> {
        Err(QueryError::invalid(
            "this query requires combs, but this stack has none; leave the option `reducer` out, so that Fuse and HBees \
             reduce the query, or deploy the stack with COMB_NETWORK=public_ipv4",
        ))
    }

    async fn warm(&self, _count: usize) -> Result<Vec<CombAddress>> {
        Ok(Vec::new())
    }

    fn are_possible(&self) -> bool {
        false
    }

    fn partitions_per_comb(&self, _count: usize) -> usize {
        2
    }
}

/// Hashes everything that two Fuses must have in common to share a comb: the `RunTask` parameters and the build.
fn fleet(stage: &str, settings: &CombSettings) -> String {
    let mut hasher = DefaultHasher::new();
    (stage, BUILD_ID, &settings.cluster, &settings.task_definition).hash(&mut hasher);
    (&settings.subnets, &settings.security_groups, settings.network, settings.tls).hash(&mut hasher);
    format!("{:012x}", hasher.finish() >> 16)
}

/// Returns a `clientToken` of at most 64 printable characters. For the same token and parameters, ECS returns the same
/// task.
fn client_token(fleet: &str, slot: usize, generation: u64) -> String {
    format!("buzz-{fleet}-{slot}-{generation}")
}

const STARTED_BY: &str = "buzz-";

fn started_by(slot: usize) -> String {
    format!("{STARTED_BY}{slot}")
}

#[cfg(test)]
mod tests;
