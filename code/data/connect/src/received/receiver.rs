//! Receives messages and keeps them in the inbox of the pipeline before they count.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use buzz_epoch::{Feed, Received};
use buzz_protocol::{ErrorKind, QueryError, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

/// Maximum size of a message.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Messages that wait to be kept. A connection that is faster is not read meanwhile.
const WAITING_MAX: usize = 16;

/// Size and number of messages after which a batch is kept at once.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_MESSAGES: usize = 50_000;

/// Time before another try: at first, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(250);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Time after which a receiver looks again if another process still receives the same messages.
const LOST_WAIT: Duration = Duration::from_secs(5);

/// A place outside that sends messages, or returns them when it is polled.
#[async_trait]
pub(crate) trait Connection: fmt::Debug + Send + Sync {
    /// Returns the address for messages to the user, without what may be secret.
    fn place(&self) -> String;

    /// Returns what decides about the messages: the whole address, and the request. Kept messages of another identity
    /// are not those of the table.
    fn identity(&self) -> String;

    /// Connects, and hands messages to `out` until the connection ends.
    ///
    /// # Errors
    /// `Unavailable` if another try may succeed; any other error ends the pipeline.
    async fn receive(&self, out: &mut Outlet) -> Result<Ended>;
}

/// The end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The other side has closed it. There may be more messages after another connection.
    Closed,
    /// The other side has said that no messages follow.
    Finished,
}

/// Takes the messages of a connection.
#[derive(Debug)]
pub(crate) struct Outlet {
    sender: mpsc::Sender<(Bytes, Option<String>)>,
    /// The position behind the last message, where the next connection goes on.
    pub(super) position: Option<String>,
    /// The last message.
    pub(super) last: Option<Bytes>,
    /// The time before the next connection that the other side asks for.
    pub(super) retry: Option<Duration>,
    count: u64,
}

impl Outlet {
    /// Hands a message over. Waits while those before it are kept.
    ///
    /// # Errors
    /// `Unavailable` if the receiver has stopped.
    pub(super) async fn send(&mut self, message: Bytes) -> Result<()> {
        self.count += 1;
        self.last = Some(message.clone());
        let sent = self.sender.send((message, self.position.clone())).await;
        sent.map_err(|_| QueryError::unavailable("the receiver has stopped"))
    }
}

/// The progress of a receiver, for the source that reads its batches.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The numbers of the first batch and the newest one; `None` before the inbox was looked at.
    pub(super) ends: Option<(u64, u64)>,
    /// The reason why no messages come, while there is one.
    pub(super) trouble: Option<String>,
    /// The error that has ended the receiver.
    pub(super) error: Option<QueryError>,
    /// No messages follow.
    pub(super) finished: bool,
    /// Bytes of messages that are kept and were not read.
    pub(super) unread: u64,
}

/// Receives the messages of one table.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) connection: Arc<dyn Connection>,
    pub(super) feed: Feed,
    pub(super) progress: Arc<Mutex<Progress>>,
    /// Time for which messages are collected before they are kept.
    pub(super) linger: Duration,
    /// Identifies the receiver.
    pub(super) by: String,
    /// Bytes of unread messages above which the connection waits.
    pub(super) unread_max: u64,
}

/// The end of a session.
enum Session {
    /// No messages follow.
    Finished,
    /// Another process has kept messages.
    Lost,
}

/// Returns growing times between tries, without end.
fn waits() -> impl Iterator<Item = Duration> {
    let waits = ExponentialBuilder::new().with_min_delay(RETRY_AFTER).with_max_delay(RETRY_AFTER_MAX).with_jitter();
    waits.without_max_times().build()
}

impl Receiver {
    /// Receives until the stream ends, or with an error that another try does not mend.
    pub(super) async fn run(self) {
        let mut waits = waits();
        loop {
            let wait = match self.session().await {
                Ok(Session::Finished) => {
                    self.progress.lock().finished = true;
                    return;
                }
                Ok(Session::Lost) => {
                    self.note(format!("another process receives the messages of {}", self.connection.place()));
                    LOST_WAIT
                }
                Err(error) if error.kind == ErrorKind::Unavailable => {
                    self.note(error.message);
                    waits.next().unwrap_or(RETRY_AFTER_MAX)
                }
                Err(error) => {
                    self.progress.lock().error = Some(error);
                    return;
                }
            };
            sleep(wait).await;
        }
    }

    fn note(&self, trouble: String) {
        self.progress.lock().trouble = Some(trouble);
    }

    /// Goes on behind the last batch of the inbox.
    async fn session(&self) -> Result<Session> {
        let (first, newest) = self.feed.ends().await?.unwrap_or((1, 0));
        let last = if newest > 0 { self.feed.read(newest).await? } else { None };
        let last = last.filter(|last| last.of == self.connection.identity());
        self.progress.lock().ends = Some((first, newest));
        let (sender, received) = mpsc::channel(WAITING_MAX);
        let (position, last) = last.map_or((None, None), |last| (last.position, last.messages.last().cloned()));
        let connecting = self.connect(Outlet { sender, position, last, retry: None, count: 0 });
        let keeping = self.keep(newest + 1, received);
        tokio::pin!(connecting, keeping);
        tokio::select! {
            // Only if another process was faster: the connection, which has the sender, goes on.
            _ = &mut keeping => Ok(Session::Lost),
            ended = &mut connecting => {
                // Messages before the end are kept first.
                if !keeping.await {
                    return Ok(Session::Lost);
                }
                ended.map(|()| Session::Finished)
            }
        }
    }

    /// Connects again and again until no messages follow.
    async fn connect(&self, mut outlet: Outlet) -> Result<()> {
        let mut after = waits();
        loop {
            let (before, started) = (outlet.count, Instant::now());
            let mut asked = None;
            match self.connection.receive(&mut outlet).await {
                Ok(Ended::Finished) => return Ok(()),
                Ok(Ended::Closed) => self.note(format!("{} has closed the connection", self.connection.place())),
                Err(error) if error.kind == ErrorKind::Unavailable => {
                    asked = error.retry_after;
                    self.note(error.message);
                }
                Err(error) => return Err(error),
            }
            // A server may close quiet connections.
            if outlet.count > before || started.elapsed() > RETRY_AFTER_MAX {
                after = waits();
            }
            let wait = after.next().unwrap_or(RETRY_AFTER_MAX);
            let asked = asked.or(outlet.retry).unwrap_or_default().min(RETRY_AFTER_MAX);
            sleep(wait.max(asked)).await;
        }
    }

    /// Keeps messages in batches, from number `n` on. Returns false if another process has created one of them.
    async fn keep(&self, mut n: u64, mut received: mpsc::Receiver<(Bytes, Option<String>)>) -> bool {
        while let Some((message, position)) = received.recv().await {
            let of = self.connection.identity();
            let mut batch = Received { of, by: format!("{}-{n}", self.by), position, messages: vec![message] };
            let until = Instant::now() + self.linger;
            let mut bytes = batch.messages[0].len();
            while bytes < BATCH_BYTES && batch.messages.len() < BATCH_MESSAGES {
                let Ok(Some((message, position))) = timeout_at(until, received.recv()).await else { break };
                bytes += message.len();
                batch.messages.push(message);
                batch.position = position;
            }
            while self.progress.lock().unread > self.unread_max {
                sleep(RETRY_AFTER).await;
            }
            if !self.append(n, &batch).await {
                return false;
            }
            n += 1;
        }
        true
    }

    /// Keeps a batch, however long the store is away. Returns false if another process has created it.
    async fn append(&self, n: u64, batch: &Received) -> bool {
        let mut waits = waits();
        loop {
            match self.feed.append(n, batch).await {
                Ok(true) => {
                    let mut progress = self.progress.lock();
                    let first = progress.ends.map_or(n, |(first, _)| first);
                    progress.ends = Some((first, n));
                    progress.unread += batch.messages.iter().map(|message| message.len() as u64).sum::<u64>();
                    progress.trouble = None;
                    return true;
                }
                Ok(false) => return false,
                Err(error) => self.note(format!("messages cannot be kept: {error}")),
            }
            sleep(waits.next().unwrap_or(RETRY_AFTER_MAX)).await;
        }
    }
}
