//! The start of a run: opens the pipeline in its state, or creates it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use buzz_connect::Inbox;
use buzz_epoch::{EpochLog, Pending, PipelineSpec, publish_pending};
use buzz_protocol::{QueryError, Result};
use buzz_stream::{KEY_GROUPS, Pipeline};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::outbox::targets;
use crate::plan::{STDOUT, plan, sinks_of};
use crate::process::Process;
use crate::runner::Runner;

/// Records that are read to find the sinks that have rows.
const RECORDS_READ_MAX: usize = 1000;

/// A pipeline in its state, and how to start it.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// The store of the state.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The folder of the state.
    pub(crate) root: Path,
    /// The store is a bucket.
    pub(crate) remote: bool,
    /// The name of the pipeline in the state.
    pub(crate) name: String,
    /// Replaces the number of workers of the script.
    pub(crate) parallelism: Option<NonZeroUsize>,
    /// The epoch to go back to.
    pub(crate) from_epoch: Option<u64>,
}

/// Opens the pipeline of `text` in its state, and loads its newest epoch.
pub(crate) async fn stateful(text: &str, opening: &Opening, process: &Process) -> Result<Runner> {
    let Opening { store, root, remote, name, parallelism, from_epoch } = opening.clone();
    let inbox = Inbox { store: Arc::clone(&store), root: root.clone(), pipeline: name.clone(), remote };
    let process = &process.with_inbox(inbox);
    let existing = EpochLog::existing(Arc::clone(&store), root.clone(), &name).await?;
    // The id names files in targets. A pipeline that is created by two processes at once has the id of the winner, so it
    // is read back.
    let id = existing.as_ref().and_then(|log| log.manifest().spec.options.get("id").cloned());
    let id = id.unwrap_or_else(|| new_id(&name));
    let mut planned = plan(text, parallelism, process, &id).await?;
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
        finish(before, process).await;
    }
    let mut log = EpochLog::open(store, root, &name, &spec).await?;
    let (before, now) = (existing.map(|log| log.manifest().version), log.manifest().version);
    if let Some(before) = before.filter(|before| *before < now) {
        process.notes.warn(&format!(
            "the statements of `{name}` have changed: version {now} starts without state and reads its sources from the \
             start, so rows that version {before} wrote may be written again; another --name keeps both"
        ));
    }
    if let Some(epoch) = from_epoch {
        let received = received_after(&log, epoch).await?;
        log = log.rewind(epoch).await?;
        for (sink, newest) in received.iter().filter(|(sink, _)| *sink != STDOUT) {
            process.notes.warn(&format!(
                "sink {sink} has rows of epochs through {newest}, keeps them, and gets the rows after epoch {epoch} again; to \
                 have each row once, write to another place"
            ));
        }
    }
    let created = log.manifest().spec.options.get("id").cloned().unwrap_or_default();
    if created != id {
        planned = plan(text, parallelism, process, &created).await?;
    }
    planned.check_targets().await?;
    let mut runner = Runner::new(planned, Some(log));
    runner.load().await?;
    Ok(runner)
}

/// Brings rows of a version that another one replaces into its sinks: those that a process that was killed, or the end of
/// a span of time, has left in the state. A failure is a warning, since a sink that cannot be reached may be the reason for
/// the new script.
async fn finish(before: &EpochLog, process: &Process) {
    let publish = async {
        let spec = &before.manifest().spec;
        let Some(newest) = before.newest().await?.filter(|record| record.epoch > 0) else { return Ok(()) };
        let id = spec.options.get("id").cloned().unwrap_or_default();
        let sinks = sinks_of(&spec.script, process, &id).await?;
        publish_pending(before, &newest, &targets(&sinks, &Arc::default()), Pending::All).await?;
        Ok::<_, QueryError>(())
    };
    if let Err(error) = publish.await {
        let version = before.manifest().version;
        process.notes.warn(&format!("rows of version {version} could not be brought into their sinks: {error}"));
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
pub(crate) fn new_id(name: &str) -> String {
    format!("{name}-{}", crate::jobs::token())
}

/// Describes the state of each stage: a build that computes other state must not read it.
fn fingerprints(pipeline: &Pipeline) -> BTreeMap<String, String> {
    let fields = |schema: arrow::datatypes::SchemaRef| {
        let fields: Vec<String> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
        fields.join(", ")
    };
    pipeline.stages().map(|(stage, schema)| (stage.to_string(), fields(schema))).collect()
}
