//! The pipelines of a state: what is wanted of each, who owns it, and what it does.
//!
//! ```text
//! <root>/jobs/<id>/wanted/<n>.json   what is wanted: each change is a document, created once
//! <root>/jobs/<id>/owner/<n>.json    who runs it: each take-over is a document, created once
//! <root>/jobs/<id>/status.json       what it does: a hint, overwritten by the owner
//! <root>/servers/<server>.json       a sign of life, overwritten
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use buzz_connect::Place;
use buzz_epoch::{EpochLog, Sequence, read_object};
use buzz_protocol::{ErrorKind, QueryError, Result, now_ms};
use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::jobs::status::{JobState, Status};
use crate::jobs::tail::Tail;
use crate::jobs::wanted::{Change, New, Wanted, id_of};
use crate::store;

/// Maximum number of pipelines in a state.
const PIPELINES_MAX: usize = 1000;

/// Changes of others, one after the other, after which a change gives up.
const RACES_MAX: usize = 32;

/// The pipelines of a state.
pub struct Registry {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The same place, for files that need not be synced.
    hints: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    /// The state is in a bucket, where each request costs.
    pub(crate) is_remote: bool,
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("root", &self.root).finish_non_exhaustive()
    }
}

/// One pipeline of a state.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    wanted: Sequence,
    pub(crate) owner: Sequence,
    status: Path,
}

/// The owner of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lease {
    /// The server that runs it; `None` if it gave it back.
    pub(crate) server: Option<String>,
    /// The time in milliseconds since 1970, for people.
    pub(crate) at_ms: u64,
    /// Makes the document unique.
    token: String,
}

/// A pipeline as people see it.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its id, which names its folder.
    pub id: String,
    /// The number of `wanted`.
    pub n: u64,
    /// The wanted settings.
    pub wanted: Wanted,
    /// Its status. The state follows the wanted settings, if no server has written down yet what it does about them.
    pub status: Status,
}

impl Pipeline {
    /// Replaces the status by one that its owner knows.
    pub(crate) fn enter(&mut self, status: Status) {
        self.status = seen(self.n, &self.wanted, status);
    }
}

impl Registry {
    /// Opens the pipelines of the state at `uri`, a folder or an s3:// uri.
    ///
    /// # Errors
    /// `Invalid` if the uri or the settings of its bucket are wrong, `Data` if the folder cannot be used.
    pub async fn open(uri: &str, place: &Place) -> Result<Self> {
        let (store, root) = store::open(uri, true, place).await?;
        let (hints, _) = store::open(uri, false, place).await?;
        Ok(Self { store, hints, root, is_remote: store::is_remote(uri), entries: Mutex::default() })
    }

    fn folder(&self) -> Path {
        self.root.clone().join("jobs")
    }

    /// Returns the pipeline `id`, which need not exist.
    pub(crate) fn entry(&self, id: &str) -> Arc<Entry> {
        let folder = self.folder().join(id);
        let sequence = |name: &str| Sequence::new(Arc::clone(&self.store), folder.clone().join(name));
        let new = || Entry {
            id: id.to_string(),
            wanted: sequence("wanted"),
            owner: sequence("owner"),
            status: folder.clone().join("status.json"),
        };
        Arc::clone(self.entries.lock().entry(id.to_string()).or_insert_with(|| Arc::new(new())))
    }

    /// Returns the ids of all pipelines, also of those that were deleted.
    pub(crate) async fn ids(&self) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(&self.folder())).await?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_string));
        Ok(names.collect())
    }

    /// Returns all pipelines, by id. One whose document is not readable has failed, with the error.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn list(&self) -> Result<Vec<Pipeline>> {
        let mut pipelines = Vec::new();
        for id in self.ids().await? {
            match self.get(&id).await {
                Ok(pipeline) => pipelines.extend(pipeline),
                Err(error) if error.kind == ErrorKind::Data => {
                    let wanted = Wanted { name: id.clone(), ..Default::default() };
                    let error = Some(error.to_string());
                    let status = Status { state: JobState::Failed, error, ..Default::default() };
                    pipelines.push(Pipeline { id, n: 0, wanted, status });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(pipelines)
    }

    /// Returns a pipeline; `None` if it does not exist.
    ///
    /// # Errors
    /// Errors of the store, and of documents that are not readable.
    pub async fn get(&self, id: &str) -> Result<Option<Pipeline>> {
        // Anything else is not the name of a folder.
        if id_of(id).ok().as_deref() != Some(id) {
            return Ok(None);
        }
        let entry = self.entry(id);
        let Some((n, wanted)) = self.wanted(&entry).await? else {
            self.entries.lock().remove(id);
            return Ok(None);
        };
        if wanted.deleted {
            return Ok(None);
        }
        let status = seen(n, &wanted, self.status(&entry).await?);
        Ok(Some(Pipeline { id: id.to_string(), n, wanted, status }))
    }

    /// Creates a pipeline. The caller has checked the script.
    ///
    /// # Errors
    /// `Invalid` if the name is wrong or taken; `Limit` if there are too many pipelines.
    pub async fn create(&self, new: &New) -> Result<Pipeline> {
        let id = id_of(&new.name)?;
        if self.ids().await?.len() >= PIPELINES_MAX {
            return Err(QueryError::limit(format!(
                "the state has {PIPELINES_MAX} pipelines, also counting deleted ones; start another server with another \
                 --state"
            )));
        }
        let entry = self.entry(&id);
        for _ in 0..RACES_MAX {
            let newest = self.wanted(&entry).await?;
            if newest.as_ref().is_some_and(|(_, wanted)| !wanted.deleted) {
                return Err(taken(&id));
            }
            let n = newest.map_or(1, |(n, _)| n + 1);
            if n > 1 && !self.status(&entry).await?.settles(n - 1) {
                return Err(QueryError::unavailable(format!(
                    "pipeline `{id}` is being deleted by the server that owns it; try again, or choose another name"
                )));
            }
            let wanted = Wanted::new(new, &id, n, now_ms())?;
            if let Some(wanted) = self.write(&entry, n, wanted).await? {
                let status = seen(n, &wanted, Status::default());
                return Ok(Pipeline { id, n, wanted, status });
            }
        }
        Err(taken(&id))
    }

    /// Changes what is wanted of a pipeline; `None` if it does not exist. A change also starts a pipeline again that has
    /// failed or finished.
    ///
    /// # Errors
    /// `Invalid` if a value is out of its bounds.
    pub async fn change(&self, id: &str, change: &Change) -> Result<Option<Pipeline>> {
        self.replace(id, |wanted| wanted.changed(change)).await
    }

    /// Deletes a pipeline with its state and its epochs. What it wrote into sinks stays. Returns false if it does not exist.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove(&self, id: &str) -> Result<bool> {
        let removed = self.replace(id, |wanted| Ok(Wanted { deleted: true, ..wanted.clone() })).await?;
        Ok(removed.is_some())
    }

    /// Returns true if nothing is left of pipeline `id`.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn is_removed(&self, id: &str) -> Result<bool> {
        let entry = self.entry(id);
        match self.wanted(&entry).await? {
            Some((n, wanted)) => Ok(wanted.deleted && self.status(&entry).await?.settles(n)),
            None => Ok(true),
        }
    }

    async fn replace(&self, id: &str, change: impl Fn(&Wanted) -> Result<Wanted> + Send) -> Result<Option<Pipeline>> {
        for _ in 0..RACES_MAX {
            let Some(pipeline) = self.get(id).await? else { return Ok(None) };
            let wanted = change(&pipeline.wanted)?;
            let n = pipeline.n + 1;
            if let Some(wanted) = self.write(&self.entry(id), n, wanted).await? {
                let status = seen(n, &wanted, pipeline.status);
                return Ok(Some(Pipeline { id: pipeline.id, n, wanted, status }));
            }
        }
        Err(QueryError::unavailable(format!(
            "pipeline `{id}` was changed by others {RACES_MAX} times meanwhile; try again"
        )))
    }

    /// Writes document `n`; `None` if another process was faster.
    async fn write(&self, entry: &Entry, n: u64, wanted: Wanted) -> Result<Option<Wanted>> {
        let wanted = Wanted { token: token(), ..wanted };
        Ok(entry.wanted.create(n, encode(&wanted)?).await?.then_some(wanted))
    }

    /// Returns what is wanted, with its number.
    pub(crate) async fn wanted(&self, entry: &Entry) -> Result<Option<(u64, Wanted)>> {
        read(entry.wanted.newest().await?, &entry.id)
    }

    /// Returns the owner, with the number of the take-over.
    pub(crate) async fn lease(&self, entry: &Entry) -> Result<Option<(u64, Lease)>> {
        read(entry.owner.newest().await?, &entry.id)
    }

    /// Makes `server` the owner; `None` gives the pipeline back. Returns false if another one was faster than `n`.
    pub(crate) async fn take(&self, entry: &Entry, n: u64, server: Option<&str>) -> Result<bool> {
        let lease = Lease { server: server.map(str::to_string), at_ms: now_ms(), token: token() };
        entry.owner.create(n, encode(&lease)?).await
    }

    /// Returns what the pipeline does. A status that is missing or not readable is as good as none.
    pub(crate) async fn status(&self, entry: &Entry) -> Result<Status> {
        let bytes = read_object(&self.hints, &entry.status).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    pub(crate) async fn put_status(&self, entry: &Entry, status: &Status) -> Result<()> {
        self.hints.put(&entry.status, encode(status)?.into()).await?;
        Ok(())
    }

    /// Gives a sign of life of `server`.
    pub(crate) async fn beat(&self, server: &str) -> Result<()> {
        let sign = serde_json::json!({"server": server, "at_ms": now_ms(), "token": token()}).to_string();
        self.hints.put(&self.sign(server), sign.into()).await?;
        Ok(())
    }

    /// Returns the last sign of life of `server`; `None` if it has ended.
    pub(crate) async fn sign_of(&self, server: &str) -> Result<Option<Bytes>> {
        read_object(&self.hints, &self.sign(server)).await
    }

    /// Returns the servers that give signs of life, or did before they were killed.
    pub(crate) async fn servers(&self) -> Result<Vec<String>> {
        let listed = self.hints.list_with_delimiter(Some(&self.root.clone().join("servers"))).await?;
        let names = listed.objects.iter().filter_map(|object| object.location.filename()?.strip_suffix(".json"));
        Ok(names.map(str::to_string).collect())
    }

    /// Removes the sign of life of a server that has ended.
    pub(crate) async fn forget(&self, server: &str) -> Result<()> {
        match self.hints.delete(&self.sign(server)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sign(&self, server: &str) -> Path {
        self.root.clone().join("servers").join(format!("{server}.json"))
    }

    /// Opens the epochs of a pipeline; `None` before its first start.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn log(&self, pipeline: &Pipeline) -> Result<Option<EpochLog>> {
        EpochLog::existing(Arc::clone(&self.store), self.root.clone(), &pipeline.wanted.log).await
    }

    /// Returns the rows of pipeline `id`, from epoch `from_epoch` or from those that are still kept, and follows them.
    pub fn tail(self: &Arc<Self>, id: &str, from_epoch: Option<u64>) -> Tail {
        let after = from_epoch.map(|epoch| format!("{epoch}-0"));
        Tail::new(Arc::clone(self), id.to_string(), after.as_deref())
    }

    /// Deletes the epochs and the state of a pipeline.
    pub(crate) async fn delete_log(&self, log: &str) -> Result<()> {
        let folder = self.root.clone().join("pipelines").join(log);
        let files = self.store.list(Some(&folder)).map(|file| file.map(|file| file.location)).boxed();
        let mut deleted = self.store.delete_stream(files);
        while let Some(answer) = deleted.next().await {
            match answer {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Returns the status that people see for document `n`: what the owner has written, or what follows from what is wanted.
fn seen(n: u64, wanted: &Wanted, mut status: Status) -> Status {
    if status.wanted < n {
        let was_running = !status.state.is_final() && status.state != JobState::Created;
        status.state = match (wanted.is_running(), was_running) {
            (true, true) => JobState::Rescaling,
            (true, false) => JobState::Scheduling,
            (false, true) => JobState::Stopping,
            (false, false) => JobState::Stopped,
        };
        if wanted.is_running() {
            status.error = None;
        }
    }
    status
}

/// Returns the error of a name that a pipeline has.
pub fn taken(id: &str) -> QueryError {
    QueryError::invalid(format!("pipeline `{id}` exists; change it, delete it, or choose another name"))
}

/// Returns a text that no other process makes.
pub(crate) fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

pub(crate) fn encode(document: &impl Serialize) -> Result<Bytes> {
    let bytes = serde_json::to_vec_pretty(document);
    Ok(bytes.map_err(|error| QueryError::internal(format!("a document cannot be encoded: {error}")))?.into())
}

fn read<T: DeserializeOwned>(found: Option<(u64, Bytes)>, id: &str) -> Result<Option<(u64, T)>> {
    let Some((n, bytes)) = found else { return Ok(None) };
    let document = serde_json::from_slice(&bytes).map_err(|error| {
        QueryError::data(format!("document {n} of pipeline `{id}` is not readable: {error}; restore it"))
    })?;
    Ok(Some((n, document)))
}

#[cfg(test)]
mod tests;
