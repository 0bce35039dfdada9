//! A pipeline that runs: its state, its newest epoch, and one step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use buzz_connect::{BadData, End, OpenSource};
use buzz_epoch::{Clock, EpochLog, Pending, Record, SystemClock, publish_pending};
use buzz_protocol::{ErrorKind, QueryError, Result};
use buzz_stream::{END_OF_TIME, EpochInput, EpochOutput, LeftOut, SourceRows, SourceTime, StageId, State, state_file};
use serde_json::Value;

use crate::commit::KEPT_EPOCHS;
use crate::live::Live;
use crate::lookup::Lookup;
use crate::outbox::targets;
use crate::plan::{OnError, Planned, open_table};
use crate::publish::Held;
use crate::summary::{Counts, Summary};

/// Maximum number of notes that are printed.
const TOLD_MAX: usize = 1000;

/// The result of a step.
pub(crate) enum Step {
    /// An epoch has ended, or there was nothing to do. `more` rows can be read at once.
    Done { more: bool },
    /// All sources have ended.
    Ended,
    /// Another process created the record of the epoch.
    Lost,
}

/// A pipeline with its state and its newest epoch.
pub(crate) struct Runner {
    pub(crate) planned: Planned,
    pub(crate) state: State,
    pub(crate) log: Option<EpochLog>,
    /// The newest epoch.
    pub(crate) record: Record,
    /// Time since when a source has been silent.
    silent: BTreeMap<String, Instant>,
    /// Notes about sources that were printed.
    told: BTreeSet<String>,
    /// Rows that wait for the end of a span of time, by sink, if no state keeps them.
    pub(crate) held: BTreeMap<String, Held>,
    /// The reader of a sink has ended.
    pub(crate) closed: Arc<AtomicBool>,
    pub(crate) summary: Summary,
    /// Figures that others read.
    pub(crate) live: Arc<Live>,
    /// Identifies this process in records.
    pub(crate) by: String,
}

impl Runner {
    pub(crate) fn new(planned: Planned, log: Option<EpochLog>) -> Self {
        let state = planned.pipeline.start();
        let by = crate::jobs::token();
        Self {
            planned,
            state,
            log,
            record: Record::default(),
            silent: BTreeMap::new(),
            told: BTreeSet::new(),
            held: BTreeMap::new(),
            closed: Arc::new(AtomicBool::new(false)),
            summary: Summary::default(),
            live: Arc::default(),
            by,
        }
    }

    /// Fails if a source has no end.
    pub(crate) fn check_ends(&self) -> Result<()> {
        for (name, opened) in &self.planned.sources {
            match opened.source.end() {
                End::Reached => {}
                End::Option(option) => {
                    return Err(QueryError::invalid(format!(
                        "--until-end never ends: source `{name}` is endless; set {option} in its CREATE TABLE"
                    )));
                }
                End::Never => {
                    let connector = self.planned.script.table(name).and_then(|table| table.option("connector"));
                    return Err(QueryError::invalid(format!(
                        "--until-end never ends: source `{name}` ({}) has no end; leave --until-end out",
                        connector.unwrap_or_default()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Loads the newest epoch: offsets, event times and state. Publishes what was not published.
    pub(crate) async fn load(&mut self) -> Result<()> {
        let Some(log) = self.log.clone() else { return Ok(()) };
        // A file that a record names may be deleted meanwhile if another process has gone on.
        for _ in 0..8 {
            self.state = self.planned.pipeline.start();
            self.planned.lookups.values_mut().for_each(Lookup::forget);
            self.record = log.newest().await?.unwrap_or_default();
            let names: Vec<String> = self.planned.sources.keys().cloned().collect();
            for name in names {
                let stored = self.record.sources.get(&name).cloned();
                let offset = stored.as_ref().and_then(|stored| stored.get("offset"));
                let opened = open_table(&self.planned.script, &name, &self.planned.process, offset).await?;
                self.planned.sources.insert(name.clone(), opened);
                if let Some(stored) = stored {
                    self.state.sources.insert(name, time_of(&stored)?);
                }
            }
            self.note_readers().await?;
            let at = self.record.at_ms.saturating_mul(1_000_000);
            self.planned.pipeline.set_watermarks(&mut self.state, at);
            if !self.load_state(&log).await? {
                continue;
            }
            if self.record.epoch > 0 {
                let targets = targets(&self.planned.sinks, &self.closed);
                self.record.published = publish_pending(&log, &self.record, &targets, Pending::Complete).await?;
            }
            return Ok(());
        }
        Err(QueryError::unavailable("another process runs this pipeline faster than its state can be loaded; stop one"))
    }

    /// Notes in the sources which of their rows the epochs that are kept still need.
    pub(crate) async fn note_readers(&mut self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let id = log.manifest().spec.options.get("id").cloned().unwrap_or_default();
        // A run may go back to the oldest of these.
        let oldest = log.list(KEPT_EPOCHS).await?.pop();
        let oldest = oldest.as_ref().unwrap_or(&self.record);
        for (name, opened) in &mut self.planned.sources {
            let stored = oldest.sources.get(name).and_then(|stored| stored.get("offset"));
            opened.source.note_reader(&reader(&id, name), Some(stored.unwrap_or(&Value::Null))).await?;
        }
        Ok(())
    }

    /// Returns false if a file was deleted because newer epochs exist.
    async fn load_state(&mut self, log: &EpochLog) -> Result<bool> {
        let schemas: BTreeMap<StageId, _> = self.planned.pipeline.stages().collect();
        for file in self.record.state.iter().filter(|file| !file.is_of_view()) {
            let stage: StageId = file.stage.parse()?;
            let Some(bytes) = log.read(self.record.epoch, &file.path, &file.sum).await? else { return Ok(false) };
            let schema = schemas.get(&stage);
            let schema = schema.ok_or_else(|| QueryError::data(format!("the script has no stage {stage}")))?;
            let (before, batches) = state_file::decode(schema, bytes).map_err(|error| error.at(file.path.as_str()))?;
            self.planned.pipeline.restore(&mut self.state, stage, batches, before).await?;
        }
        self.planned.pipeline.restored(&mut self.state).await?;
        Ok(true)
    }

    /// Reads all sources once and runs an epoch.
    pub(crate) async fn step(&mut self) -> Result<Step> {
        let started = Instant::now();
        let now = SystemClock.now_ms().saturating_mul(1_000_000);
        let Read { input, mut counts, more, ended } = self.read(now).await?;
        // After the rows of the epoch, so that rows which were added to a table before them are found.
        self.look_up(now).await?;
        let (watermarks, state_rows) = (self.state.watermarks.clone(), self.state_rows());
        let output = self.epoch(&input, &mut counts).await?;
        for (name, rows) in &output.unfit {
            if self.planned.sources[name].bad_data == BadData::Fail
                && let Some((text, reason)) = rows.first()
            {
                return Err(QueryError::data(format!(
                    "a row of source `{name}` is bad: {reason}; repair it, or set bad_data = 'drop': {text}"
                )));
            }
            *counts.bad.entry(name.clone()).or_default() += rows.len() as u64;
        }
        counts.rows_out = count(output.rows.iter().flatten());
        counts.late = output.late.iter().map(|(name, batches)| (name.clone(), count(batches))).collect();
        counts.late.extend(output.late_pairs.iter().map(|(stage, pairs)| (stage.to_string(), *pairs)));
        // Without rows in the state, a later watermark changes nothing that a record must keep.
        let unmoved = state_rows == 0 || watermarks == self.state.watermarks;
        let idle = counts.rows_in == 0 && counts.rows_out == 0 && counts.bad.is_empty() && unmoved;
        if !idle || self.has_first_position() || self.lacks_view() {
            if !self.commit(&output, &counts, now / 1_000_000, started).await? {
                return Ok(Step::Lost);
            }
            self.summary.add(started.elapsed());
            self.live.add(&counts, started.elapsed().as_secs_f64());
        }
        self.live.set(&self.state, self.state_rows());
        Ok(if ended { Step::Ended } else { Step::Done { more } })
    }

    /// Returns true if a source that starts with the newest rows has its first position, which the next start must know.
    fn has_first_position(&self) -> bool {
        self.log.is_some()
            && self.planned.sources.iter().any(|(name, opened)| {
                let stored = self.record.sources.get(name).and_then(|stored| stored.get("offset"));
                opened.source.starts_at_newest()
                    && stored.is_none_or(Value::is_null)
                    && !opened.source.offset().is_null()
            })
    }

    /// Returns true if the newest epoch has no files of a materialized view, which cannot be read then.
    fn lacks_view(&self) -> bool {
        self.log.is_some() && self.planned.views().any(|(name, _)| self.record.view_files(name).next().is_none())
    }

    /// Returns the number of rows in the state.
    pub(crate) fn state_rows(&self) -> usize {
        let pipeline = &self.planned.pipeline;
        pipeline.stages().map(|(stage, _)| pipeline.size(&self.state, stage).0).sum()
    }

    /// Runs an epoch of the pipeline. If it fails for its rows, and the script says so, their epoch is skipped.
    async fn epoch(&mut self, input: &EpochInput, counts: &mut Counts) -> Result<EpochOutput> {
        let skips = self.planned.settings.on_error == OnError::SkipEpoch;
        let before = skips.then(|| self.state.clone());
        let pipeline = &self.planned.pipeline;
        let error = match pipeline.epoch(&mut self.state, input).await {
            Ok(output) => return Ok(output),
            Err(error) => error.at(self.rows_of_epoch()),
        };
        let Some(before) = before.filter(|_| matches!(error.kind, ErrorKind::Data | ErrorKind::Invalid)) else {
            return Err(error);
        };
        let rows = format!("{} rows", counts.rows_in);
        let mut attempts = vec![(LeftOut::Rows, rows.clone())];
        if pipeline.has_only_windows() {
            attempts.push((LeftOut::Windows, "the windows that close".to_string()));
        }
        attempts.push((LeftOut::Both, format!("{rows} and the windows that close")));
        for (without, left_out) in attempts {
            self.state = before.clone();
            if let Ok(output) = pipeline.epoch_without(&mut self.state, input, without).await {
                let skipped = format!("{left_out} are left out: {error}");
                self.planned.process.notes.warn(&skipped);
                counts.skipped = Some(skipped);
                return Ok(output);
            }
        }
        Err(error)
    }

    /// Returns the epoch that runs, with the positions of its rows.
    fn rows_of_epoch(&self) -> String {
        let positions = |(name, opened): (&String, &OpenSource)| {
            let before = self.record.sources.get(name).and_then(|stored| stored.get("offset"));
            let before = before.map_or_else(|| "the start".to_string(), position);
            format!("source {name} from {before} to {}", position(&opened.source.offset()))
        };
        let positions: Vec<String> = self.planned.sources.iter().map(positions).collect();
        format!("epoch {}, {}", self.record.epoch + 1, positions.join(", "))
    }

    /// Returns true if source `name` is so far ahead of the slowest one that it must wait.
    fn must_wait(&self, name: &str, max_drift: Option<i64>) -> bool {
        let (Some(max_drift), Some(own)) = (max_drift, self.state.sources.get(name)) else { return false };
        let others = self.planned.sources.keys().filter(|other| *other != name);
        let slowest = others.filter_map(|other| self.state.sources.get(other)?.watermark).min();
        slowest.is_some_and(|slowest| is_ahead(own, slowest, max_drift))
    }

    /// Prints a note about a source, once.
    fn tell(&mut self, source: &str, note: &str) {
        let note = format!("source {source}: {note}");
        if self.told.len() < TOLD_MAX && self.told.insert(note.clone()) {
            self.planned.process.notes.note(&note);
        }
    }

    /// Reads all sources once.
    async fn read(&mut self, now: i64) -> Result<Read> {
        let mut read = Read {
            input: EpochInput { now, ..Default::default() },
            counts: Counts::default(),
            more: false,
            ended: true,
        };
        let waiting: BTreeSet<String> = self
            .planned
            .sources
            .iter()
            .filter(|(name, opened)| self.must_wait(name, opened.max_drift))
            .map(|(name, _)| name.clone())
            .collect();
        let mut notes = Vec::new();
        for (name, opened) in &mut self.planned.sources {
            if waiting.contains(name) {
                // It has rows, so it is not silent.
                self.silent.insert(name.clone(), Instant::now());
                read.ended = false;
                notes.push((name.clone(), "waits for slower sources (max_drift)".to_string()));
                continue;
            }
            let batch = opened.source.read(self.planned.settings.epoch_rows, now).await;
            let batch = batch.map_err(|error| error.at(format!("source {name}")))?;
            let rows = count(batch.partitions.iter().flat_map(|(_, batches)| batches));
            let silent = self.silent.entry(name.clone()).or_insert_with(Instant::now);
            if rows > 0 {
                *silent = Instant::now();
            }
            let idle = opened.idle_timeout.is_some_and(|nanos| silent.elapsed() >= Duration::from_nanos(nanos as u64));
            let idle =
                if idle { batch.partitions.iter().map(|(name, _)| name.clone()).collect() } else { BTreeSet::new() };
            notes.extend(batch.notes.into_iter().map(|note| (name.clone(), note)));
            read.more |= batch.more;
            if let Some(lag) = batch.lag {
                read.counts.lag.insert(name.clone(), lag);
            }
            read.ended &= batch.ended;
            read.counts.rows_in += rows;
            read.counts.rows_of_sources.insert(name.clone(), rows);
            if !batch.bad.is_empty() {
                read.counts.bad.insert(name.clone(), batch.bad.len() as u64);
                let rows = batch.bad.into_iter().map(|row| (row.text, row.reason)).collect();
                read.input.bad.insert(name.clone(), rows);
            }
            let rows = SourceRows { partitions: batch.partitions, ended: batch.ended, idle };
            read.input.sources.insert(name.clone(), rows);
        }
        for (name, note) in notes {
            self.tell(&name, &note);
        }
        Ok(read)
    }
}

/// Returns the name under which pipeline `id` reads `table`.
pub(crate) fn reader(id: &str, table: &str) -> String {
    // FNV-1a: the name is stored, and the hashes of the standard library may change with its version.
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = format!("{id}/{table}").bytes().fold(0xcbf2_9ce4_8422_2325, add);
    let token = id.rsplit('-').next().unwrap_or_default();
    format!("{token}-{hash:016x}")
}

/// The rows of one read of all sources.
struct Read {
    input: EpochInput,
    counts: Counts,
    /// A source has more rows.
    more: bool,
    /// All sources have ended.
    ended: bool,
}

fn count<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> u64 {
    batches.into_iter().map(|batch| batch.num_rows() as u64).sum()
}

/// Returns true if the rows of a source are more than `max_drift` ahead of `slowest`. The watermark of a source that was
/// silent for too long follows the clock, which its next rows may be far behind, so its newest row counts then.
fn is_ahead(own: &SourceTime, slowest: i64, max_drift: i64) -> bool {
    let Some(watermark) = own.watermark.filter(|&mark| mark != END_OF_TIME) else { return false };
    let newest = own.partitions.values().copied().filter(|&mark| mark != i64::MIN).max();
    newest.unwrap_or(watermark).min(watermark).saturating_sub(slowest) > max_drift
}

/// Returns an offset as a text, without the files that were read before.
pub(crate) fn position(offset: &Value) -> String {
    let mut offset = offset.clone();
    if let Value::Object(parts) = &mut offset {
        parts.remove("read");
    }
    offset.to_string()
}

/// Reads the event time of a source from a record.
fn time_of(stored: &Value) -> Result<SourceTime> {
    let broken = || QueryError::data(format!("the record has no event time in {stored}"));
    let partitions = stored.get("partitions").and_then(Value::as_object).ok_or_else(broken)?;
    let partitions = partitions.iter().map(|(name, mark)| Some((name.clone(), mark.as_i64()?)));
    Ok(SourceTime {
        partitions: partitions.collect::<Option<_>>().ok_or_else(broken)?,
        watermark: stored.get("watermark").and_then(Value::as_i64),
        delay: stored.get("delay").and_then(Value::as_i64).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_that_was_silent_is_ahead_by_its_rows_and_not_by_the_clock() {
        let time = |watermark: i64, partitions: &[i64]| SourceTime {
            partitions: partitions.iter().enumerate().map(|(index, &mark)| (index.to_string(), mark)).collect(),
            watermark: Some(watermark),
            delay: 0,
        };
        let (slowest, max_drift, clock) = (100, 10, 1_000_000);
        assert!(!is_ahead(&time(clock, &[105, i64::MIN]), slowest, max_drift), "it was silent");
        assert!(is_ahead(&time(clock, &[111]), slowest, max_drift), "its rows are ahead");
        assert!(!is_ahead(&time(105, &[105, 500]), slowest, max_drift), "its slowest partition is not ahead");
        assert!(is_ahead(&time(111, &[i64::MIN]), slowest, max_drift), "its rows have the time of their arrival");
        assert!(!is_ahead(&time(END_OF_TIME, &[500]), slowest, max_drift), "it has ended");
    }
}
