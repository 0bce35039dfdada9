//! The start of a run: opens the pipeline in its state, or creates it.

use std::collections::BTreeMap;
use std::sync::Arc;

use buzz_connect::Place;
use buzz_epoch::{Clock, EpochLog, Pending, PipelineSpec, SystemClock, publish_pending};
use buzz_protocol::{QueryError, Result};
use buzz_stream::{KEY_GROUPS, Pipeline};

use super::outbox::targets;
use super::plan::{STDOUT, Workers, plan, sinks_of};
use super::runner::Runner;
use super::{RunArguments, store};

/// Records that are read to find the sinks that have rows.
const RECORDS_READ_MAX: usize = 1000;

/// Opens the pipeline of `text` in the state at `uri`, and loads its newest epoch.
pub(super) async fn stateful(
    text: &str,
    uri: &str,
    arguments: &RunArguments,
    workers: Workers,
    place: &Place,
) -> Result<Runner> {
    let (store, root) = store::open(uri, !arguments.no_sync, place).await?;
    let name = match (&arguments.name, arguments.file.file_stem()) {
        (Some(name), _) => name.clone(),
        (None, Some(stem)) if stem != "-" => stem.to_string_lossy().into_owned(),
        _ => "pipeline".to_string(),
    };
    let existing = EpochLog::existing(Arc::clone(&store), root.clone(), &name).await?;
    // The id names files in targets. A pipeline that is created by two processes at once has the id of the winner, so it
    // is read back.
    let id = existing.as_ref().and_then(|log| log.manifest().spec.options.get("id").cloned());
    let id = id.unwrap_or_else(|| new_id(&name));
    let mut planned = plan(text, workers, place, &id).await?;
    if existing.is_some() {
        planned.check_targets().await?;
    }
    let spec = PipelineSpec {
        name: name.clone(),
        script: text.to_string(),
        statements: planned.script.canonical.clone(),
        options: BTreeMap::from([("id".to_string(), id.clone())]),
        key_groups: KEY_GROUPS as u32,
        build: env!("CARGO_PKG_VERSION").to_string(),
        fingerprints: fingerprints(&planned.pipeline),
    };
    if let Some(before) = existing.as_ref().filter(|log| log.manifest().spec.has_other_script(&spec)) {
        finish(before, place).await;
    }
    let mut log = EpochLog::open(store, root, &name, &spec).await?;
    let (before, now) = (existing.map(|log| log.manifest().version), log.manifest().version);
    if let Some(before) = before.filter(|before| *before < now) {
        crate::terminal::warn(&format!(
            "the statements of `{name}` have changed: version {now} starts without state and reads its sources from the \
             start, so rows that version {before} wrote may be written again; another --name keeps both"
        ));
    }
    if let Some(epoch) = arguments.from_epoch {
        let received = received_after(&log, epoch).await?;
        log = log.rewind(epoch).await?;
        for (sink, newest) in received.iter().filter(|(sink, _)| *sink != STDOUT) {
            crate::terminal::warn(&format!(
                "sink {sink} has rows of epochs through {newest}, keeps them, and gets the rows after epoch {epoch} again; to \
                 have each row once, write to another place"
            ));
        }
    }
    let created = log.manifest().spec.options.get("id").cloned().unwrap_or_default();
    if created != id {
        planned = plan(text, workers, place, &created).await?;
    }
    planned.check_targets().await?;
    let mut runner = Runner::new(planned, Some(log));
    runner.load().await?;
    Ok(runner)
}

/// Brings rows of a version that another one replaces into its sinks: those that a process that was killed, or the end of
/// a span of time, has left in the state. A failure is a warning, since a sink that cannot be reached may be the reason for
/// the new script.
async fn finish(before: &EpochLog, place: &Place) {
    let publish = async {
        let spec = &before.manifest().spec;
        let Some(newest) = before.newest().await?.filter(|record| record.epoch > 0) else { return Ok(()) };
        let id = spec.options.get("id").cloned().unwrap_or_default();
        let sinks = sinks_of(&spec.script, place, &id).await?;
        publish_pending(before, &newest, &targets(&sinks, &Arc::default()), Pending::All).await?;
        Ok::<_, QueryError>(())
    };
    if let Err(error) = publish.await {
        let version = before.manifest().version;
        crate::terminal::warn(&format!("rows of version {version} could not be brought into their sinks: {error}"));
    }
}

/// Returns the sinks that may have rows of epochs after `epoch`, each with the newest of these.
async fn received_after(log: &EpochLog, epoch: u64) -> Result<BTreeMap<String, u64>> {
    let mut received = BTreeMap::new();
    for record in log.list(RECORDS_READ_MAX).await?.into_iter().filter(|record| record.epoch > epoch) {
        for sink in record.outputs.keys() {
            let newest = received.entry(sink.clone()).or_insert(record.epoch);
            *newest = record.epoch.max(*newest);
        }
    }
    Ok(received)
}

/// Returns a new id for a pipeline, which names its files in targets.
pub(super) fn new_id(name: &str) -> String {
    let now = SystemClock.now_ms();
    format!("{name}-{:x}", (now as u64) ^ (u64::from(std::process::id()) << 44))
}

/// Describes the state of each stage: a build that computes other state must not read it.
fn fingerprints(pipeline: &Pipeline) -> BTreeMap<String, String> {
    let fields = |schema: arrow::datatypes::SchemaRef| {
        let fields: Vec<String> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
        fields.join(", ")
    };
    pipeline.stages().map(|(stage, schema)| (stage.to_string(), fields(schema))).collect()
}
