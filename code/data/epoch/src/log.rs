//! The epochs of a pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Ids;
use crate::garbage::{self, Keep};
use crate::names;
use crate::object::{self, Created, READS_AT_ONCE};
use crate::pipeline::{self, Change, Continued, Manifest, PipelineSpec, VERSIONS_MAX};
use crate::record::{Moved, Record, check_number, check_sum, decode};
use crate::rules::Rules;
use crate::search::Search;

/// Number of epochs between two updates of the hint. A start finds the rest by probing; a PUT on S3 costs 12 probes.
const HINT_EPOCHS: u64 = 16;

/// Number of lost races after which opening a pipeline, or moving it to another version, gives up.
const RACES_MAX: usize = 64;

/// Maximum number of records that [`EpochLog::list`] returns.
pub const LISTED_RECORDS_MAX: usize = 100_000;

/// Number of epochs back to which garbage collection looks for output that no record names. Collect at least once in as
/// many epochs; output that a later collection would find stays.
pub const OUTPUT_SWEEP_EPOCHS: u64 = 128;

/// Maximum number of files that one garbage collection deletes; the next one continues.
pub const DELETES_MAX: usize = 10_000;

/// The epochs of one version of a pipeline. Clones share what they know about the newest epoch.
#[derive(Debug, Clone)]
pub struct EpochLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: Place,
    /// `<root>/pipelines/<pipeline>`.
    folder: Path,
    manifest: Manifest,
    known: Mutex<Known>,
}

/// The newest epoch that this process has seen. Records never change, so it may be old, but not wrong.
#[derive(Debug, Default)]
struct Known {
    /// An epoch whose record exists; 0 for none.
    epoch: u64,
    /// A record that was read or created, usually the newest.
    record: Option<Record>,
}

/// `latest.json`: where a search starts. Overwritten without order, so it may be out of date.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Hint {
    version: u64,
    epoch: u64,
}

/// The record from which a version starts.
#[derive(Debug)]
enum Base {
    /// The newest one.
    Newest,
    /// The one of an epoch.
    Epoch(u64),
    /// None: without offsets and state.
    Nothing,
    /// Parts of the newest one.
    Continued(Continued),
}

/// The result of [`EpochLog::commit`].
#[derive(Debug, PartialEq)]
pub enum Commit {
    /// The record is the one of its epoch.
    Done,
    /// Another coordinator created the record of this epoch. Nothing of the rejected record is visible: load the newest
    /// epoch and compute the next one.
    Lost(Box<Record>),
}

impl EpochLog {
    /// Opens the newest version of `pipeline` below `root`. Creates version 1 if there is none, and the next version if
    /// the script has changed. A version for another script starts without state and reads its sources from the start.
    ///
    /// # Errors
    /// `Invalid` if the name or a bound of `spec` is wrong, or if the script is the same but this build cannot read the
    /// state of the version ([`PipelineSpec::fingerprints`]).
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        root: Path,
        pipeline: &str,
        spec: &PipelineSpec,
    ) -> Result<EpochLog> {
        Place { store, root, pipeline: pipeline.into(), ids: Ids::random(), rules: Rules::default() }.open(spec).await
    }

    /// Opens the newest version of `pipeline` whatever its script, to look at it or to move it; `None` if the pipeline
    /// does not exist.
    pub async fn existing(store: Arc<dyn ObjectStore>, root: Path, pipeline: &str) -> Result<Option<EpochLog>> {
        let pipeline = pipeline.into();
        Place { store, root, pipeline, ids: Ids::random(), rules: Rules::default() }.newest().await
    }

    /// Returns the manifest of this version.
    pub fn manifest(&self) -> &Manifest {
        &self.shared.manifest
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.shared.place.store
    }

    /// Returns the record that the next epoch starts from; `None` before the first epoch of a pipeline. The next epoch
    /// is the record's plus one, or 1.
    ///
    /// # Errors
    /// `Cancelled` if another version has replaced this one: stop, and do not open the pipeline again by yourself.
    pub async fn newest(&self) -> Result<Option<Record>> {
        match self.newest_of_version().await? {
            Some(Record { moved: Some(moved), .. }) => Err(self.replaced(&moved)),
            newest => Ok(newest),
        }
    }

    /// Returns the record of `epoch`, if it exists and belongs to the history of this version: epochs that a rewind
    /// abandoned do not.
    pub async fn record(&self, epoch: u64) -> Result<Option<Record>> {
        match pipeline::version_of(&self.shared.manifest, epoch) {
            Some(version) => self.read_record(version, epoch).await,
            None => Ok(None),
        }
    }

    /// Returns the newest records of this version's history, at most `newest` and at most [`LISTED_RECORDS_MAX`], the
    /// newest first.
    pub async fn list(&self, newest: usize) -> Result<Vec<Record>> {
        let Some(last) = self.newest_of_version().await? else { return Ok(Vec::new()) };
        let spans = pipeline::visible(&self.shared.manifest, 1, last.epoch);
        let epochs = spans.iter().rev().flat_map(|span| (span.from..=span.through).rev());
        let closed = usize::from(last.moved.is_some());
        self.read_all(epochs.skip(closed).take(newest.min(LISTED_RECORDS_MAX)).collect()).await
    }

    /// Returns up to `limit` records of this version's history from epoch `from` to `through`, in ascending order. The
    /// record that closes the version is not among them.
    ///
    /// # Errors
    /// `Data` if one before the newest is missing.
    pub async fn records(&self, from: u64, through: u64, limit: usize) -> Result<Vec<Record>> {
        let mut through = through;
        if self.shared.known.lock().epoch < through {
            through = through.min(self.newest_of_version().await?.map_or(0, |record| record.epoch));
        }
        let spans = pipeline::visible(&self.shared.manifest, from.max(1), through);
        let epochs = spans.iter().flat_map(|span| span.from..=span.through);
        let mut records = self.read_all(epochs.take(limit.min(LISTED_RECORDS_MAX)).collect()).await?;
        records.retain(|record| record.moved.is_none());
        Ok(records)
    }

    /// Returns a new path for state of `stage` in `epoch`. The epoch must be the one that is computed.
    pub fn state_path(&self, stage: &str, epoch: u64, ext: &str) -> Path {
        self.path("state", stage, epoch, ext)
    }

    /// Returns a new path for output of `epoch` for `sink`. The epoch must be the one that is computed.
    pub fn output_path(&self, sink: &str, epoch: u64, ext: &str) -> Path {
        self.path("output", sink, epoch, ext)
    }

    /// Writes a state or output file. May be repeated.
    pub async fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        self.shared.place.store.put(path, bytes.into()).await?;
        Ok(())
    }

    /// Reads a file; `None` if it does not exist. For a file that a record names, [`EpochLog::read`] decides what that
    /// means.
    pub async fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        object::read(&self.shared.place.store, path).await
    }

    /// Reads a file that the record of `epoch` names, with its [`sum`](crate::sum); `None` if the file is missing because
    /// newer epochs exist and garbage collection has deleted it. Load the newest epoch then.
    ///
    /// # Errors
    /// `Data` if the file has other bytes than were written, or is missing although `epoch` is the newest: the store has
    /// lost it.
    pub async fn read(&self, epoch: u64, path: &str, sum: &str) -> Result<Option<Bytes>> {
        let parsed = Path::parse(path).map_err(|error| QueryError::data(format!("`{path}` is not a path: {error}")))?;
        match self.get(&parsed).await? {
            Some(bytes) => check_sum(path, sum, &bytes).map(|()| Some(bytes)),
            None if self.superseded(epoch).await? => Ok(None),
            None => Err(QueryError::data(format!(
                "`{path}`, which epoch {epoch} names, does not exist; restore it, or go back with `--from-epoch`"
            ))
            .at(format!("pipeline {}", self.shared.place.pipeline))),
        }
    }

    /// Returns whether a newer record than the one of `epoch` exists.
    pub async fn superseded(&self, epoch: u64) -> Result<bool> {
        let Manifest { version, first, .. } = self.shared.manifest;
        let earlier_version = version > 1 && epoch < first;
        if earlier_version || self.shared.known.lock().epoch > epoch {
            return Ok(true);
        }
        object::exists(&self.shared.place.store, &self.record_path(epoch + 1)).await
    }

    /// Creates the record of an epoch. That is the only moment at which its offsets, state and output become visible.
    /// A record that was created although the answer was lost is recognised if the same record is committed again.
    ///
    /// # Errors
    /// `Limit` if the record exceeds a bound; `Internal` if the record before does not exist, or if it names a file
    /// whose path is not from [`EpochLog::state_path`] or [`EpochLog::output_path`]. After any other error the record
    /// may exist: load the newest epoch.
    pub async fn commit(&self, record: &Record) -> Result<Commit> {
        let epoch = record.epoch;
        record.check_names(&self.version_folder())?;
        if epoch < self.shared.manifest.first {
            let first = self.shared.manifest.first;
            return Err(QueryError::internal(format!("epoch {epoch} is before {first}, the first of this version")));
        }
        let follows = epoch == self.shared.manifest.first
            || epoch - 1 <= self.shared.known.lock().epoch
            || object::exists(&self.shared.place.store, &self.record_path(epoch - 1)).await?;
        if !follows {
            return Err(QueryError::internal(format!("epoch {epoch} cannot be committed before epoch {}", epoch - 1)));
        }
        let path = self.record_path(epoch);
        let created =
            object::create(&self.shared.place.store, &path, record.encode()?, self.shared.place.rules).await?;
        match created {
            Created::Mine => {
                self.remember(record);
                if epoch.is_multiple_of(HINT_EPOCHS) || record.stop {
                    self.write_hint(self.shared.manifest.version, epoch).await;
                }
                Ok(Commit::Done)
            }
            Created::Theirs(bytes) => {
                let winner = Record::decode(&path, &bytes)?;
                self.remember(&winner);
                Ok(Commit::Lost(Box::new(winner)))
            }
        }
    }

    /// Deletes files that neither the record of their epoch nor one of the newest `keep` records needs: state of older
    /// epochs, and state and output of coordinators that lost. Returns the number of deleted files.
    pub async fn collect_garbage(&self, keep: usize) -> Result<u64> {
        self.collect_garbage_except(&Keep::newest(keep)).await
    }

    /// Deletes files that are not in `keep` and that no coordinator can name any more, at most [`DELETES_MAX`]. Returns
    /// the number of deleted files.
    pub async fn collect_garbage_except(&self, keep: &Keep) -> Result<u64> {
        let Some(last) = self.newest_of_version().await? else { return Ok(0) };
        let (first, newest) = (self.shared.manifest.first, last.epoch);
        // The record that closes a version has no files, so it is not one of those to go back to.
        let count = keep.records.clamp(1, LISTED_RECORDS_MAX) as u64 + u64::from(last.moved.is_some());
        let oldest = (newest + 1).saturating_sub(count).max(first);
        let records = self.read_all((oldest..=newest).collect()).await?;
        let state: BTreeSet<String> = records.iter().flat_map(Record::state_paths).map(String::from).collect();
        let output: BTreeSet<String> = records.iter().flat_map(Record::output_paths).map(String::from).collect();

        let files = object::list(&self.shared.place.store, &self.version_folder().join("state"), None).await?;
        let mut garbage = garbage::of_state(files, newest, &state, self.shared.place.rules);
        let sinks = self.shared.place.store.list_with_delimiter(Some(&self.version_folder().join("output"))).await?;
        for folder in sinks.common_prefixes {
            let sink = folder.filename().unwrap_or_default();
            let published = keep.published.iter().find(|(name, _)| escaped(name) == sink).map(|(_, epoch)| *epoch);
            let window = names::before_epoch(&folder, newest.saturating_sub(OUTPUT_SWEEP_EPOCHS));
            let files = object::list(&self.shared.place.store, &folder, published.is_none().then_some(&window)).await?;
            let published = published.unwrap_or(0);
            let unclear = files.iter().filter(|path| !output.contains(path.as_ref())).filter_map(names::epoch_of);
            let recorded = first.max(published.saturating_add(1))..=newest;
            let unclear: BTreeSet<u64> = unclear.filter(|epoch| recorded.contains(epoch)).collect();
            let records = self.read_all(unclear.into_iter().collect()).await?;
            let named = |record: &Record| record.output_paths().map(String::from).collect();
            let own: BTreeMap<u64, BTreeSet<String>> = records.iter().map(|r| (r.epoch, named(r))).collect();
            garbage.extend(garbage::of_output(files, newest, &output, &own, published));
        }
        garbage.truncate(DELETES_MAX);
        object::delete(&self.shared.place.store, garbage).await
    }

    /// Goes back to `to_epoch`: closes this version and returns the next one, which starts from that epoch's offsets
    /// and state. With 0 it starts without state. Output of the epochs in between belongs to no history any more; a
    /// target that has it already keeps it.
    ///
    /// # Errors
    /// `Invalid` if the epoch does not exist or its state was deleted; `Cancelled` if another process was faster.
    pub async fn rewind(&self, to_epoch: u64) -> Result<EpochLog> {
        self.next_version(&self.shared.manifest.spec.clone(), Some(to_epoch)).await
    }

    /// Closes this version and returns the next one, for `spec` with another script, which starts from those offsets and that
    /// state of the newest epoch that `continued` names. The epochs before do not belong to its history.
    ///
    /// # Errors
    /// As [`EpochLog::rewind`].
    pub async fn continue_with(&self, spec: &PipelineSpec, continued: &Continued) -> Result<EpochLog> {
        let continued = continued.that_fit(&self.shared.manifest.spec, spec);
        self.move_to(spec, &Base::Continued(continued)).await
    }

    /// Closes this version and returns the next one, for `spec`, which starts from the offsets and state of epoch
    /// `from`: `None` is the newest, `Some(0)` is a start without state.
    ///
    /// # Errors
    /// As [`EpochLog::rewind`]; `Invalid` also if `spec` cannot use the state.
    pub async fn next_version(&self, spec: &PipelineSpec, from: Option<u64>) -> Result<EpochLog> {
        let base = match from {
            None => Base::Newest,
            Some(0) => Base::Nothing,
            Some(epoch) => Base::Epoch(epoch),
        };
        self.move_to(spec, &base).await
    }

    async fn move_to(&self, spec: &PipelineSpec, from: &Base) -> Result<EpochLog> {
        spec.check()?;
        let manifest = &self.shared.manifest;
        let version = manifest.version + 1;
        if version > VERSIONS_MAX {
            return Err(QueryError::limit(format!("a pipeline cannot have more than {VERSIONS_MAX} versions")));
        }
        let by = self.shared.place.ids.next().to_string();
        let mut copied: Option<Record> = None;
        for _ in 0..RACES_MAX {
            let newest = self.newest().await?;
            let first = newest.as_ref().map_or(manifest.first, |record| record.epoch + 1);
            let base = match from {
                Base::Nothing => None,
                Base::Epoch(epoch) => Some(self.restorable(*epoch).await?),
                Base::Newest => newest.clone(),
                Base::Continued(continued) => newest.clone().map(|newest| continued.of(newest)),
            };
            let is_whole = !matches!(from, Base::Continued(_));
            let history = base.as_ref().filter(|_| is_whole);
            let lineage = history.map_or(Vec::new(), |base| pipeline::lineage_through(manifest, base.epoch));
            if history.is_some() {
                let differences = manifest.spec.state_differences(spec);
                if !differences.is_empty() {
                    return Err(pipeline::refuse(&self.shared.place.pipeline, manifest, &differences));
                }
            }
            let mut start = match (base, copied.take()) {
                (None, _) => Record::default(),
                (Some(base), Some(copied)) if copied.epoch == base.epoch => copied,
                (Some(base), _) => self.copy_state(base, version).await?,
            };
            copied = Some(start.clone());
            start.epoch = first;
            start.by = by.clone();
            let next = Manifest { version, spec: spec.clone(), first, lineage };
            let moved = Box::new(Moved { manifest: next, start });
            let at_ms = newest.as_ref().map_or(0, |record| record.at_ms);
            let closing = Record {
                epoch: first,
                by: by.clone(),
                at_ms,
                stop: true,
                moved: Some(moved.clone()),
                ..Default::default()
            };
            if let Commit::Done = self.commit(&closing).await? {
                self.shared.place.finish(&moved).await?;
                return Ok(self.shared.place.version(moved.manifest));
            }
        }
        Err(QueryError::unavailable(format!(
            "pipeline `{}` could not be closed, because {RACES_MAX} epochs were faster; stop it first",
            self.shared.place.pipeline
        )))
    }

    /// Reads the record of `epoch` to go back to.
    async fn restorable(&self, epoch: u64) -> Result<Record> {
        match self.record(epoch).await? {
            Some(record) if record.moved.is_none() => Ok(record),
            _ => Err(QueryError::invalid(format!(
                "epoch {epoch} does not exist in pipeline `{}`; `buzz stream epochs` lists those that do",
                self.shared.place.pipeline
            ))),
        }
    }

    /// Copies the state that `base` names into the folder of `version`, so that no collection of this version can
    /// delete it. Returns the record with the new paths and without output.
    async fn copy_state(&self, base: Record, version: u64) -> Result<Record> {
        let epoch = base.epoch;
        let folder = names::version_folder(&self.shared.folder, version).join("state");
        let copies = base.state.into_iter().map(|file| {
            let folder = folder.clone().join(file.stage.as_str());
            async move {
                let old = Path::parse(&file.path).map_err(|error| QueryError::data(error.to_string()))?;
                let ext = old.extension().unwrap_or("state").to_string();
                let new = folder.join(names::file(epoch, self.shared.place.ids.next(), &ext));
                match self.shared.place.store.copy(&old, &new).await {
                    Ok(()) => Ok(crate::StateFile { path: new.to_string(), ..file }),
                    Err(object_store::Error::NotFound { .. }) => Err(QueryError::invalid(format!(
                        "epoch {epoch} cannot be restored, because its state `{old}` was deleted; choose a newer epoch"
                    ))),
                    Err(error) => Err(error.into()),
                }
            }
        });
        let copies: Vec<_> = copies.collect();
        let state = stream::iter(copies).buffered(READS_AT_ONCE).try_collect().await?;
        let (outputs, late, bad) = Default::default();
        Ok(Record { state, outputs, late, bad, stop: false, ..base })
    }

    /// Returns the newest record of this version, which may be the one that closes it.
    async fn newest_of_version(&self) -> Result<Option<Record>> {
        let first = self.shared.manifest.first;
        let mut low = self.shared.known.lock().epoch;
        if low == 0 {
            low = self.hinted_epoch().await?.unwrap_or(first - 1);
        }
        let mut search = Search::above(low);
        while let Some(epoch) = search.probe() {
            search.answer(epoch, object::exists(&self.shared.place.store, &self.record_path(epoch)).await?);
        }
        let newest = search.newest();
        if newest < first {
            return Ok(None);
        }
        let record = self.read_record(self.shared.manifest.version, newest).await?;
        let record = record.ok_or_else(|| self.lost(newest))?;
        self.remember(&record);
        Ok(Some(record))
    }

    /// Returns the epoch of the hint, if it is one of this version and exists.
    async fn hinted_epoch(&self) -> Result<Option<u64>> {
        let hint = read_hint(&self.shared.place.store, &self.shared.folder).await?;
        if hint.version != self.shared.manifest.version || hint.epoch < self.shared.manifest.first {
            return Ok(None);
        }
        let exists = object::exists(&self.shared.place.store, &self.record_path(hint.epoch)).await?;
        Ok(exists.then_some(hint.epoch))
    }

    async fn read_record(&self, version: u64, epoch: u64) -> Result<Option<Record>> {
        if version == self.shared.manifest.version {
            let known = self.shared.known.lock();
            if let Some(record) = known.record.as_ref().filter(|record| record.epoch == epoch) {
                return Ok(Some(record.clone()));
            }
        }
        let path = names::record(&self.shared.folder, version, epoch);
        match object::read(&self.shared.place.store, &path).await? {
            Some(bytes) => {
                let record = Record::decode(&path, &bytes)?;
                check_number(&path, epoch, record.epoch)?;
                Ok(Some(record))
            }
            None => Ok(None),
        }
    }

    /// Reads the records of `epochs`, in that order. All must exist and belong to the history.
    async fn read_all(&self, epochs: Vec<u64>) -> Result<Vec<Record>> {
        let read = async |epoch| self.record(epoch).await?.ok_or_else(|| self.lost(epoch));
        let reads: Vec<_> = epochs.into_iter().map(read).collect();
        stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await
    }

    fn remember(&self, record: &Record) {
        let mut known = self.shared.known.lock();
        if record.epoch >= known.epoch {
            *known = Known { epoch: record.epoch, record: Some(record.clone()) };
        }
    }

    /// Writes the hint. A failure costs probes, nothing else.
    async fn write_hint(&self, version: u64, epoch: u64) {
        write_hint(&self.shared.place.store, &self.shared.folder, &Hint { version, epoch }).await;
    }

    fn version_folder(&self) -> Path {
        names::version_folder(&self.shared.folder, self.shared.manifest.version)
    }

    fn record_path(&self, epoch: u64) -> Path {
        names::record(&self.shared.folder, self.shared.manifest.version, epoch)
    }

    fn path(&self, kind: &str, owner: &str, epoch: u64, ext: &str) -> Path {
        self.version_folder().join(kind).join(owner).join(names::file(epoch, self.shared.place.ids.next(), ext))
    }

    fn lost(&self, epoch: u64) -> QueryError {
        QueryError::data(format!(
            "the record of epoch {epoch} of pipeline `{}` was deleted, although newer ones exist; restore it",
            self.shared.place.pipeline
        ))
    }

    fn replaced(&self, moved: &Moved) -> QueryError {
        let (old, new) = (self.shared.manifest.version, moved.manifest.version);
        QueryError::cancelled(format!(
            "version {old} of pipeline `{}` was replaced by version {new}; start the pipeline again to run that one",
            self.shared.place.pipeline
        ))
    }
}

/// The place of a pipeline, of which no version is open yet.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) pipeline: String,
    pub(crate) ids: Ids,
    pub(crate) rules: Rules,
}

impl Place {
    /// Opens the newest version, and creates it if it does not exist or is for another script.
    pub(crate) async fn open(self, spec: &PipelineSpec) -> Result<EpochLog> {
        names::check("pipeline", &self.pipeline)?;
        spec.check()?;
        for _ in 0..RACES_MAX {
            let Some(log) = self.newest().await? else {
                let manifest = Manifest { version: 1, spec: spec.clone(), first: 1, lineage: Vec::new() };
                self.create_manifest(&manifest).await?;
                continue;
            };
            match log.manifest().spec.change(spec) {
                Change::None => return Ok(log),
                Change::State(differences) => {
                    return Err(pipeline::refuse(&self.pipeline, log.manifest(), &differences));
                }
                Change::Script => match log.next_version(spec, Some(0)).await {
                    Ok(next) => return Ok(next),
                    // Another process has moved the pipeline: decide again about its version.
                    Err(error) if error.kind == buzz_protocol::ErrorKind::Cancelled => {}
                    Err(error) => return Err(error),
                },
            }
        }
        Err(QueryError::unavailable(format!(
            "pipeline `{}` was started {RACES_MAX} times with other scripts meanwhile; stop these",
            self.pipeline
        )))
    }

    /// Checks that a pipeline without a manifest has no records: a new pipeline would take their numbers again.
    async fn check_no_records(&self, folder: &Path) -> Result<()> {
        let (manifest, records) = (names::manifest(folder, 1), names::version_folder(folder, 1).join("epochs"));
        let has_records = self.store.list(Some(&records)).try_next().await?.is_some();
        // Another process may have started the pipeline meanwhile.
        if has_records && !object::exists(&self.store, &manifest).await? {
            return Err(QueryError::data(format!(
                "`{manifest}` was deleted, but epochs of it remain; restore it, or delete `{folder}` to start from the \
                 beginning"
            )));
        }
        Ok(())
    }

    /// Opens the newest version, and finishes a move that another process began.
    pub(crate) async fn newest(&self) -> Result<Option<EpochLog>> {
        let folder = self.folder();
        let mut low = read_hint(&self.store, &folder).await?.version;
        if low > 0 && !object::exists(&self.store, &names::manifest(&folder, low)).await? {
            low = 0;
        }
        let mut search = Search::above(low);
        while let Some(version) = search.probe() {
            search.answer(version, object::exists(&self.store, &names::manifest(&folder, version)).await?);
        }
        let mut version = search.newest();
        if version == 0 {
            self.check_no_records(&folder).await?;
            return Ok(None);
        }
        for _ in 0..RACES_MAX {
            let path = names::manifest(&folder, version);
            let bytes = object::read(&self.store, &path).await?;
            let bytes = bytes.ok_or_else(|| QueryError::data(format!("`{path}` was deleted; restore it")))?;
            let log = self.version(decode(&path, &bytes)?);
            match log.newest_of_version().await? {
                Some(Record { moved: Some(moved), .. }) => {
                    self.finish(&moved).await?;
                    version = moved.manifest.version;
                }
                _ => return Ok(Some(log)),
            }
        }
        Err(QueryError::unavailable(format!("pipeline `{}` moved {RACES_MAX} times meanwhile", self.pipeline)))
    }

    /// Creates the first record and the manifest of the version that `moved` announces, in this order: a version that
    /// has a manifest has its first record. Changes nothing if another process was faster.
    async fn finish(&self, moved: &Moved) -> Result<()> {
        let folder = self.folder();
        let Manifest { version, first, .. } = moved.manifest;
        let path = names::record(&folder, version, first);
        object::create(&self.store, &path, moved.start.encode()?, Rules::default()).await?;
        self.create_manifest(&moved.manifest).await?;
        write_hint(&self.store, &folder, &Hint { version, epoch: first }).await;
        Ok(())
    }

    async fn create_manifest(&self, manifest: &Manifest) -> Result<()> {
        let folder = self.folder();
        let bytes = serde_json::to_vec_pretty(manifest)
            .map_err(|error| QueryError::internal(format!("the manifest cannot be encoded: {error}")))?;
        let path = names::manifest(&folder, manifest.version);
        object::create(&self.store, &path, bytes.into(), Rules::default()).await?;
        Ok(())
    }

    fn folder(&self) -> Path {
        names::pipeline_folder(&self.root, &self.pipeline)
    }

    fn version(&self, manifest: Manifest) -> EpochLog {
        let (place, folder, known) = (self.clone(), self.folder(), Mutex::default());
        EpochLog { shared: Arc::new(Shared { place, folder, manifest, known }) }
    }
}

/// Returns the part of a path that stands for `name`.
fn escaped(name: &str) -> String {
    Path::default().join(name).to_string()
}

/// Reads the hint. One that is missing or not readable is as good as none.
async fn read_hint(store: &Arc<dyn ObjectStore>, folder: &Path) -> Result<Hint> {
    let bytes = object::read(store, &names::hint(folder)).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

async fn write_hint(store: &Arc<dyn ObjectStore>, folder: &Path, hint: &Hint) {
    let bytes = serde_json::to_vec(hint).expect("two numbers are encoded");
    // A hint is only where a search starts, so a failure is not one of the caller.
    let _ = store.put(&names::hint(folder), bytes.into()).await;
}
