//! The loop of a pipeline: read sources, run an epoch, write state and output, create the record, publish.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use buzz_connect::{BadData, Sink};
use buzz_epoch::{
    Clock, Commit, EpochLog, Keep, OutputFile, PipelineSpec, Record, StateFile, SystemClock, Target, publish_pending,
};
use buzz_protocol::{QueryError, Result};
use buzz_stream::{EpochInput, EpochOutput, KEY_GROUPS, Pipeline, SourceRows, SourceTime, StageId, State, state_file};
use bytes::Bytes;
use serde_json::{Value, json};

use super::plan::{EPOCH, Planned, open_table, plan, read_script};
use super::{RunArguments, store};

/// Length of an epoch if the state is in a bucket, where each costs requests.
const EPOCH_REMOTE: i64 = 10_000_000_000;

/// State files of a stage after which the whole state is written as one file.
const STATE_FILES_MAX: usize = 16;

/// Epochs between two collections of garbage.
const GARBAGE_EPOCHS: u64 = 32;

/// Epochs to which `--from-epoch` can go back.
const KEPT_EPOCHS: usize = 16;

/// Epochs of which the time is kept for the summary.
const TIMED_EPOCHS_MAX: usize = 100_000;

/// Epochs that other processes may win before this one stops.
const LOST_MAX: u32 = 3;

/// Runs a script until its sources end, it fails, or it is interrupted.
pub(super) async fn run(mut arguments: RunArguments, threads: usize) -> Result<()> {
    let (text, name) = read_script(&arguments.file)?;
    arguments.name = arguments.name.or(name);
    let workers = arguments.parallelism.map_or(0, std::num::NonZeroUsize::get);
    let workers = if workers == 0 { threads } else { workers };
    let mut runner = match &arguments.state {
        None => {
            let id = new_id("run");
            Runner::new(plan(&text, workers, arguments.until_end, &id).await?, None)
        }
        Some(uri) => stateful(&text, uri, &arguments, workers).await?,
    };
    if arguments.until_end {
        runner.check_ends()?;
    }
    let stopped = async {
        // Without a handler for the signal, an interrupt would end the process at any point, which is safe too.
        let _ = tokio::signal::ctrl_c().await;
    };
    tokio::pin!(stopped);
    let started = Instant::now();
    let mut lost = 0;
    loop {
        let tick = Instant::now();
        let step = tokio::select! {
            biased;
            () = &mut stopped => break,
            step = runner.step() => step,
        };
        match step {
            Err(error) if error.message == "standard output was closed" => break,
            Err(error) => return Err(error),
            Ok(Step::Lost) => {
                lost += 1;
                if lost >= LOST_MAX {
                    return Err(QueryError::cancelled(
                        "another process runs this pipeline and has created the last 3 epochs; stop one of them",
                    ));
                }
                runner.load().await?;
                continue;
            }
            Ok(Step::Ended) => break,
            Ok(Step::Done { more }) => {
                lost = 0;
                if arguments.epochs.is_some_and(|count| runner.epochs_run >= count) {
                    break;
                }
                if !more {
                    let length = Duration::from_nanos(runner.planned.epoch_nanos as u64);
                    tokio::select! {
                        () = &mut stopped => break,
                        () = tokio::time::sleep(length.saturating_sub(tick.elapsed())) => {}
                    }
                }
            }
        }
    }
    runner.stop().await?;
    crate::terminal::note(&runner.summary(started.elapsed()));
    Ok(())
}

async fn stateful(text: &str, uri: &str, arguments: &RunArguments, workers: usize) -> Result<Runner> {
    let (store, root) = store::open(uri, !arguments.no_sync)?;
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
    let mut planned = plan(text, workers, arguments.until_end, &id).await?;
    let spec = PipelineSpec {
        name: name.clone(),
        script: text.to_string(),
        options: BTreeMap::from([("id".to_string(), id.clone())]),
        key_groups: KEY_GROUPS as u32,
        build: env!("CARGO_PKG_VERSION").to_string(),
        fingerprints: fingerprints(&planned.pipeline),
    };
    let mut log = EpochLog::open(store, root, &name, &spec).await?;
    let (before, now) = (existing.map(|log| log.manifest().version), log.manifest().version);
    if let Some(before) = before.filter(|before| *before < now) {
        crate::terminal::warn(&format!(
            "the script of `{name}` has changed, if only in a comment: version {now} starts without state and reads its \
             sources from the start, so rows that version {before} wrote may be written again; another --name keeps both"
        ));
    }
    if let Some(epoch) = arguments.from_epoch {
        log = log.rewind(epoch).await?;
    }
    let created = log.manifest().spec.options.get("id").cloned().unwrap_or_default();
    if created != id {
        planned = plan(text, workers, arguments.until_end, &created).await?;
    }
    if store::is_remote(uri) && planned.epoch_nanos == EPOCH {
        planned.epoch_nanos = EPOCH_REMOTE;
    }
    let mut runner = Runner::new(planned, Some(log));
    runner.load().await?;
    Ok(runner)
}

fn new_id(name: &str) -> String {
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

enum Step {
    Done { more: bool },
    Ended,
    Lost,
}

struct Runner {
    planned: Planned,
    state: State,
    log: Option<EpochLog>,
    /// The newest epoch.
    record: Record,
    /// Time since when a source has been silent.
    silent: BTreeMap<String, Instant>,
    epochs_run: u64,
    rows_in: u64,
    rows_out: u64,
    late: u64,
    bad: u64,
    /// Seconds of epochs, of at most [`TIMED_EPOCHS_MAX`].
    seconds: Vec<f64>,
    /// Identifies this process in records.
    by: String,
}

impl Runner {
    fn new(planned: Planned, log: Option<EpochLog>) -> Self {
        let state = planned.pipeline.start();
        let by = format!("{}-{:x}", std::process::id(), SystemClock.now_ms());
        Self {
            planned,
            state,
            log,
            record: Record::default(),
            silent: BTreeMap::new(),
            epochs_run: 0,
            rows_in: 0,
            rows_out: 0,
            late: 0,
            bad: 0,
            seconds: Vec::new(),
            by,
        }
    }

    /// Fails if a source has no end.
    fn check_ends(&self) -> Result<()> {
        for (name, table) in
            self.planned.sources.keys().filter_map(|name| Some((name, self.planned.script.table(name)?)))
        {
            let generated = matches!(table.option("connector"), Some("nexmark" | "impulse"));
            let bounded = ["events", "message_count", "runtime"].iter().any(|key| table.option(key).is_some());
            if generated && !bounded {
                return Err(QueryError::invalid(format!(
                    "--until-end never ends: source `{name}` is endless; set events = '1000' in its CREATE TABLE"
                )));
            }
        }
        Ok(())
    }

    /// Loads the newest epoch: offsets, event times and state. Publishes what was not published.
    async fn load(&mut self) -> Result<()> {
        let Some(log) = self.log.clone() else { return Ok(()) };
        // A file that a record names may be deleted meanwhile if another process has gone on.
        for _ in 0..8 {
            self.state = self.planned.pipeline.start();
            self.record = log.newest().await?.unwrap_or_default();
            let names: Vec<String> = self.planned.sources.keys().cloned().collect();
            for name in names {
                let stored = self.record.sources.get(&name).cloned();
                let offset = stored.as_ref().and_then(|stored| stored.get("offset"));
                let opened = open_table(&self.planned.script, &name, &self.planned.place, offset).await?;
                self.planned.sources.insert(name.clone(), opened);
                if let Some(stored) = stored {
                    self.state.sources.insert(name, time_of(&stored)?);
                }
            }
            self.planned.pipeline.set_watermarks(&mut self.state);
            if !self.load_state(&log).await? {
                continue;
            }
            let targets: BTreeMap<String, Arc<dyn Target>> = self
                .planned
                .sinks
                .iter()
                .map(|(name, sink)| {
                    (name.clone(), Arc::new(Outbox { name: name.clone(), sink: Arc::clone(sink) }) as Arc<dyn Target>)
                })
                .collect();
            if self.record.epoch > 0 {
                self.record.published = publish_pending(&log, &self.record, &targets).await?;
            }
            return Ok(());
        }
        Err(QueryError::unavailable("another process runs this pipeline faster than its state can be loaded; stop one"))
    }

    /// Returns false if a file was deleted because newer epochs exist.
    async fn load_state(&mut self, log: &EpochLog) -> Result<bool> {
        let schemas: BTreeMap<StageId, _> = self.planned.pipeline.stages().collect();
        for file in &self.record.state {
            let stage: StageId = file.stage.parse()?;
            let Some(bytes) = log.read(self.record.epoch, &file.path).await? else { return Ok(false) };
            let schema = schemas.get(&stage);
            let schema = schema.ok_or_else(|| QueryError::data(format!("the script has no stage {stage}")))?;
            let (before, batches) = state_file::decode(schema, bytes).map_err(|error| error.at(file.path.as_str()))?;
            self.planned.pipeline.restore(&mut self.state, stage, batches, before).await?;
        }
        self.planned.pipeline.restored(&mut self.state).await?;
        Ok(true)
    }

    /// Reads all sources once and runs an epoch.
    async fn step(&mut self) -> Result<Step> {
        let started = Instant::now();
        let now = SystemClock.now_ms().saturating_mul(1_000_000);
        let mut input = EpochInput { now, ..Default::default() };
        let (mut more, mut ended, mut rows_in) = (false, true, 0);
        let mut bad: BTreeMap<String, u64> = BTreeMap::new();
        for (name, opened) in &mut self.planned.sources {
            let read = opened.source.read(self.planned.epoch_rows, now).await;
            let read = read.map_err(|error| error.at(format!("source {name}")))?;
            let rows: u64 = read.partitions.iter().flat_map(|(_, batches)| batches).map(|b| b.num_rows() as u64).sum();
            let silent = self.silent.entry(name.clone()).or_insert_with(Instant::now);
            if rows > 0 {
                *silent = Instant::now();
            }
            let idle = opened.idle_timeout.is_some_and(|nanos| silent.elapsed() >= Duration::from_nanos(nanos as u64));
            let idle =
                if idle { read.partitions.iter().map(|(name, _)| name.clone()).collect() } else { Default::default() };
            (more, ended, rows_in) = (more | read.more, ended & read.ended, rows_in + rows);
            if !read.bad.is_empty() {
                bad.insert(name.clone(), read.bad.len() as u64);
                let rows = read.bad.into_iter().map(|row| (row.text, row.reason)).collect();
                input.bad.insert(name.clone(), rows);
            }
            input.sources.insert(name.clone(), SourceRows { partitions: read.partitions, ended: read.ended, idle });
        }
        let watermarks = self.state.watermarks.clone();
        let output = self.planned.pipeline.epoch(&mut self.state, input).await?;
        for (name, count) in &output.without_time {
            if self.planned.sources[name].bad_data == BadData::Fail {
                return Err(QueryError::data(format!(
                    "{count} rows of source `{name}` have no event time; repair them, or set bad_data = 'drop'"
                )));
            }
            *bad.entry(name.clone()).or_default() += count;
        }
        let rows_out: u64 = output.rows.iter().flatten().map(|batch| batch.num_rows() as u64).sum();
        let late: BTreeMap<String, u64> = output
            .late
            .iter()
            .map(|(name, batches)| (name.clone(), batches.iter().map(|batch| batch.num_rows() as u64).sum()))
            .collect();
        let idle = rows_in == 0 && rows_out == 0 && watermarks == self.state.watermarks && bad.is_empty();
        if !idle {
            let record = self.record_of(&output, late.clone(), bad.clone(), now / 1_000_000);
            if !self.commit(record, &output, rows_in, started).await? {
                return Ok(Step::Lost);
            }
            self.epochs_run += 1;
            self.rows_in += rows_in;
            self.rows_out += rows_out;
            self.late += late.values().sum::<u64>();
            self.bad += bad.values().sum::<u64>();
            if self.seconds.len() < TIMED_EPOCHS_MAX {
                self.seconds.push(started.elapsed().as_secs_f64());
            }
        }
        Ok(if ended { Step::Ended } else { Step::Done { more } })
    }

    /// Returns the record of the next epoch, without its files.
    fn record_of(
        &self,
        output: &EpochOutput,
        late: BTreeMap<String, u64>,
        bad: BTreeMap<String, u64>,
        at_ms: i64,
    ) -> Record {
        let mut record = Record {
            epoch: self.record.epoch + 1,
            by: self.by.clone(),
            generation: self.record.generation,
            at_ms,
            published: self.record.published.clone(),
            late,
            bad,
            ..Default::default()
        };
        let _ = output;
        for (name, opened) in &self.planned.sources {
            let time = &self.state.sources[name];
            let stored = json!({
                "offset": opened.source.offset(),
                "partitions": time.partitions,
                "watermark": time.watermark,
                "delay": time.delay,
            });
            record.sources.insert(name.clone(), stored);
            if let Some(watermark) = time.watermark {
                record.watermarks.insert(name.clone(), watermark.div_euclid(1000));
            }
        }
        record
    }

    /// Writes the files of an epoch, creates its record, and publishes its rows. Returns false if another process
    /// created the record.
    async fn commit(
        &mut self,
        mut record: Record,
        output: &EpochOutput,
        rows_in: u64,
        started: Instant,
    ) -> Result<bool> {
        let mut rows: BTreeMap<&str, Vec<RecordBatch>> = BTreeMap::new();
        for (target, batches) in self.planned.targets.iter().zip(&output.rows) {
            if !batches.is_empty() {
                rows.entry(target).or_default().extend(batches.iter().cloned());
            }
        }
        if let Some(log) = self.log.clone() {
            self.write_state(&log, &mut record, output).await?;
            for (sink, batches) in &rows {
                let mut files = Vec::new();
                // Statements may have other columns, so each schema is a file.
                for part in batches.chunk_by(|a, b| a.schema() == b.schema()) {
                    let path = log.output_path(sink, record.epoch, "arrow");
                    let bytes = encode_rows(part)?;
                    let count = part.iter().map(|batch| batch.num_rows() as u64).sum();
                    files.push(OutputFile { path: path.to_string(), rows: count, bytes: bytes.len() as u64 });
                    log.put(&path, bytes).await?;
                }
                record.outputs.insert(sink.to_string(), files);
            }
            let rows_out: u64 = rows.values().flatten().map(|batch| batch.num_rows() as u64).sum();
            let state_rows: usize =
                self.planned.pipeline.stages().map(|(stage, _)| self.planned.pipeline.size(&self.state, stage).0).sum();
            record.metrics.insert("rows_in".to_string(), json!(rows_in));
            record.metrics.insert("rows_out".to_string(), json!(rows_out));
            record.metrics.insert("state_rows".to_string(), json!(state_rows));
            record.metrics.insert("seconds".to_string(), json!(started.elapsed().as_secs_f64()));
            if let Commit::Lost(_) = log.commit(&record).await? {
                return Ok(false);
            }
        }
        for (sink, batches) in &rows {
            write(sink, &self.planned.sinks[*sink], record.epoch, batches).await?;
        }
        for sink in self.planned.sinks.keys() {
            record.published.insert(sink.clone(), record.epoch);
        }
        self.record = record;
        if let Some(log) = &self.log
            && self.record.epoch.is_multiple_of(GARBAGE_EPOCHS)
        {
            let keep = Keep { records: KEPT_EPOCHS, published: self.record.published.clone() };
            log.collect_garbage_except(&keep).await?;
        }
        Ok(true)
    }

    /// Writes what the epoch added to the state, or the whole state of a stage if it has many files.
    async fn write_state(&self, log: &EpochLog, record: &mut Record, output: &EpochOutput) -> Result<()> {
        let pipeline = &self.planned.pipeline;
        for (stage, schema) in pipeline.stages() {
            let watermark = self.state.watermarks[stage.statement];
            let name = stage.to_string();
            let mut files: Vec<StateFile> =
                self.record.state.iter().filter(|file| file.stage == name).cloned().collect();
            files.retain(|file| file.slices.is_none_or(|(_, end)| !pipeline.is_closed(stage, end, watermark)));
            let delta = output.deltas.iter().find(|delta| delta.stage == stage);
            let (kept_rows, _) = pipeline.size(&self.state, stage);
            if kept_rows == 0 {
                // Nothing is open, so nothing must be stored.
                continue;
            }
            let (before, batches) = match delta {
                _ if files.len() >= STATE_FILES_MAX => {
                    files.clear();
                    (watermark, pipeline.snapshot(&self.state, stage))
                }
                Some(delta) => (delta.before, delta.batches.clone()),
                None => {
                    record.state.append(&mut files);
                    continue;
                }
            };
            let bytes = state_file::encode(&schema, before, &batches)?;
            let path = log.state_path(&name, record.epoch, state_file::extension(&schema));
            files.push(StateFile {
                stage: name,
                path: path.to_string(),
                groups: (0, KEY_GROUPS as u32),
                slices: pipeline.ends(stage, &batches),
                rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
                bytes: bytes.len() as u64,
                level: 0,
            });
            log.put(&path, bytes).await?;
            record.state.append(&mut files);
        }
        Ok(())
    }

    /// Ends the run with a record that is marked `stop`.
    async fn stop(&mut self) -> Result<()> {
        let Some(log) = self.log.clone() else { return Ok(()) };
        if self.epochs_run == 0 {
            return Ok(());
        }
        let epoch = self.record.epoch + 1;
        let record = Record {
            epoch,
            stop: true,
            outputs: BTreeMap::new(),
            metrics: Default::default(),
            late: BTreeMap::new(),
            bad: BTreeMap::new(),
            ..self.record.clone()
        };
        log.commit(&record).await?;
        Ok(())
    }

    fn summary(&self, time: Duration) -> String {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let index = (seconds.len() as f64 * share) as usize;
            seconds.get(index.min(seconds.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        format!(
            "epochs: {}, rows in: {}, rows out: {}, late: {}, bad: {}, epoch p50: {:.3} s, p99: {:.3} s, max: {:.3} s, \
             time: {:.2} s, rows per second: {:.0}",
            self.epochs_run,
            self.rows_in,
            self.rows_out,
            self.late,
            self.bad,
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
            time.as_secs_f64(),
            self.rows_in as f64 / time.as_secs_f64().max(1e-9),
        )
    }
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

fn encode_rows(batches: &[RecordBatch]) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let schema = batches.first().map(RecordBatch::schema).ok_or_else(|| QueryError::internal("no rows to encode"))?;
    let mut writer = StreamWriter::try_new(&mut bytes, &schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(bytes.into())
}

/// A sink that takes its rows from files of the log.
struct Outbox {
    name: String,
    sink: Arc<dyn Sink>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sink.fmt(f)
    }
}

#[async_trait]
impl Target for Outbox {
    async fn marker(&self) -> Result<Option<u64>> {
        self.sink.marker().await
    }

    async fn publish(&self, epoch: u64, files: &[OutputFile], log: &EpochLog) -> Result<()> {
        let mut rows = Vec::new();
        for file in files {
            let Some(bytes) = log.read(epoch, &file.path).await? else {
                return Err(QueryError::data(format!("output `{}` was deleted before it was published", file.path)));
            };
            for batch in StreamReader::try_new(Cursor::new(bytes), None)? {
                rows.push(batch?);
            }
        }
        write(&self.name, &self.sink, epoch, &rows).await
    }
}

/// Writes the rows of an epoch to the sink `name`. An error names it.
async fn write(name: &str, sink: &Arc<dyn Sink>, epoch: u64, rows: &[RecordBatch]) -> Result<()> {
    sink.write(epoch, rows).await.map_err(|error| error.at(format!("sink {name}")))
}

/// Formats nanoseconds since 1970.
pub(super) fn time_text(nanos: i64) -> String {
    let array = arrow::array::TimestampMillisecondArray::from(vec![nanos.div_euclid(1_000_000)]);
    arrow::util::display::array_value_to_string(&array, 0).unwrap_or_default()
}
