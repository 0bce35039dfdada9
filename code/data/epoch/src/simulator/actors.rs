//! The simulated processes: producers that repeat requests, and coordinators that run epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::ops::Range;
use std::sync::Arc;

use buzz_protocol::{ErrorKind, QueryError, Result};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::run::{Event, GROUPS, Mutant, Row, TIMER_WINDOW, WIDTH, spec};
use super::world::{Process, SimulatedTarget, SkewedClock, World, pause};
use crate::clock::Ids;
use crate::log::Place;
use crate::rules::{Rule, Rules};
use crate::{
    Clock, Commit, EpochLog, Keep, OutputFile, Part, Pending, RETENTION, Record, Segment, SourceLog, SourceSpec,
    StateFile, Target, Timer, TimerTime, Times, due, files_of, groups_of, publish_pending,
};

const SOURCE: &str = "events";
const STAGE: &str = "count";
pub(super) const SINK: &str = "out";

/// So small that the simulation exceeds it: a write that takes longer is repeated.
const APPEND_MS_MAX: i64 = 15;

/// Maximum difference between two clocks: each is up to half of it before or after the true time.
const CLOCK_SKEW_MS_MAX: i64 = 10;

/// Time for which keys count if entries are removed: longer than producers repeat a request, and shorter than a run.
const TRIMMED_HORIZON_MS: i64 = 3000;

/// Segments per entry, and entries per epoch: so small that a backlog takes several.
const SEGMENTS_MAX: usize = 3;
const ENTRIES_MAX: u64 = 3;

/// State of one range of key groups.
#[derive(Default, Serialize, Deserialize)]
struct Rows {
    counts: Vec<(u64, u64, u64, u64)>,
    timers: Vec<Timer>,
}

/// Returns the key group of a key.
fn group_of(key: u64) -> u32 {
    let mixed = (key + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u32::try_from(mixed >> 40).expect("24 bits are left") % GROUPS
}

fn rules(world: &World) -> Rules {
    match world.mutant {
        Some(Mutant::Without(rule)) => Rules { broken: Some(rule) },
        Some(Mutant::TrimUnread) => Rules { broken: Some(Rule::SpareKeys) },
        _ => Rules::default(),
    }
}

fn ids(world: &World) -> Ids {
    Ids::seeded(world.random(u64::MAX))
}

fn skewed(world: &Arc<World>) -> SkewedClock {
    let skew_ms = world.random(CLOCK_SKEW_MS_MAX as u64 + 1) as i64 - CLOCK_SKEW_MS_MAX / 2;
    SkewedClock { world: world.clone(), skew_ms }
}

pub(super) async fn source(process: &Process) -> Result<SourceLog> {
    let trims = process.world.trims;
    let dedup_horizon_ms = if trims { TRIMMED_HORIZON_MS } else { 1 << 40 };
    let options = trims.then(|| (RETENTION.to_string(), "1 ms".to_string())).into_iter().collect();
    let times = Times { dedup_horizon_ms, append_ms_max: APPEND_MS_MAX, clock_skew_ms_max: CLOCK_SKEW_MS_MAX };
    let (ddl, format) = ("create table events".into(), "json".into());
    let spec = SourceSpec { ddl, format, times, options, ..Default::default() };
    let world = &process.world;
    let (ids, rules) = (ids(world), rules(world));
    SourceLog::open_with(process.store(), Path::from("root"), SOURCE, &spec, ids, rules, SEGMENTS_MAX).await
}

/// Opens the pipeline as a process without faults or as one with them.
pub(super) async fn pipeline(process: &Process) -> Result<EpochLog> {
    let (root, pipeline) = (Path::from("root"), "p".to_string());
    let world = &process.world;
    Place { store: process.store(), root, pipeline, ids: ids(world), rules: rules(world) }.open(&spec()).await
}

/// Sends `batches` in order. Each batch is several requests, which a server may group into one segment.
pub(super) async fn producer(world: Arc<World>, id: usize, batches: Vec<Vec<Vec<Event>>>) {
    // The servers of one producer have the same clock, so that its rows are sealed in order.
    let clock = skewed(&world);
    for (number, requests) in batches.into_iter().enumerate() {
        for _ in 0..world.random(120) {
            pause().await;
        }
        let part = |request: usize, events: &[Event]| Part {
            key: Some(format!("{id}-{number}-{request}")),
            producer: Some(format!("producer {id}")),
            rows: events.len() as u64,
            max_us: events.iter().map(|event| event.time as i64).max(),
            ..Default::default()
        };
        let parts: Vec<Part> = requests.iter().enumerate().map(|(i, events)| part(i, events)).collect();
        loop {
            // Each request is served by a process of its own.
            let server = Process::new(&world);
            let grouped = world.random(2) == 0;
            let segments: Vec<Segment> = match grouped {
                true => vec![Segment { parts: parts.clone(), payload: encode(&requests.concat()) }],
                false => {
                    let single = |(part, events): (&Part, &Vec<Event>)| Segment {
                        parts: vec![part.clone()],
                        payload: encode(events),
                    };
                    parts.iter().zip(&requests).map(single).collect()
                }
            };
            let send = async {
                let source = source(&server).await?;
                for segment in &segments {
                    source.append(segment, &clock).await?;
                }
                Ok::<_, QueryError>(())
            };
            // The answer may also be lost on its way, so that the request is repeated.
            match server.live(send).await {
                Some(Ok(())) if world.random(6) > 0 => break,
                Some(Err(error)) if error.kind != ErrorKind::Unavailable => world.violate(error.to_string()),
                _ => world.count("requests repeated", 1),
            }
        }
    }
    world.producer_ends();
}

fn encode<T: Serialize>(value: &T) -> bytes::Bytes {
    serde_json::to_vec(value).expect("plain data is encoded").into()
}

/// Runs epochs until the last one is published, in as many processes as it takes.
pub(super) async fn coordinator(world: Arc<World>, moves: bool) {
    loop {
        let process = Process::new(&world);
        match process.live(life(&process, moves)).await {
            Some(true) => return,
            Some(false) => world.count("stops", 1),
            None => {}
        }
    }
}

/// The life of one coordinator process. Returns whether the pipeline has ended.
async fn life(process: &Process, moves: bool) -> bool {
    let world = &process.world;
    let mut opened = None;
    loop {
        let step = async {
            let (log, source) = match &opened {
                Some(opened) => opened,
                None => opened.insert((pipeline(process).await?, source(process).await?)),
            };
            step(process, log, source, moves).await
        };
        match step.await {
            Ok(true) => return true,
            Ok(false) => {}
            // Goes on with what it remembers, or stops and starts again.
            Err(error) if error.kind == ErrorKind::Unavailable && world.random(3) > 0 => {}
            Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Cancelled) => return false,
            Err(error) => {
                world.violate(error.to_string());
                pending::<()>().await;
            }
        }
    }
}

/// Publishes, runs an epoch, and sometimes collects garbage or moves the pipeline. Returns whether it has ended.
async fn step(process: &Process, log: &EpochLog, source: &SourceLog, moves: bool) -> Result<bool> {
    let world = &process.world;
    let before = log.newest().await?.unwrap_or_default();
    let target: Arc<dyn Target> = Arc::new(SimulatedTarget(process.clone()));
    let targets = BTreeMap::from([(SINK.to_string(), target)]);
    let published = publish_pending(log, &before, &targets, Pending::Complete).await?;
    if before.stop {
        return Ok(true);
    }
    let read = before.sources.get(SOURCE).and_then(|offset| offset.as_u64()).unwrap_or(0);
    let (epoch_before, trims) = (before.epoch, world.trims && world.random(3) == 0);
    match epoch(process, log, source, before, published.clone()).await {
        // Rows that a newer epoch has read may have been removed.
        Err(error) if world.trims && error.kind == ErrorKind::Data && log.superseded(epoch_before).await? => {
            world.count("superseded", 1);
        }
        done => done?,
    }
    if trims {
        // Of a broken rule, also rows that no epoch has read.
        let needed = if world.mutant == Some(Mutant::TrimUnread) { u64::MAX } else { read + 1 };
        world.count("objects trimmed", source.trim(1, needed, &skewed(world)).await?);
    }
    if world.random(3) == 0 {
        let records = 1 + world.random(3) as usize;
        // A table that reads output by records needs the files also after they are published.
        let published = if moves { BTreeMap::new() } else { published };
        let deleted = log.collect_garbage_except(&Keep { records, published }).await?;
        world.count("files deleted", deleted);
    }
    if moves && world.random(12) == 0 {
        let newest = log.newest().await?.map_or(0, |record| record.epoch);
        let from = world.random(4).checked_sub(1).map(|back| newest.saturating_sub(back));
        match log.next_version(&spec(), from).await {
            Ok(_) => world.count("versions", 1),
            // The epoch was abandoned, or its state was deleted: nothing was changed.
            Err(error) if error.kind == ErrorKind::Invalid => world.count("moves refused", 1),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Rows of an epoch and what they do to time.
struct Input {
    events: Vec<Event>,
    /// The last log entry that was read.
    to: u64,
    /// All rows that will ever come have been read.
    drained: bool,
    watermarks: BTreeMap<String, i64>,
    /// The watermark before and after the epoch.
    was: i64,
    watermark: i64,
    now_ms: i64,
}

/// Reads the rows after `before`; `None` if there is nothing to do.
async fn read(process: &Process, source: &SourceLog, before: &Record) -> Result<Option<Input>> {
    let world = &process.world;
    let all_sent = world.all_sent();
    let clock = skewed(world);
    while source.seal(&clock).await?.is_some() {}
    let offset = before.sources.get(SOURCE).and_then(|offset| offset.as_u64()).unwrap_or(0);
    let head = source.head(offset).await?;
    let to = head.min(offset + 1 + world.random(ENTRIES_MAX));
    let drained = all_sent && to == head;

    let mut events: Vec<Event> = Vec::new();
    let mut watermarks = before.watermarks.clone();
    for entry in source.entries_after(offset, (to - offset) as usize).await? {
        for sealed in &entry.segments {
            let segment = source.segment(sealed).await?;
            let all: Vec<Event> = serde_json::from_slice(&segment.payload).expect("the payload is what was sent");
            for rows in &sealed.rows {
                let (from, to) = (rows.from as usize, (rows.from + rows.part.rows) as usize);
                events.extend_from_slice(&all[from..to]);
                let producer = rows.part.producer.clone().expect("each request has a producer");
                let seen = watermarks.entry(producer).or_insert(0);
                *seen = (*seen).max(rows.part.max_us.unwrap_or(0));
            }
        }
    }
    if events.is_empty() && !drained && world.random(4) > 0 {
        return Ok(None);
    }
    let was = watermarks.remove("").unwrap_or(0);
    let producers: Vec<i64> = watermarks.values().copied().collect();
    let watermark = match producers.iter().min() {
        _ if drained => i64::MAX,
        Some(min) if producers.len() == super::run::PRODUCERS => was.max(*min),
        _ => was,
    };
    watermarks.insert(String::new(), watermark);
    watermarks.insert(STAGE.into(), watermark);
    Ok(Some(Input { events, to, drained, watermarks, was, watermark, now_ms: world.clock.now_ms() }))
}

/// Runs one epoch after `before`, if there is something to do.
async fn epoch(
    process: &Process,
    log: &EpochLog,
    source: &SourceLog,
    before: Record,
    published: BTreeMap<String, u64>,
) -> Result<()> {
    let world = &process.world;
    let Some(input) = read(process, source, &before).await? else { return Ok(()) };
    let mut record = Record {
        epoch: before.epoch + 1,
        at_ms: input.now_ms,
        sources: BTreeMap::from([(SOURCE.to_string(), input.to.into())]),
        outputs: BTreeMap::from([(SINK.to_string(), Vec::new())]),
        published,
        stop: input.drained,
        ..Default::default()
    };
    let combs = 1 + world.random(5) as u32;
    for comb in 0..combs {
        let groups = groups_of(comb, combs, GROUPS);
        if !fold(world, log, &before, &input, groups, &mut record).await? {
            world.count("superseded", 1);
            return Ok(());
        }
    }
    record.by = ids(world).next().to_string();
    record.watermarks = input.watermarks;
    match log.commit(&record).await? {
        Commit::Done => world.count("epochs", 1),
        Commit::Lost(winner) if winner.by == record.by => world.violate("the own record was taken for another one"),
        Commit::Lost(_) => world.count("lost races", 1),
    }
    Ok(())
}

/// Folds the rows of `groups` into their state, and enters the files that it writes into `record`. Returns false if a file
/// was deleted because newer epochs exist.
async fn fold(
    world: &World,
    log: &EpochLog,
    before: &Record,
    input: &Input,
    groups: Range<u32>,
    record: &mut Record,
) -> Result<bool> {
    let mut counts: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    let mut timers: BTreeSet<Timer> = BTreeSet::new();
    for file in files_of(&before.state, STAGE, groups.clone()) {
        let Some(bytes) = log.read(before.epoch, &file.path, &file.sum).await? else { return Ok(false) };
        let rows: Rows = serde_json::from_slice(&bytes).expect("the file was written by this program");
        for (window, key, count, sum) in rows.counts {
            if groups.contains(&group_of(key)) {
                counts.insert((window, key), (count, sum));
            }
        }
        timers.extend(rows.timers.into_iter().filter(|timer| groups.contains(&timer.group)));
    }
    for event in input.events.iter().filter(|event| groups.contains(&group_of(event.key))) {
        if event.timer {
            let (group, key) = (group_of(event.key), event.id.to_string());
            let at = TimerTime::System(input.now_ms + 20 + event.value as i64);
            timers.insert(Timer { at, stage: STAGE.into(), group, key });
            continue;
        }
        let window = event.time / WIDTH;
        if ends(window) <= input.was {
            world.violate(format!("event {} is late, although producers send in order", event.id));
        }
        let (count, sum) = counts.entry((window, event.key)).or_default();
        *count += 1;
        *sum += event.value;
    }
    let mut rows: Vec<Row> = Vec::new();
    counts.retain(|(window, key), (count, sum)| {
        let closed = ends(*window) <= input.watermark;
        if closed {
            rows.push(Row(*window, *key, *count, *sum));
        }
        !closed
    });
    let last_ms = if input.drained { i64::MAX } else { input.now_ms };
    let (fired, waiting) = due(timers.into_iter().collect(), &input.watermarks, last_ms);
    rows.extend(fired.iter().map(|timer| Row(TIMER_WINDOW, timer.key.parse().expect("an id"), 0, 0)));
    if !rows.is_empty() {
        let path = log.output_path(SINK, record.epoch, "json");
        log.put(&path, encode(&rows)).await?;
        let file = OutputFile { path: path.to_string(), rows: rows.len() as u64, ..Default::default() };
        record.outputs.entry(SINK.to_string()).or_default().push(file);
        if world.mutant == Some(Mutant::RowsBeforeRecord) {
            world.sink.lock().rows.extend(rows);
        }
    }
    if !(counts.is_empty() && waiting.is_empty()) {
        let path = log.state_path(STAGE, record.epoch, "json");
        let counts: Vec<_> = counts.into_iter().map(|((w, k), (count, sum))| (w, k, count, sum)).collect();
        log.put(&path, encode(&Rows { counts, timers: waiting })).await?;
        let groups = (groups.start, groups.end);
        let file = StateFile { stage: STAGE.into(), path: path.to_string(), groups, ..Default::default() };
        record.state.push(file);
    }
    Ok(true)
}

/// Returns the end of a window as a watermark.
fn ends(window: u64) -> i64 {
    ((window + 1) * WIDTH) as i64
}
