//! Brings output into targets. Output lies in files that a record names; publishing an epoch repeats safely until the
//! target's marker says that it has the epoch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use buzz_protocol::Result;

use crate::log::EpochLog;
use crate::record::{OutputFile, Record};

/// Number of records that are read at once to find epochs with output.
const BATCH_EPOCHS: u64 = 64;

/// A table, file or service outside of the pipeline's folder.
#[async_trait]
pub trait Target: fmt::Debug + Send + Sync {
    /// Returns the last epoch that was published; `None` before the first.
    async fn marker(&self) -> Result<Option<u64>>;

    /// Adds the rows of `files` and sets the marker to `epoch`, both or neither. Must do nothing, successfully, if the
    /// marker is `epoch` or more: several coordinators may publish the same epoch, and a slow one may be late.
    ///
    /// # Errors
    /// The error of the target; the epoch may have been published nevertheless. An error also if a file of `files` is
    /// missing: the caller then reads the marker, since another coordinator may have published the epoch and deleted
    /// the file.
    async fn publish(&self, epoch: u64, files: &[OutputFile], log: &EpochLog) -> Result<()>;

    /// Returns the span of time in milliseconds whose epochs are published together, under the number of the first; 0 if
    /// each epoch is published alone. A target with a span has no marker: a repetition may add epochs behind those that it
    /// has, and must then replace the rows of the first.
    fn span_ms(&self) -> u64 {
        0
    }
}

/// The epochs that are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Epochs whose span of time has ended: a later span has begun, or the pipeline has stopped.
    Complete,
    /// All epochs.
    All,
}

/// Publishes the output of epochs through `upto`, in order, that the targets do not have. Epochs without files for a
/// sink are skipped, so its marker stays behind. Returns, for each sink, the epoch up to which its target is complete:
/// enter these as `published` into the next record, which then shortens the search after a restart.
///
/// # Errors
/// The first error of a target or the store. Epochs before it are published.
pub async fn publish_pending(
    log: &EpochLog,
    upto: &Record,
    targets: &BTreeMap<String, Arc<dyn Target>>,
    pending: Pending,
) -> Result<BTreeMap<String, u64>> {
    let mut complete = BTreeMap::new();
    for (sink, target) in targets {
        let marker = target.marker().await?.unwrap_or(0);
        let known = upto.published.get(sink).copied().unwrap_or(0);
        let mut group = Group::default();
        let mut next = marker.max(known) + 1;
        while next <= upto.epoch {
            let through = upto.epoch.min(next + BATCH_EPOCHS - 1);
            for record in log.records(next, through, usize::MAX).await? {
                let span = span_of(record.at_ms, target.span_ms(), record.epoch);
                if group.span != Some(span) {
                    group.publish(log, target.as_ref()).await?;
                    group.span = Some(span);
                }
                if let Some(files) = record.outputs.get(sink).filter(|files| !files.is_empty()) {
                    group.first.get_or_insert(record.epoch);
                    group.files.extend(files.iter().cloned());
                }
                if record.stop {
                    group.publish(log, target.as_ref()).await?;
                }
            }
            next = through + 1;
        }
        if pending == Pending::All || target.span_ms() == 0 {
            group.publish(log, target.as_ref()).await?;
        }
        complete.insert(sink.clone(), marker.max(group.first.map_or(upto.epoch, |first| first - 1)));
    }
    Ok(complete)
}

/// Returns the number of the span of time in which an epoch is. Epochs of one span are published together.
pub fn span_of(at_ms: i64, span_ms: u64, epoch: u64) -> i64 {
    match i64::try_from(span_ms) {
        Ok(0) => i64::try_from(epoch).unwrap_or(i64::MAX),
        Ok(span_ms) => at_ms.div_euclid(span_ms),
        Err(_) => 0,
    }
}

/// Epochs that are published together.
#[derive(Debug, Default)]
struct Group {
    span: Option<i64>,
    /// The first epoch with files.
    first: Option<u64>,
    files: Vec<OutputFile>,
}

impl Group {
    /// Publishes the files and forgets them. An error does not count if the target has the epoch afterwards.
    async fn publish(&mut self, log: &EpochLog, target: &dyn Target) -> Result<()> {
        let Some(epoch) = self.first.take() else { return Ok(()) };
        let files = std::mem::take(&mut self.files);
        let Err(error) = target.publish(epoch, &files, log).await else { return Ok(()) };
        match target.marker().await {
            Ok(Some(marker)) if marker >= epoch => Ok(()),
            _ => Err(error),
        }
    }
}
