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
}

/// Publishes the output of all epochs through `upto`, in order, that the targets do not have. Epochs without files for
/// a sink are skipped, so its marker stays behind. Returns, for each sink, the epoch up to which its target is
/// complete: enter these as `published` into the next record, which then shortens the search after a restart.
///
/// # Errors
/// The first error of a target or the store. Epochs before it are published.
pub async fn publish_pending(
    log: &EpochLog,
    upto: &Record,
    targets: &BTreeMap<String, Arc<dyn Target>>,
) -> Result<BTreeMap<String, u64>> {
    let mut complete = BTreeMap::new();
    for (sink, target) in targets {
        let marker = target.marker().await?.unwrap_or(0);
        let known = upto.published.get(sink).copied().unwrap_or(0);
        let mut next = marker.max(known) + 1;
        while next <= upto.epoch {
            let through = upto.epoch.min(next + BATCH_EPOCHS - 1);
            for record in log.records(next, through, usize::MAX).await? {
                if let Some(files) = record.outputs.get(sink).filter(|files| !files.is_empty()) {
                    publish(log, target.as_ref(), record.epoch, files).await?;
                }
            }
            next = through + 1;
        }
        complete.insert(sink.clone(), marker.max(upto.epoch));
    }
    Ok(complete)
}

/// Publishes one epoch. An error does not count if the target has the epoch afterwards.
async fn publish(log: &EpochLog, target: &dyn Target, epoch: u64, files: &[OutputFile]) -> Result<()> {
    let Err(error) = target.publish(epoch, files, log).await else { return Ok(()) };
    match target.marker().await {
        Ok(Some(marker)) if marker >= epoch => Ok(()),
        _ => Err(error),
    }
}
