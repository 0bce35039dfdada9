//! The start of a run: opens the pipeline in its state, or creates it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use buzz_connect::{Inbox, keeps_rows};
use buzz_epoch::{Continued, EpochLog, Pending, PipelineSpec, publish_pending, view_stage};
use buzz_protocol::{QueryError, Result};
use buzz_stream::{KEY_GROUPS, Script, StageId, TableDefinition};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::outbox::targets;
use crate::plan::{Planned, STDOUT, open_table, plan, sinks_of};
use crate::process::Process;
use crate::runner::{Runner, reader};
use crate::unchanged::Unchanged;

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
    /// Another script goes on after the offsets of sources that it declares like the script before.
    pub(crate) continues: bool,
}

/// Opens the pipeline of `text` in its state, and loads its newest epoch.
pub(crate) async fn stateful(text: &str, opening: &Opening, process: &Process) -> Result<Runner> {
    let Opening { store, root, remote, name, parallelism, from_epoch, continues } = opening.clone();
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
        fingerprints: fingerprints(&planned),
    };
    let other = existing.as_ref().filter(|log| log.manifest().spec.has_other_script(&spec));
    if let Some(before) = other {
        finish(before, continues, process).await?;
    }
    let left = other.map(|log| log.manifest().spec.script.clone());
    let mut log = match other.filter(|_| continues) {
        Some(before) => continued(before, &spec, &planned, process).await?,
        None => opened(existing.as_ref().filter(|_| other.is_none()), &spec, opening).await?,
    };
    let (before, now) = (existing.as_ref().map(|log| log.manifest().version), log.manifest().version);
    let changed = left.is_some();
    if let Some(text) = left {
        let still: BTreeSet<String> = planned.sources.keys().cloned().collect();
        if let Err(error) = forget_readers(&text, &id, &still, process).await {
            process.notes.warn(&format!("streams that are not read any more keep their rows: {error}"));
        }
    }
    if let Some(before) = before.filter(|before| *before < now && changed && !continues) {
        process.notes.warn(&format!(
            "the statements of `{name}` have changed: version {now} starts without state and reads its sources from the \
             start, so rows that version {before} wrote may be written again; another --name keeps both, and --continue \
             goes on after the rows that were read"
        ));
    }
    if let Some(epoch) = from_epoch {
        let received = received_after(existing.as_ref().filter(|_| !changed).unwrap_or(&log), epoch).await?;
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

/// Opens the log of a pipeline. A start from epoch 0 reads no state, so it need not fit that of `existing`, which has the same
/// script.
async fn opened(existing: Option<&EpochLog>, spec: &PipelineSpec, opening: &Opening) -> Result<EpochLog> {
    let differs = |log: &&EpochLog| !log.manifest().spec.state_differences(spec).is_empty();
    match existing.filter(|_| opening.from_epoch == Some(0)).filter(differs) {
        Some(before) => before.next_version(spec, Some(0)).await,
        None => EpochLog::open(Arc::clone(&opening.store), opening.root.clone(), &opening.name, spec).await,
    }
}

/// Brings rows of a version that another one replaces into its sinks: those that a process that was killed, or the end of
/// a span of time, has left in the state. A failure is a warning, since a sink that cannot be reached may be the reason for
/// the new script; unless that one `continues` after the rows.
async fn finish(before: &EpochLog, continues: bool, process: &Process) -> Result<()> {
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
        let lost = format!("rows of version {version} could not be brought into their sinks");
        if continues {
            // They are not read again.
            return Err(error.at(format!("{lost}, and --continue would leave them out")));
        }
        process.notes.warn(&format!("{lost}: {error}"));
    }
    Ok(())
}

/// Moves the pipeline of `before` to the script of `spec`, which goes on after its offsets. Prints which offsets and state it keeps.
async fn continued(before: &EpochLog, spec: &PipelineSpec, planned: &Planned, process: &Process) -> Result<EpochLog> {
    let old = Script::parse(&before.manifest().spec.script)?;
    let kept = Unchanged::of(&old, &planned.script);
    let names = |stage: StageId| stage.to_string();
    let stages: BTreeMap<StageId, String> = planned.pipeline.stages().map(|(stage, _)| (stage, names(stage))).collect();
    let of_kept = stages.iter().filter(|(stage, _)| stage.statement < kept.statements);
    let sources = planned.sources.keys().filter(|name| kept.tables.contains(*name)).cloned().collect();
    let mut asked = Continued { sources, stages: of_kept.map(|(_, name)| name.clone()).collect() };
    let stored = &before.manifest().spec.fingerprints;
    for (index, target) in planned.targets.iter().take(kept.statements).enumerate() {
        let view = view_stage(target);
        if !spec.fingerprints.contains_key(&view) {
            continue;
        }
        let own = stages.iter().filter(|(stage, _)| stage.statement == index).map(|(_, name)| name.clone());
        let own: Vec<String> = own.chain([view]).collect();
        // A view and the stages that its rows come from are kept together, or none of them.
        let fits = own.iter().all(|name| stored.get(name) == spec.fingerprints.get(name));
        for name in own {
            if fits {
                asked.stages.insert(name);
            } else {
                asked.stages.remove(&name);
            }
        }
    }
    let log = before.continue_with(spec, &asked).await?;
    let started = log.newest().await?.unwrap_or_default();
    let with_state: BTreeSet<&str> = started.state.iter().map(|file| file.stage.as_str()).collect();
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_string() } else { names.join(", ") };
    let (gone_on, again): (Vec<&str>, Vec<&str>) =
        planned.sources.keys().map(String::as_str).partition(|name| started.sources.contains_key(*name));
    let views: Vec<String> = planned.views().map(|(view, _)| view_stage(view)).collect();
    let (kept, dropped): (Vec<&str>, Vec<&str>) =
        stages.values().chain(&views).map(String::as_str).partition(|name| with_state.contains(name));
    process.notes.warn(&format!(
        "the statements of `{}` have changed: version {} goes on after the offsets of version {} for sources: {}; reads from \
         the start: {}; stages that keep their state: {}; that start without state: {}",
        spec.name,
        log.manifest().version,
        before.manifest().version,
        list(gone_on),
        list(again),
        list(kept),
        list(dropped),
    ));
    Ok(log)
}

/// Removes the notes of pipeline `id` from the sources of the script `text`, except those in `but`.
///
/// # Errors
/// Errors of the script, and of the stores of its sources.
pub(crate) async fn forget_readers(text: &str, id: &str, but: &BTreeSet<String>, process: &Process) -> Result<()> {
    let script = Script::parse(text)?;
    let is_left = |table: &&TableDefinition| keeps_rows(&table.options) && !but.contains(&table.name);
    for table in script.tables.iter().filter(is_left) {
        let mut opened = open_table(&script, &table.name, process, None).await?;
        opened.source.note_reader(&reader(id, &table.name), None).await?;
    }
    Ok(())
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
fn fingerprints(planned: &Planned) -> BTreeMap<String, String> {
    let fields = |schema: arrow::datatypes::SchemaRef| {
        let fields: Vec<String> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
        fields.join(", ")
    };
    let stages = planned.pipeline.stages().map(|(stage, schema)| (stage.to_string(), fields(schema)));
    // Readers find the columns of a view by name.
    let named = |schema: arrow::datatypes::SchemaRef| {
        let fields = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        fields.collect::<Vec<String>>().join(", ")
    };
    stages.chain(planned.views().map(|(view, schema)| (view_stage(view), named(schema)))).collect()
}
