//! The epoch protocol of continuous queries: how offsets, state and output become visible together, exactly once.
//!
//! An *epoch* reads rows from sources, folds them into state, and makes output. A coordinator writes state and output
//! into files that no process reads yet, and then creates one [`Record`] that names them, together with the offsets of the
//! sources ([`EpochLog::commit`]). The store lets only one process create an object, so of several coordinators one
//! wins each epoch, and the others load its record and continue from there. A coordinator that dies before the record
//! has done nothing; one that dies after it has done everything.
//!
//! A coordinator repeats:
//!
//! ```no_run
//! # use std::{collections::BTreeMap, sync::Arc};
//! # use buzz_epoch::{Commit, EpochLog, Pending, PipelineSpec, Record, Target, publish_pending};
//! # async fn compute(log: &EpochLog, before: &Record) -> buzz_protocol::Result<Record> { todo!() }
//! # async fn coordinate(
//! #     store: Arc<dyn object_store::ObjectStore>,
//! #     spec: PipelineSpec,
//! #     targets: BTreeMap<String, Arc<dyn Target>>,
//! # ) -> buzz_protocol::Result<()> {
//! let log = EpochLog::open(store, "streams".into(), "busy_auctions", &spec).await?;
//! loop {
//!     // The epoch to continue, by whichever coordinator.
//!     let before = log.newest().await?.unwrap_or_default();
//!     let published = publish_pending(&log, &before, &targets, Pending::Complete).await?;
//!     // Reads rows after `before.sources`, folds them into `before.state`, and writes files under
//!     // `log.state_path(…)` and `log.output_path(…)`.
//!     let record = Record { published, ..compute(&log, &before).await? };
//!     match log.commit(&record).await? {
//!         Commit::Done => {}
//!         // Another coordinator was faster: the files of this one are garbage.
//!         Commit::Lost(_) => continue,
//!     }
//!     if record.epoch.is_multiple_of(60) {
//!         log.collect_garbage(10).await?;
//!     }
//! }
//! # }
//! ```
//!
//! Read in this order:
//!
//! - [`Record`] is what an epoch made. Names of files carry their epoch ([`epoch_of`]).
//! - [`EpochLog`] opens a pipeline, finds the newest record, and commits the next one.
//! - [`PipelineSpec`] and [`Manifest`]: versions of a pipeline, and going back to an earlier epoch.
//! - [`Keep`]: which files are garbage.
//! - [`Target`] and [`publish_pending`] bring output into tables outside, once.
//! - [`SourceLog`] keeps rows that are pushed by others, and leaves out requests that were repeated. [`SourceLog::trim`] removes
//!   old ones.
//! - [`Feed`] keeps messages that are received from a place without offsets.
//! - [`Sequence`] keeps documents that replace each other, such as what is wanted of a pipeline and who runs it.
//! - [`groups_of`] divides state among combs.
//! - [`Clock`] is the time, which a test moves.
//!
//! Decisions are functions over values; only `log`, `outbox`, `source`, `feed` and `object` call the store. The tests run all
//! of it in a simulator (`simulator`) that dies at each call.

mod record;

mod names;

mod object;

mod search;

mod log;

mod pipeline;

mod garbage;

mod outbox;

mod segment;

mod feed;

mod sequence;

mod seal;

mod source;

mod trim;

mod groups;

mod clock;

mod rules;

#[cfg(test)]
mod simulator;

#[cfg(test)]
mod tests;

pub use clock::{Clock, SystemClock, VirtualClock};
pub use feed::{Feed, Received};
pub use garbage::Keep;
pub use groups::{files_of, groups_of};
pub use log::{Commit, DELETES_MAX, EpochLog, LISTED_RECORDS_MAX, OUTPUT_SWEEP_EPOCHS};
pub use names::{NAME_BYTES_MAX, epoch_of, inbox_folder};
pub use object::{LISTED_MAX, OBJECT_BYTES_MAX, read as read_object};
pub use outbox::{Pending, Target, publish_pending, span_of};
pub use pipeline::{Continued, KEY_GROUPS_MAX, Manifest, PipelineSpec, SCRIPT_BYTES_MAX, Span, VERSIONS_MAX};
pub use record::{
    INLINE_BYTES_MAX, Moved, OutputFile, RECORD_BYTES_MAX, Record, StateFile, TIMERS_MAX, Timer, TimerTime, due, sum,
};
pub use seal::{ENTRY_PARTS_MAX, ENTRY_SEGMENTS_MAX, Entry, KEYS_MAX, Sealed, SealedRows, Times, Totals};
pub use segment::{KEY_BYTES_MAX, PARTS_MAX, Part, SEGMENT_BYTES_MAX, Segment};
pub use sequence::Sequence;
pub use source::{SourceColumn, SourceLog, SourceSpec, source_names};
pub use trim::RETENTION;
