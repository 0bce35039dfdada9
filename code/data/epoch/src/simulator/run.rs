//! One simulation: its input, its scheduler and its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::task::noop_waker;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::actors::{SINK, coordinator, pipeline, producer, source};
use super::world::{Faults, Process, World};
use crate::rules::Rule;
use crate::{Keep, PipelineSpec};

pub(super) const PRODUCERS: usize = 2;
pub(super) const WIDTH: u64 = 50;
pub(super) const GROUPS: u32 = 16;
/// The window in rows of timers.
pub(super) const TIMER_WINDOW: u64 = u64::MAX;
const KEYS: u64 = 12;

/// Polls after which a run counts as one that does not end.
const POLLS_MAX: u64 = 2_000_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) id: u64,
    pub(super) time: u64,
    pub(super) key: u64,
    pub(super) value: u64,
    /// Sets a timer instead of being counted.
    pub(super) timer: bool,
}

/// Window, key, count, sum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Row(pub(super) u64, pub(super) u64, pub(super) u64, pub(super) u64);

/// A change of the protocol that the simulator must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    Without(Rule),
    TargetWithoutMarker,
    RowsBeforeRecord,
    TrimUnread,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) seed: u64,
    pub(super) coordinators: usize,
    /// Batches of each producer.
    pub(super) batches: usize,
    pub(super) faults: Faults,
    /// Coordinators sometimes go back to an earlier epoch, or continue in another version.
    pub(super) moves: bool,
    /// Coordinators remove old entries and segments that were read.
    pub(super) trims: bool,
    pub(super) mutant: Option<Mutant>,
}

pub(super) struct Outcome {
    pub(super) calls: u64,
    pub(super) stats: BTreeMap<&'static str, u64>,
    pub(super) verdict: Result<(), String>,
}

pub(super) fn spec() -> PipelineSpec {
    PipelineSpec { name: "p".into(), script: "select".into(), key_groups: GROUPS, ..Default::default() }
}

/// Returns the requests of each batch of each producer. A producer's events are in the order of their time.
fn input(run: &Run) -> Vec<Vec<Vec<Vec<Event>>>> {
    let mut rng = StdRng::seed_from_u64(run.seed ^ 0xABCD_EF00);
    let mut id = 0;
    let mut producer = || {
        let mut time = 0;
        let mut event = |rng: &mut StdRng| {
            time += rng.random_range(0..20);
            id += 1;
            let (key, value) = (rng.random_range(0..KEYS), rng.random_range(0..100));
            Event { id, time, key, value, timer: rng.random_range(0..15) == 0 }
        };
        let batch = |rng: &mut StdRng, event: &mut dyn FnMut(&mut StdRng) -> Event| {
            let requests = rng.random_range(1..4);
            (0..requests).map(|_| (0..rng.random_range(1..5)).map(|_| event(rng)).collect()).collect()
        };
        (0..run.batches).map(|_| batch(&mut rng, &mut event)).collect()
    };
    (0..PRODUCERS).map(|_| producer()).collect()
}

/// Returns the rows that `events` must make, sorted.
fn expected<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut counts: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    for event in events {
        if event.timer {
            rows.push(Row(TIMER_WINDOW, event.id, 0, 0));
        } else {
            let (count, sum) = counts.entry((event.time / WIDTH, event.key)).or_default();
            *count += 1;
            *sum += event.value;
        }
    }
    rows.extend(counts.into_iter().map(|((window, key), (count, sum))| Row(window, key, count, sum)));
    rows.sort();
    rows
}

impl Run {
    /// Runs the simulation. The same run has the same outcome.
    pub(super) fn run(&self) -> Outcome {
        let world = World::new(self.seed, self.faults, self.mutant, PRODUCERS, self.trims);
        let sent = input(self);
        let expected = expected(sent.iter().flatten().flatten().flatten());
        let mut actors: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        for (id, batches) in sent.into_iter().enumerate() {
            actors.push(Box::pin(producer(world.clone(), id, batches)));
        }
        for _ in 0..self.coordinators {
            actors.push(Box::pin(coordinator(world.clone(), self.moves)));
        }
        let verdict = catch_unwind(AssertUnwindSafe(|| {
            self.schedule(&world, actors)?;
            let audit = self.audit(&world, &expected);
            self.schedule_one(audit)
        }));
        let verdict = verdict.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or("panic".into()))
        });
        let (calls, stats) = world.stats();
        Outcome { calls, stats, verdict }
    }

    /// Polls all actors to their end, in an order that the seed determines.
    fn schedule(&self, world: &World, mut actors: Vec<Pin<Box<dyn Future<Output = ()>>>>) -> Result<(), String> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 0x005C_4ED0);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..POLLS_MAX {
            if actors.is_empty() {
                return Ok(());
            }
            let next = rng.random_range(0..actors.len());
            if actors[next].as_mut().poll(&mut cx).is_ready() {
                drop(actors.swap_remove(next));
            }
            if let Some(violation) = world.violation() {
                return Err(violation);
            }
        }
        Err(format!("does not end within {POLLS_MAX} polls"))
    }

    /// Polls one future, which does not wait for others, to its end.
    fn schedule_one<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
                return done;
            }
        }
    }

    /// Checks rows and files after the end, on the store without faults.
    async fn audit(&self, world: &Arc<World>, expected: &[Row]) -> Result<(), String> {
        let text = |error: buzz_protocol::QueryError| error.to_string();
        let calm = World::new(self.seed, Faults::PerMille(0), self.mutant, 0, self.trims);
        copy(world, &calm).await;
        let log = pipeline(&Process::new(&calm)).await.map_err(text)?;
        let newest = log.newest().await.map_err(text)?.ok_or("the pipeline has no epoch")?;

        if self.moves {
            // A rewind publishes rows again, so only the output of the pipeline's history is exact.
            let mut rows: Vec<Row> = Vec::new();
            for record in log.records(1, newest.epoch, usize::MAX).await.map_err(text)? {
                for file in record.outputs.get(SINK).into_iter().flatten() {
                    let bytes = log.get(&Path::from(file.path.as_str())).await.map_err(text)?;
                    let bytes = bytes.ok_or_else(|| format!("output `{}` was deleted", file.path))?;
                    rows.extend(serde_json::from_slice::<Vec<Row>>(&bytes).expect("a file of this program"));
                }
            }
            compare("the output", rows, expected)?;
        } else {
            compare("the target", world.sink.lock().rows.clone(), expected)?;
        }

        // Each key was sealed once, and the segments of all entries that count exist.
        let mut keys = BTreeSet::new();
        let source = source(&Process::new(&calm)).await.map_err(text)?;
        for entry in source.entries().await.map_err(text)? {
            for sealed in &entry.segments {
                source.segment(sealed).await.map_err(text)?;
            }
            for rows in entry.segments.iter().flat_map(|sealed| &sealed.rows) {
                let key = rows.part.key.clone().unwrap_or_default();
                if !keys.insert(key.clone()) {
                    return Err(format!("key {key} was sealed twice"));
                }
            }
        }

        // Nothing is left but what the newest record names.
        log.collect_garbage_except(&Keep::newest(1)).await.map_err(text)?;
        let folder = Path::from(format!("root/pipelines/p/v{}/state", log.manifest().version));
        let left: BTreeSet<String> =
            calm.store.list(Some(&folder)).map(|meta| meta.unwrap().location.to_string()).collect().await;
        let named: BTreeSet<String> = newest.state.iter().map(|file| file.path.clone()).collect();
        if left != named {
            return Err(format!("state files {left:?} instead of {named:?}"));
        }
        Ok(())
    }
}

/// Copies all objects, without late puts.
async fn copy(from: &World, to: &World) {
    let all: Vec<_> = from.store.list(None).try_collect().await.unwrap();
    for meta in all {
        let bytes = from.store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        to.store.put(&meta.location, bytes.into()).now_or_never().unwrap().unwrap();
    }
}

fn compare(what: &str, mut rows: Vec<Row>, expected: &[Row]) -> Result<(), String> {
    rows.sort();
    if rows == expected {
        return Ok(());
    }
    let first = rows.iter().zip(expected).find(|(row, expected)| row != expected);
    Err(format!("{what} has {} rows instead of {}; the first difference: {first:?}", rows.len(), expected.len()))
}
