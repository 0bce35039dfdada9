//! Streams: rows that clients push with HTTP, kept before they are acknowledged.
//!
//! `routes` has the requests. [`Streams`] opens the log of each stream once. `group` writes the rows of requests that come
//! together as one segment, and seals segments, after which pipelines read them. `repeats` remembers the keys of the last
//! requests, and `declare` reads the statement that declares the columns of a stream. What a row must be is checked by
//! `buzz_connect`, and which rows count is decided by the log, `buzz_epoch`.

mod declare;
mod group;
mod repeats;
mod routes;

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use buzz_epoch::{SourceLog, SourceSpec, Times, source_names};
use buzz_protocol::{ErrorKind, QueryError, Result};
use buzz_storage::synced_folder;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::declare::Declared;
use self::group::Stream;
pub(crate) use self::routes::router;

/// Maximum bytes of a request.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Maximum bytes of all requests that are received, checked or written.
const RECEIVED_BYTES_MAX: usize = 128 << 20;

/// Maximum number of streams that one server writes to.
const STREAMS_MAX: usize = 1000;

/// Times of new streams: a key counts for a day, and the clocks of two servers may differ by half a minute.
const TIMES: Times = Times { dedup_horizon_ms: 24 * 60 * 60 * 1000, append_ms_max: 10_000, clock_skew_ms_max: 30_000 };

/// Names, kinds and meanings of the counts of a stream.
const METRICS: [(&str, &str, &str); 4] = [
    ("buzz_stream_rows_total", "counter", "Rows that were kept."),
    ("buzz_stream_bytes_total", "counter", "Bytes of rows that were kept."),
    ("buzz_stream_refused_total", "counter", "Requests that were refused because too many bytes were not sealed."),
    ("buzz_stream_unsealed_bytes", "gauge", "Bytes of rows that are kept or being written, and not sealed."),
];

/// The place of streams and how they are written.
#[derive(Debug, Clone)]
pub struct StreamsSettings {
    /// The store. What it has written must survive a loss of power.
    pub store: Arc<dyn ObjectStore>,
    /// The path of the streams in it.
    pub root: Path,
    /// The folder or the uri as scripts write it.
    pub place: String,
    /// Minimum time from the start of one segment of a stream to that of the next: requests that come meanwhile share it.
    pub group_for: Duration,
    /// Time from a segment to its sealing, after which pipelines see it.
    pub seal_after: Duration,
    /// Bytes of a stream that may be kept and not sealed. Beyond them, requests are refused until some are sealed.
    pub unsealed_bytes_max: usize,
}

impl StreamsSettings {
    /// Keeps streams in a local folder, which is created if it is missing, and syncs what it writes.
    ///
    /// # Errors
    /// `Data` if the folder cannot be used.
    pub fn of_folder(folder: &FilePath) -> Result<Self> {
        let settings = Self::of_bucket(synced_folder(folder)?, Path::default(), folder.display().to_string());
        Ok(Self { group_for: Duration::from_millis(10), seal_after: Duration::from_millis(100), ..settings })
    }

    /// Keeps streams below `root` of a bucket, where each segment and each sealing costs requests. Scripts write `place`.
    pub fn of_bucket(store: Arc<dyn ObjectStore>, root: Path, place: String) -> Self {
        Self {
            store,
            root,
            place,
            group_for: Duration::from_millis(100),
            seal_after: Duration::from_secs(1),
            unsealed_bytes_max: 256 << 20,
        }
    }
}

/// The streams of a server.
#[derive(Debug)]
pub(crate) struct Streams {
    settings: StreamsSettings,
    open: Mutex<HashMap<String, Arc<Stream>>>,
    /// Permits for bytes of requests.
    received: Arc<Semaphore>,
    stopping: CancellationToken,
    _stop: DropGuard,
}

impl Streams {
    /// Makes the streams of `settings`.
    pub(crate) fn new(settings: StreamsSettings) -> Self {
        let stopping = CancellationToken::new();
        Self {
            settings,
            open: Mutex::default(),
            received: Arc::new(Semaphore::new(RECEIVED_BYTES_MAX)),
            _stop: stopping.clone().drop_guard(),
            stopping,
        }
    }

    /// Reserves memory for a request of `bytes`.
    ///
    /// # Errors
    /// `Limit` if there is none.
    fn receive(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.clamp(1 << 10, BODY_BYTES_MAX)).unwrap_or(u32::MAX);
        Arc::clone(&self.received).try_acquire_many_owned(permits).map_err(|_| {
            QueryError::limit(format!(
                "requests of {RECEIVED_BYTES_MAX} bytes are being written, which is the maximum; send the request again later"
            ))
        })
    }

    /// Returns counts of the streams that this server writes to, in the format of Prometheus.
    pub(crate) async fn metrics(&self) -> String {
        let open = self.open.lock().await;
        let mut counted: Vec<(&String, [u64; 4])> =
            open.iter().map(|(name, stream)| (name, stream.counted())).collect();
        counted.sort_unstable();
        let mut text = String::new();
        for (index, (name, kind, help)) in METRICS.iter().enumerate() {
            // Writing to a String cannot fail.
            _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (stream, counts) in &counted {
                _ = writeln!(text, "{name}{{stream=\"{stream}\"}} {}", counts[index]);
            }
        }
        text
    }

    /// Returns the names of all streams, sorted.
    async fn names(&self) -> Result<Vec<String>> {
        source_names(&self.settings.store, &self.settings.root).await
    }

    /// Opens the log of stream `name`, if it exists.
    async fn log(&self, name: &str) -> Result<Option<SourceLog>> {
        SourceLog::existing(Arc::clone(&self.settings.store), self.settings.root.clone(), name).await
    }

    /// Returns stream `name`; `None` if it does not exist.
    async fn existing(&self, name: &str) -> Result<Option<Arc<Stream>>> {
        if let Some(stream) = self.open.lock().await.get(name) {
            return Ok(Some(Arc::clone(stream)));
        }
        // Others need not wait for the store.
        let Some(log) = self.log(name).await? else { return Ok(None) };
        log.newest().await?;
        let mut open = self.open.lock().await;
        match open.get(name) {
            Some(stream) => Ok(Some(Arc::clone(stream))),
            None => self.add(&mut open, name, log).map(Some),
        }
    }

    /// Returns stream `name`, which is created without columns if it does not exist.
    async fn of_rows(&self, name: &str) -> Result<Arc<Stream>> {
        if let Some(stream) = self.existing(name).await? {
            return Ok(stream);
        }
        self.create(name, Declared::default()).await.map(|(stream, _)| stream)
    }

    /// Creates stream `name` as it is declared. Returns true if it is new, or false if it exists and is declared in the same
    /// way or, if `declared` has no statement, in any way.
    ///
    /// # Errors
    /// `Invalid` if it exists and is declared in another way.
    async fn create(&self, name: &str, declared: Declared) -> Result<(Arc<Stream>, bool)> {
        let is_open = declared.ddl.is_empty();
        let spec = SourceSpec {
            ddl: declared.ddl,
            format: "json".to_string(),
            times: TIMES,
            columns: declared.columns,
            options: declared.options,
        };
        let mut open = self.open.lock().await;
        if open.len() >= STREAMS_MAX && !open.contains_key(name) {
            return Err(too_many());
        }
        let before = self.log(name).await?;
        let is_new = before.is_none();
        let log = match before {
            Some(log) if is_open || log.spec().ddl == spec.ddl => log,
            _ => {
                let (store, root) = (Arc::clone(&self.settings.store), self.settings.root.clone());
                match SourceLog::open(store, root, name, &spec).await {
                    // Another process has declared it at the same time.
                    Err(error) if is_open && error.kind == ErrorKind::Invalid => self.log(name).await?.ok_or(error)?,
                    other => other?,
                }
            }
        };
        let stream = match open.get(name) {
            Some(stream) => Arc::clone(stream),
            None => {
                log.newest().await?;
                self.add(&mut open, name, log)?
            }
        };
        Ok((stream, is_new))
    }

    /// Starts to write to a stream, whose newest entry was read: segments are named after its time, if the clock was set back since.
    fn add(&self, open: &mut HashMap<String, Arc<Stream>>, name: &str, log: SourceLog) -> Result<Arc<Stream>> {
        if open.len() >= STREAMS_MAX {
            return Err(too_many());
        }
        let stream = Stream::start(name, log, &self.settings, &self.stopping)?;
        open.insert(name.to_string(), Arc::clone(&stream));
        Ok(stream)
    }
}

/// Returns the error of a client that needs one more stream.
fn too_many() -> QueryError {
    QueryError::limit(format!(
        "the server writes to {STREAMS_MAX} streams, which is the maximum; use fewer, or start it again"
    ))
}
