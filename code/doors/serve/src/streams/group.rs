//! Group commit: the rows of requests that come together are one segment, written and synced once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use buzz_connect::{BadData, parse_duration, stream_bad_data, stream_columns};
use buzz_epoch::{PARTS_MAX, Part, RETENTION, Segment, SourceLog, SourceSpec, SystemClock};
use buzz_protocol::{ErrorKind, QueryError, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::StreamsSettings;
use super::repeats::{KEYS_MAX, Repeats};

/// Bytes of a segment after which further requests are in the next one.
const GROUP_BYTES: usize = 8 << 20;

/// Time after which sealing is tried again when it failed.
const SEAL_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Time between two removals of old rows.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// Time after which the log is read again before a segment is named.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A stream that this server writes to.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) log: SourceLog,
    /// The declared columns, if any.
    pub(super) columns: Option<SchemaRef>,
    /// The treatment of rows that do not fit them.
    pub(super) bad_data: BadData,
    pub(super) repeats: Mutex<Repeats>,
    /// Set once the keys of the log are known.
    looked: OnceCell<()>,
    queue: mpsc::UnboundedSender<Waiting>,
    counts: Arc<Counts>,
    unsealed_bytes_max: usize,
}

/// Bytes on their way, which the tasks of a stream share.
#[derive(Debug, Default)]
struct Counts {
    /// Bytes that wait or are written.
    queued: AtomicUsize,
    /// Bytes that are kept and not sealed.
    unsealed: AtomicU64,
    /// Rows were kept that are not sealed.
    kept: Notify,
    /// Held while segments are sealed, so that their bytes are counted once.
    sealing: tokio::sync::Mutex<()>,
    /// Rows and bytes that were kept since the start, and requests that were refused for lack of room.
    kept_rows: AtomicU64,
    kept_bytes: AtomicU64,
    refused: AtomicU64,
    /// The reason why the last sealing failed.
    failure: Mutex<Option<QueryError>>,
}

/// A request that waits for its segment.
#[derive(Debug)]
struct Waiting {
    part: Part,
    bytes: Bytes,
    /// Memory of the rows, which others get when they are written.
    _memory: OwnedSemaphorePermit,
    kept: oneshot::Sender<Result<()>>,
}

impl Stream {
    /// Starts the tasks that write and seal. They end when `stopping` is cancelled.
    ///
    /// # Errors
    /// `Data` if the declaration in the log is not understood.
    pub(super) fn start(
        name: &str,
        log: SourceLog,
        settings: &StreamsSettings,
        stopping: &CancellationToken,
    ) -> Result<Arc<Self>> {
        let (columns, bad_data) = (stream_columns(log.spec())?, stream_bad_data(log.spec())?);
        let (queue, waiting) = mpsc::unbounded_channel();
        let counts = Arc::new(Counts::default());
        let writing = write(log.clone(), Arc::clone(&counts), waiting, settings.group_for);
        let sealing = seal(log.clone(), Arc::clone(&counts), settings.seal_after);
        if let Some(retention) = retention(log.spec())? {
            let (stop, log) = (stopping.clone(), log.clone());
            tokio::spawn(async move { stop.run_until_cancelled(trim(log, retention)).await });
        }
        let (stop, stop_sealing) = (stopping.clone(), stopping.clone());
        tokio::spawn(async move { stop.run_until_cancelled(writing).await });
        tokio::spawn(async move { stop_sealing.run_until_cancelled(sealing).await });
        // A server that was killed may have left segments.
        counts.kept.notify_one();
        Ok(Arc::new(Self {
            name: name.to_string(),
            log,
            columns,
            bad_data,
            repeats: Mutex::default(),
            looked: OnceCell::new(),
            queue,
            counts,
            unsealed_bytes_max: settings.unsealed_bytes_max,
        }))
    }

    /// Returns the bytes that are kept or being written, and not sealed.
    pub(super) fn unsealed_bytes(&self) -> u64 {
        self.counts.unsealed.load(Ordering::SeqCst) + self.counts.queued.load(Ordering::SeqCst) as u64
    }

    /// Checks that there is room for more rows.
    ///
    /// # Errors
    /// `Limit` if too many bytes are not sealed.
    pub(super) fn check_room(&self) -> Result<()> {
        let unsealed = self.unsealed_bytes();
        if unsealed < self.unsealed_bytes_max as u64 {
            return Ok(());
        }
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let reason = self.counts.failure.lock().as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        Err(QueryError::limit(format!(
            "{unsealed} bytes of stream `{}` are kept and not sealed yet, and at most {} are allowed{reason}; send the request \
             again later",
            self.name, self.unsealed_bytes_max
        )))
    }

    /// Keeps rows. When it returns, they survive a loss of power.
    ///
    /// # Errors
    /// `Unavailable` if they may not have been kept: repeat the request with the same key.
    pub(super) async fn keep(&self, part: Part, bytes: Bytes, memory: OwnedSemaphorePermit) -> Result<()> {
        let (kept, answer) = oneshot::channel();
        self.counts.queued.fetch_add(bytes.len(), Ordering::SeqCst);
        let length = bytes.len();
        if self.queue.send(Waiting { part, bytes, kept, _memory: memory }).is_err() {
            self.counts.queued.fetch_sub(length, Ordering::SeqCst);
            return Err(stopped());
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Returns the rows and bytes that were kept since the start, the requests that were refused, and the bytes that are not
    /// sealed.
    pub(super) fn counted(&self) -> [u64; 4] {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { kept_rows, kept_bytes, refused, .. } = &*self.counts;
        [load(kept_rows), load(kept_bytes), load(refused), self.unsealed_bytes()]
    }

    /// Reads, at the first call, the keys of requests that this server or others have kept before.
    ///
    /// # Errors
    /// Errors of the store. The next call reads again.
    pub(super) async fn look(&self) -> Result<()> {
        let looking = || async {
            // A server that was killed may have left segments, whose keys count.
            self.seal().await?;
            let sent = self.log.sent(KEYS_MAX).await?;
            self.repeats.lock().note_sent(sent);
            Ok(())
        };
        self.looked.get_or_try_init(looking).await.copied()
    }

    /// Seals all segments that are kept.
    pub(super) async fn seal(&self) -> Result<()> {
        seal_all(&self.log, &self.counts).await
    }
}

fn stopped() -> QueryError {
    QueryError::unavailable("the server is stopping; send the request again with the same idempotency key")
}

/// Writes the requests that wait as segments, one after the other.
async fn write(
    log: SourceLog,
    counts: Arc<Counts>,
    mut waiting: mpsc::UnboundedReceiver<Waiting>,
    group_for: Duration,
) {
    let mut looked: Option<Instant> = None;
    while let Some(first) = waiting.recv().await {
        let started = Instant::now();
        // A server that was idle does not know what others have sealed, whose clocks may be ahead.
        let is_due = looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        let newest = if is_due { log.newest().await.map(|_| ()) } else { Ok(()) };
        if is_due && newest.is_ok() {
            looked = Some(started);
        }
        let mut bytes = first.bytes.len();
        let mut group = vec![first];
        while bytes < GROUP_BYTES
            && group.len() < PARTS_MAX
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.bytes.len();
            group.push(next);
        }
        let mut payload = Vec::with_capacity(bytes);
        let mut parts = Vec::with_capacity(group.len());
        for request in &mut group {
            payload.extend_from_slice(&request.bytes);
            request.bytes = Bytes::new();
            parts.push(std::mem::take(&mut request.part));
        }
        let segment = Segment { parts, payload: payload.into() };
        let appended = match newest {
            Ok(()) => log.append(&segment, &SystemClock).await.map(|_| ()),
            Err(error) => Err(error),
        };
        let appended = appended.map_err(not_kept);
        if appended.is_ok() {
            counts.unsealed.fetch_add(bytes as u64, Ordering::SeqCst);
            counts.kept_rows.fetch_add(segment.parts.iter().map(|part| part.rows).sum::<u64>(), Ordering::Relaxed);
            counts.kept_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            counts.kept.notify_one();
        }
        counts.queued.fetch_sub(bytes, Ordering::SeqCst);
        for request in group {
            // A client that has gone does not read its answer.
            drop(request.kept.send(appended.clone()));
        }
        sleep_until(started + group_for).await;
    }
}

/// Returns the error of rows that may not have been kept. It is one of the store, whatever its kind: the request may be
/// repeated.
fn not_kept(error: QueryError) -> QueryError {
    let kind = if error.kind == ErrorKind::Limit { ErrorKind::Limit } else { ErrorKind::Unavailable };
    let message =
        format!("the rows could not be kept: {}; send the request again with the same idempotency key", error.message);
    QueryError { kind, message, ..error }
}

/// Seals segments some time after they were kept.
async fn seal(log: SourceLog, counts: Arc<Counts>, seal_after: Duration) {
    loop {
        counts.kept.notified().await;
        sleep(seal_after).await;
        if let Err(error) = seal_all(&log, &counts).await {
            tracing::warn!(%error, "segments were not sealed");
            sleep(SEAL_AGAIN_AFTER).await;
            counts.kept.notify_one();
        }
    }
}

/// Returns the time for which rows are kept, if they are not kept for ever.
///
/// # Errors
/// `Data` if the time in the declaration is not valid.
fn retention(spec: &SourceSpec) -> Result<Option<Duration>> {
    let Some(text) = spec.options.get(RETENTION) else { return Ok(None) };
    match parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok()) {
        Some(nanos) => Ok(Some(Duration::from_nanos(nanos))),
        None => Err(QueryError::data(format!("the stream declares retention `{text}`, which is not a duration"))),
    }
}

/// Removes rows that are older than `retention`, and that no pipeline needs.
async fn trim(log: SourceLog, retention: Duration) {
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    loop {
        sleep(TRIM_EVERY).await;
        let trimmed = async { log.trim(retention_ms, log.needed().await?, &SystemClock).await };
        if let Err(error) = trimmed.await {
            tracing::warn!(%error, "old rows of a stream were not removed");
        }
    }
}

/// Seals all segments that were kept before the call.
async fn seal_all(log: &SourceLog, counts: &Counts) -> Result<()> {
    let _sealing = counts.sealing.lock().await;
    let before = counts.unsealed.load(Ordering::SeqCst);
    if let Err(error) = log.seal_all(&SystemClock).await {
        *counts.failure.lock() = Some(error.clone());
        return Err(error);
    }
    counts.unsealed.fetch_sub(before, Ordering::SeqCst);
    *counts.failure.lock() = None;
    Ok(())
}
