//! The end of an epoch: files of state and output, the record that makes them visible, and the rows in the sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use buzz_epoch::{Commit, EpochLog, Keep, OutputFile, Record, StateFile, sum};
use buzz_protocol::{QueryError, Result};
use buzz_stream::{EpochOutput, state_file};
use bytes::Bytes;
use serde_json::json;

use crate::runner::Runner;
use crate::summary::Counts;

/// State files of a stage after which the whole state is written as one file.
const STATE_FILES_MAX: usize = 16;

/// Epochs between two collections of garbage.
const GARBAGE_EPOCHS: u64 = 32;

/// Epochs to which `--from-epoch` can go back.
pub(crate) const KEPT_EPOCHS: usize = 16;

impl Runner {
    /// Returns the record of the next epoch, without its files.
    fn record_of(&self, counts: &Counts, at_ms: i64) -> Record {
        let mut record = Record {
            epoch: self.record.epoch + 1,
            by: self.by.clone(),
            generation: self.record.generation,
            at_ms,
            published: self.record.published.clone(),
            late: counts.late.clone(),
            bad: counts.bad.clone(),
            ..Default::default()
        };
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
    pub(crate) async fn commit(
        &mut self,
        output: &EpochOutput,
        counts: &Counts,
        at_ms: i64,
        started: Instant,
    ) -> Result<bool> {
        let mut record = self.record_of(counts, at_ms);
        let mut rows: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
        for (target, batches) in self.planned.targets.iter().zip(&output.rows) {
            if !batches.is_empty() {
                rows.entry(target.clone()).or_default().extend(batches.iter().cloned());
            }
        }
        for (name, batches) in &rows {
            let checked = batches.iter().try_for_each(|batch| self.planned.sinks[name].check_rows(batch));
            checked.map_err(|error| error.at(format!("sink {name}")))?;
        }
        if let Some(log) = self.log.clone() {
            self.write_state(&log, &mut record, output).await?;
            if let Err(error) = self.write_views(&log, &mut record, &rows).await {
                // The record of this epoch would be refused, so nothing is lost.
                return if log.superseded(self.record.epoch).await? { Ok(false) } else { Err(error) };
            }
            let views: BTreeSet<&str> = self.planned.views().map(|(name, _)| name).collect();
            for (sink, batches) in rows.iter().filter(|(sink, _)| !views.contains(sink.as_str())) {
                let mut files = Vec::new();
                // Statements may have other columns, so each schema is a file.
                for part in batches.chunk_by(|a, b| a.schema() == b.schema()) {
                    let path = log.output_path(sink, record.epoch, "arrow");
                    let bytes = encode_rows(part)?;
                    let count = part.iter().map(|batch| batch.num_rows() as u64).sum();
                    files.push(OutputFile {
                        path: path.to_string(),
                        rows: count,
                        bytes: bytes.len() as u64,
                        sum: sum(&bytes),
                    });
                    log.put(&path, bytes).await?;
                }
                record.outputs.insert(sink.to_string(), files);
            }
            record.metrics.insert("rows_in".to_string(), json!(counts.rows_in));
            record.metrics.insert("rows_of_sources".to_string(), json!(counts.rows_of_sources));
            if !counts.lag.is_empty() {
                record.metrics.insert("lag".to_string(), json!(counts.lag));
            }
            record.metrics.insert("rows_out".to_string(), json!(counts.rows_out));
            record.metrics.insert("state_rows".to_string(), json!(self.state_rows()));
            if !self.planned.lookups.is_empty() {
                record.metrics.insert("lookups".to_string(), json!(self.looked_up()));
            }
            record.metrics.insert("seconds".to_string(), json!(started.elapsed().as_secs_f64()));
            if let Some(skipped) = &counts.skipped {
                record.metrics.insert("skipped".to_string(), json!(skipped));
            }
            if let Commit::Lost(_) = log.commit(&record).await? {
                return Ok(false);
            }
        }
        self.publish(&mut record, &rows).await?;
        self.record = record;
        if let Some(log) = self.log.clone()
            && self.record.epoch.is_multiple_of(GARBAGE_EPOCHS)
        {
            let keep = Keep { records: KEPT_EPOCHS, published: self.record.published.clone() };
            log.collect_garbage_except(&keep).await?;
            self.note_readers().await?;
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
                    (watermark, pipeline.snapshot(&self.state, stage)?)
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
                groups: state_file::groups(&batches),
                slices: pipeline.ends(stage, &batches),
                rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
                bytes: bytes.len() as u64,
                sum: sum(&bytes),
                level: 0,
            });
            log.put(&path, bytes).await?;
            record.state.append(&mut files);
        }
        Ok(())
    }

    /// Ends the run with a record that is marked `stop`, and writes the rows that waited for the end of a span of time.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(log) = self.log.clone() else { return self.publish_rest(None).await };
        if self.summary.epochs == 0 && !self.has_waiting_rows() {
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
        match log.commit(&record).await? {
            Commit::Done => self.publish_rest(Some(&record)).await,
            Commit::Lost(_) => Ok(()),
        }
    }
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
