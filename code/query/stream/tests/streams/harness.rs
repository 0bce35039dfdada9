//! Runs a script over batches in epochs, as the run loop does: state goes through files, and may move to another number
//! of workers between epochs.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use buzz_connect::{Generator, Nexmark};
use buzz_protocol::Result;
use buzz_stream::{EpochInput, Pipeline, Script, SourceInput, SourceRows, StageId, State, state_file};
use bytes::Bytes;

/// One epoch of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Events of the epoch.
    pub(crate) events: usize,
    /// Loads the state from files into this many workers before the epoch.
    pub(crate) reload: Option<usize>,
    /// Writes the whole state instead of what was added.
    pub(crate) snapshot: bool,
}

pub(crate) fn input_of(batch: &RecordBatch, time: Option<&str>, delay: i64) -> SourceInput {
    SourceInput {
        schema: batch.schema(),
        time_column: time.map(str::to_string),
        delay,
        late_side: false,
        bad_side: false,
        is_lookup: false,
    }
}

struct StoredState {
    stage: StageId,
    bytes: Bytes,
}

/// State rows above which parts are divided, so that small tests do it too: every second one.
fn part_rows(cuts: &[Cut]) -> usize {
    if cuts.len() % 2 == 1 { 24 } else { 65_536 }
}

/// Runs `script` over `rows` of each source, cut into epochs, and returns the rows of the last statement.
pub(crate) async fn run(
    script: &str,
    sources: &BTreeMap<String, (RecordBatch, SourceInput)>,
    cuts: &[Cut],
) -> Result<Vec<RecordBatch>> {
    Ok(run_epochs(script, sources, cuts, None).await?.concat())
}

/// Looks up the tables of `sources` that are looked up.
fn look_up(
    pipeline: &Pipeline,
    state: &mut State,
    sources: &BTreeMap<String, (RecordBatch, SourceInput)>,
) -> Result<()> {
    for name in pipeline.lookups() {
        let half = sources[name].0.num_rows() / 2;
        let batches =
            vec![sources[name].0.slice(0, half), sources[name].0.slice(half, sources[name].0.num_rows() - half)];
        assert!(pipeline.look_up(state, name, batches, 0)?.is_empty(), "no row of {name} is bad");
    }
    Ok(())
}

/// As [`run`], with the rows of each epoch. An epoch takes a second of the clock; keys without a window expire after `ttl`
/// nanoseconds.
pub(crate) async fn run_epochs(
    script: &str,
    sources: &BTreeMap<String, (RecordBatch, SourceInput)>,
    cuts: &[Cut],
    ttl: Option<i64>,
) -> Result<Vec<Vec<RecordBatch>>> {
    let script = Script::parse(script)?;
    let inputs: BTreeMap<String, SourceInput> =
        sources.iter().map(|(name, (_, input))| (name.clone(), input.clone())).collect();
    let sinks = BTreeMap::new();
    let mut pipeline = Pipeline::plan(&script, &inputs, &sinks, 1).await?;
    pipeline = pipeline.with_part_rows(part_rows(cuts)).with_updating_ttl(ttl);
    let mut state = pipeline.start();
    look_up(&pipeline, &mut state, sources)?;
    let mut files: Vec<StoredState> = Vec::new();
    let mut output = Vec::new();
    let (mut at, mut now) = (0, 0);
    let total = sources
        .values()
        .filter(|(_, input)| !input.is_lookup)
        .map(|(rows, _)| rows.num_rows())
        .max()
        .unwrap_or_default();
    let rest = Cut { events: usize::MAX, reload: None, snapshot: false };
    for cut in cuts.iter().chain([&rest]) {
        if let Some(workers) = cut.reload {
            let (times, watermarks) = (state.sources, state.watermarks);
            pipeline = Pipeline::plan(&script, &inputs, &sinks, workers).await?;
            pipeline = pipeline.with_part_rows(part_rows(cuts)).with_updating_ttl(ttl);
            state = pipeline.start();
            look_up(&pipeline, &mut state, sources)?;
            (state.sources, state.watermarks) = (times, watermarks);
            let schemas: BTreeMap<StageId, _> = pipeline.stages().collect();
            for file in &files {
                let (before, batches) = state_file::decode(&schemas[&file.stage], file.bytes.clone())?;
                pipeline.restore(&mut state, file.stage, batches, before).await?;
            }
            pipeline.restored(&mut state).await?;
        }
        let count = cut.events.min(total - at);
        now += 1_000_000_000;
        let mut input = EpochInput { now, ..Default::default() };
        for (name, (rows, _)) in sources.iter().filter(|(_, (_, input))| !input.is_lookup) {
            let from = at.min(rows.num_rows());
            let part = rows.slice(from, count.min(rows.num_rows() - from));
            let half = part.num_rows() / 2;
            let batches = vec![part.slice(0, half), part.slice(half, part.num_rows() - half)];
            let partitions = vec![("0".to_string(), batches)];
            let ended = cut.events == usize::MAX;
            input.sources.insert(name.clone(), SourceRows { partitions, ended, idle: BTreeSet::new() });
        }
        at += count;
        let epoch = pipeline.epoch(&mut state, &input).await?;
        output.push(epoch.rows.into_iter().next_back().unwrap_or_default());
        let schemas: BTreeMap<StageId, _> = pipeline.stages().collect();
        for delta in epoch.deltas {
            let bytes = state_file::encode(&schemas[&delta.stage], delta.before, &delta.batches)?;
            files.push(StoredState { stage: delta.stage, bytes });
        }
        if cut.snapshot {
            files.clear();
            for (stage, schema) in &schemas {
                let before = state.watermarks[stage.statement];
                let bytes = state_file::encode(schema, before, &pipeline.snapshot(&state, *stage)?)?;
                files.push(StoredState { stage: *stage, bytes });
            }
        }
    }
    Ok(output)
}

/// Runs `script` over generated events of the source `nexmark`.
pub(crate) async fn run_nexmark(
    script: &str,
    nexmark: &Nexmark,
    events: usize,
    cuts: &[Cut],
) -> Result<Vec<RecordBatch>> {
    let rows = nexmark.events(BASE, 0, events);
    let input = input_of(&rows, Some("date_time"), nexmark.disorder_nanos());
    run(script, &BTreeMap::from([("nexmark".to_string(), (rows, input))]), cuts).await
}

/// The event time of event 0: 20 s after 1970.
pub(crate) const BASE: i64 = 20_000_000_000;

/// Formats rows as texts, sorted. Floats are rounded to ten digits, so that the last ones do not decide about the order.
pub(crate) fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("all types have a format"))
            .collect();
        for row in 0..batch.num_rows() {
            let texts: Vec<String> = columns.iter().map(|column| rounded(column.value(row).to_string())).collect();
            rows.push(texts.join(" | "));
        }
    }
    rows.sort();
    rows
}

fn rounded(text: String) -> String {
    match text.parse::<f64>() {
        Ok(number) if text.contains('.') => format!("{number:.9e}"),
        _ => text,
    }
}

/// Returns true if rows are equal but for the last digits of floats.
pub(crate) fn equal(a: &[String], b: &[String]) -> bool {
    let same = |a: &str, b: &str| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => a == b || (x - y).abs() <= 1e-9 * x.abs().max(y.abs()).max(1.0),
        _ => a == b,
    };
    let row = |a: &String, b: &String| {
        let (a, b): (Vec<_>, Vec<_>) = (a.split(" | ").collect(), b.split(" | ").collect());
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same(a, b))
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| row(a, b))
}
