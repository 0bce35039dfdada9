//! Previews: scripts that run for up to 10 minutes and keep nothing. Their rows wait in memory for a reader.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_connect::{Sink, TakesChanges, Written};
use buzz_protocol::{QueryError, Result, now_ms};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::jobs::registry::token;
use crate::jobs::tail::{Event, lines};
use crate::plan::plan;
use crate::process::{MakeSink, Printed, Process};
use crate::run::{End, Order, Pace, drive};
use crate::runner::Runner;
use crate::start::new_id;
use crate::thread;

/// Rows of a preview, after which it ends.
const ROWS_MAX: usize = 10_000;

/// Bytes of the rows of a preview, as JSON, after which it ends.
const BYTES_MAX: usize = 64 << 20;

/// Time after which a preview ends, and time for which its rows can be read after that.
const RUNS_MAX: Duration = Duration::from_secs(600);

/// Number of previews that are kept.
const PREVIEWS_MAX: usize = 16;

/// Length of an epoch: rows should appear soon, and nothing is stored.
const EPOCH_MAX: Duration = Duration::from_millis(250);

/// The previews of a server.
#[derive(Debug, Default)]
pub(crate) struct Previews(Mutex<BTreeMap<String, Arc<Preview>>>);

/// A script that runs and keeps nothing.
#[derive(Debug)]
pub struct Preview {
    /// Its id.
    pub id: String,
    /// Its script.
    pub script: String,
    /// The time of its start in milliseconds since 1970.
    pub started_ms: u64,
    started: Instant,
    orders: watch::Sender<Order>,
    rows: Mutex<Vec<Event>>,
    /// The number of rows, and true when no row follows.
    seen: watch::Sender<(usize, bool)>,
    ended: Mutex<Option<Result<()>>>,
}

impl Previews {
    /// Starts a preview. The script was checked before.
    pub(crate) fn start(&self, script: String, sinks: bool, process: &Process) -> Result<Arc<Preview>> {
        let preview = Arc::new(Preview {
            id: format!("preview-{}", &token()[..12]),
            script,
            started_ms: now_ms(),
            started: Instant::now(),
            orders: watch::Sender::new(Order::Go),
            rows: Mutex::default(),
            seen: watch::Sender::new((0, false)),
            ended: Mutex::default(),
        });
        self.add(&preview)?;
        let own = Arc::clone(&preview);
        let make: MakeSink = Arc::new(move |name| Arc::new(Rows { name: name.to_string(), preview: Arc::clone(&own) }));
        let printed = if sinks { Printed::Elsewhere(make) } else { Printed::Everything(make) };
        let process = Process { printed, ..process.clone() };
        let (own, ending) = (Arc::clone(&preview), Arc::clone(&preview));
        let run = move || async move { own.run(&process).await };
        if let Err(error) = thread::spawn("preview", run, move |done| ending.end(done.and_then(|done| done))) {
            self.0.lock().remove(&preview.id);
            return Err(error);
        }
        Ok(preview)
    }

    /// Makes room, and enters a preview.
    fn add(&self, preview: &Arc<Preview>) -> Result<()> {
        let mut previews = self.0.lock();
        previews.retain(|_, preview| preview.started.elapsed() < RUNS_MAX * 2);
        if previews.len() >= PREVIEWS_MAX {
            let oldest = previews.values().filter(|preview| preview.has_ended()).min_by_key(|preview| preview.started);
            let oldest = oldest.map(|preview| preview.id.clone()).ok_or_else(|| {
                QueryError::limit(format!(
                    "{PREVIEWS_MAX} previews run already; delete one, or wait until one has ended"
                ))
            })?;
            previews.remove(&oldest);
        }
        previews.insert(preview.id.clone(), Arc::clone(preview));
        Ok(())
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Preview>> {
        self.0.lock().get(id).cloned()
    }

    /// Ends all previews.
    pub(crate) fn end(&self) {
        self.0.lock().values().for_each(|preview| preview.stop());
    }
}

impl Preview {
    /// Ends the preview at once.
    pub fn stop(&self) {
        self.orders.send_replace(Order::Abandon);
    }

    /// Returns true if no row follows.
    pub fn has_ended(&self) -> bool {
        self.seen.borrow().1
    }

    /// Returns the error of a preview that has failed.
    pub fn error(&self) -> Option<QueryError> {
        self.ended.lock().clone().and_then(Result::err)
    }

    /// Waits for row `index`, counted from 0. Returns `None` if the preview has ended without it.
    ///
    /// # Errors
    /// The error of the preview, after its last row.
    pub async fn row(&self, index: usize) -> Result<Option<Event>> {
        let mut seen = self.seen.subscribe();
        // The sender lives as long as this does.
        let _ = seen.wait_for(|(rows, ended)| *rows > index || *ended).await;
        let row = self.rows.lock().get(index).cloned();
        match (row, self.error()) {
            (None, Some(error)) => Err(error),
            (row, _) => Ok(row),
        }
    }

    async fn run(&self, process: &Process) -> Result<()> {
        let planned = plan(&self.script, None, process, &new_id("preview")).await?;
        planned.check_targets().await?;
        let nanos = u64::try_from(planned.settings.epoch_nanos(false)).unwrap_or_default();
        let pace = Pace { epoch: Duration::from_nanos(nanos).min(EPOCH_MAX), epochs: None };
        let mut runner = Runner::new(planned, None);
        let mut orders = self.orders.subscribe();
        tokio::select! {
            ended = drive(&mut runner, pace, &mut orders) => match ended? {
                End::Ordered(_) | End::Lost => return Ok(()),
                End::Sources | End::Closed | End::Epochs => {}
            },
            () = tokio::time::sleep(RUNS_MAX) => return Ok(()),
        }
        runner.stop().await
    }

    fn end(&self, ended: Result<()>) {
        *self.ended.lock() = Some(ended);
        self.seen.send_modify(|seen| seen.1 = true);
    }
}

/// A sink that keeps the first rows of a preview.
struct Rows {
    name: String,
    preview: Arc<Preview>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Sink for Rows {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, epoch: u64, batches: &[RecordBatch]) -> Result<Written> {
        let at_ms = i64::try_from(now_ms()).unwrap_or(i64::MAX);
        for batch in batches {
            for at in (0..batch.num_rows()).step_by(64) {
                let (count, bytes) = {
                    let rows = self.preview.rows.lock();
                    (rows.len(), rows.iter().map(|event| event.row.len()).sum::<usize>())
                };
                if count >= ROWS_MAX || bytes >= BYTES_MAX {
                    self.preview.seen.send_modify(|seen| seen.0 = count);
                    return Ok(Written::Closed);
                }
                let part = batch.slice(at, (batch.num_rows() - at).min(64).min(ROWS_MAX - count));
                let new = lines(&[part])?;
                let mut rows = self.preview.rows.lock();
                for row in new {
                    let id = format!("{epoch}-{}", rows.len() + 1);
                    rows.push(Event { id, sink: self.name.clone(), at_ms, row, missed: 0 });
                }
            }
        }
        let count = self.preview.rows.lock().len();
        self.preview.seen.send_modify(|seen| seen.0 = count);
        Ok(if count >= ROWS_MAX { Written::Closed } else { Written::Done })
    }

    fn takes_changes(&self) -> TakesChanges {
        TakesChanges::Too
    }
}
