//! Rows of committed epochs in the sinks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use buzz_connect::{Sink, Written};
use buzz_epoch::{EpochLog, Pending, Record, publish_pending, span_of};
use buzz_protocol::Result;

use crate::outbox::{span_ms, targets, write};
use crate::runner::Runner;

/// Rows of a span of time that is not over, if no state keeps them.
#[derive(Debug)]
pub(crate) struct Held {
    span: i64,
    /// The first epoch with rows.
    epoch: u64,
    rows: Vec<RecordBatch>,
}

impl Runner {
    /// Brings the rows of the epoch of `record` into the sinks, and enters into it up to which epoch they are complete. The
    /// rows of a sink with spans of time wait until theirs is over.
    pub(crate) async fn publish(
        &mut self,
        record: &mut Record,
        rows: &BTreeMap<String, Vec<RecordBatch>>,
    ) -> Result<()> {
        for (name, sink) in self.planned.sinks.clone() {
            let of_sink = rows.get(&name);
            match (span_ms(&sink), &self.log) {
                (0, _) => {
                    let written = match of_sink {
                        Some(rows) => write(&name, &sink, record.epoch, rows).await?,
                        None => Written::Done,
                    };
                    if written == Written::Closed {
                        self.closed.store(true, Ordering::Relaxed);
                    } else {
                        record.published.insert(name, record.epoch);
                    }
                }
                (span_ms, Some(log)) => {
                    let span = |record: &Record| span_of(record.at_ms, span_ms, record.epoch);
                    if span(&*record) != span(&self.record) {
                        let complete = self.publish_spans(&log.clone(), record, Pending::Complete).await?;
                        record.published.extend(complete.into_iter().filter(|(sink, _)| *sink == name));
                    }
                }
                (span_ms, None) => {
                    let span = span_of(record.at_ms, span_ms, record.epoch);
                    self.hold(&name, &sink, span, record.epoch, of_sink).await?;
                }
            }
        }
        Ok(())
    }

    /// Publishes the spans of time of the sinks that have some, of epochs through `upto`.
    async fn publish_spans(&self, log: &EpochLog, upto: &Record, pending: Pending) -> Result<BTreeMap<String, u64>> {
        let spans = self.planned.sinks.iter().filter(|(_, sink)| span_ms(sink) > 0);
        publish_pending(log, upto, &targets(spans, &self.closed), pending).await
    }

    /// Adds rows to those that wait for the end of their span, after those of an earlier span were written.
    async fn hold(
        &mut self,
        name: &str,
        sink: &Arc<dyn Sink>,
        span: i64,
        epoch: u64,
        rows: Option<&Vec<RecordBatch>>,
    ) -> Result<()> {
        if let Some(held) = self.held.remove(name) {
            match held.span == span {
                true => _ = self.held.insert(name.to_string(), held),
                false => _ = write(name, sink, held.epoch, &held.rows).await?,
            }
        }
        if let Some(rows) = rows {
            let held = self.held.entry(name.to_string()).or_insert_with(|| Held { span, epoch, rows: Vec::new() });
            held.rows.extend(rows.iter().cloned());
        }
        Ok(())
    }

    /// Writes the rows of spans of time that the end of the run ends. `stopped` is its last record.
    pub(crate) async fn publish_rest(&mut self, stopped: Option<&Record>) -> Result<()> {
        if let (Some(log), Some(stopped)) = (&self.log, stopped) {
            self.publish_spans(log, stopped, Pending::Complete).await?;
        }
        for (name, held) in std::mem::take(&mut self.held) {
            write(&name, &self.planned.sinks[&name], held.epoch, &held.rows).await?;
        }
        Ok(())
    }

    /// Returns true if rows of the log wait for the end of their span.
    pub(crate) fn has_waiting_rows(&self) -> bool {
        let complete = |name: &String| self.record.published.get(name).copied().unwrap_or(0);
        let mut spans = self.planned.sinks.iter().filter(|(_, sink)| span_ms(sink) > 0);
        self.log.is_some() && !self.record.stop && spans.any(|(name, _)| complete(name) < self.record.epoch)
    }
}
