//! Counts the rows that pass from stage to stage of a divided reduce plan.
//!
//! A stream of rows between combs that ends early looks like one that ends. So each comb counts the rows that its stages
//! send and those that they read, and Fuse compares the sums when the query ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use buzz_kernel::{Guard, guarded, may_end_before};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use datafusion_distributed::{BroadcastExec, NetworkBoundaryExt, NetworkBroadcastExec, TaskKey};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The exchange above one stage of a reduce plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExchangeId {
    /// The id of the reduce plan.
    pub plan: Uuid,
    /// The number of the stage that sends rows.
    pub stage: usize,
}

impl From<&TaskKey> for ExchangeId {
    fn from(key: &TaskKey) -> Self {
        Self { plan: key.query_id, stage: key.stage_id }
    }
}

/// The side of an exchange that counts rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// One task of the stage that sends rows.
    Sender,
    /// One task that reads rows of all senders.
    Reader {
        /// True if each reader gets all rows (a broadcast), false if the rows are divided among the readers.
        all: bool,
    },
    /// Fuse, which reads rows of one sender.
    FuseOfOne {
        /// As in [`Side::Reader`].
        all: bool,
    },
}

/// The rows that one side of an exchange counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeCount {
    /// The exchange.
    pub exchange: ExchangeId,
    /// The side.
    pub side: Side,
    /// The rows so far.
    pub rows: u64,
    /// True if all streams of the side have ended.
    pub ended: bool,
    /// True if the streams of a reader have not ended although its task has sent all its rows, and no operator of the task
    /// may end early.
    pub stopped: bool,
}

/// The counts of one query in one process.
#[derive(Debug, Default)]
pub struct Exchanges {
    counters: Mutex<Vec<Counted>>,
}

#[derive(Debug)]
struct Counted {
    exchange: ExchangeId,
    side: Side,
    counter: Arc<Counter>,
    /// The rows that the task of a reader sends, if it must read to the end before it has sent them.
    sender: Option<Arc<Counter>>,
}

#[derive(Debug)]
struct Counter {
    rows: AtomicU64,
    streams_left: AtomicUsize,
}

impl Counter {
    fn of_streams(streams: usize) -> Arc<Self> {
        Arc::new(Self { rows: AtomicU64::new(0), streams_left: AtomicUsize::new(streams) })
    }

    fn ended(&self) -> bool {
        self.streams_left.load(Ordering::SeqCst) == 0
    }
}

impl Exchanges {
    /// Returns the counts so far.
    pub fn counts(&self) -> Vec<ExchangeCount> {
        let count = |counted: &Counted| ExchangeCount {
            exchange: counted.exchange,
            side: counted.side,
            rows: counted.counter.rows.load(Ordering::SeqCst),
            ended: counted.counter.ended(),
            stopped: !counted.counter.ended() && counted.sender.as_ref().is_some_and(|sender| sender.ended()),
        };
        self.counters.lock().iter().map(count).collect()
    }

    /// Makes the task `plan` count the rows that it sends to `exchange`, and those that it reads from other exchanges.
    pub(crate) fn counted(&self, plan: Arc<dyn ExecutionPlan>, exchange: ExchangeId) -> Result<Arc<dyn ExecutionPlan>> {
        let mut counter = None;
        let plan = below_exchange(plan, |sender| {
            let own = Counter::of_streams(sender.output_partitioning().partition_count());
            counter = Some(Arc::clone(&own));
            guarded(sender, Arc::new(Counting(own)))
        })?;
        let Some(counter) = counter else { return Ok(plan) };
        let counted = self.counted_readers(plan, Some(&counter))?;
        self.counters.lock().push(Counted { exchange, side: Side::Sender, counter, sender: None });
        Ok(counted)
    }

    /// Makes the exchanges that `node` reads count their rows. `sender` counts those of its task; `None` if an operator above
    /// may end early.
    fn counted_readers(
        &self,
        node: Arc<dyn ExecutionPlan>,
        sender: Option<&Arc<Counter>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(boundary) = node.as_network_boundary() {
            let input = boundary.input_stage();
            let exchange = ExchangeId { plan: input.query_id(), stage: input.num() };
            let side = Side::Reader { all: node.downcast_ref::<NetworkBroadcastExec>().is_some() };
            let counter = Counter::of_streams(node.output_partitioning().partition_count());
            let (own, sender) = (Arc::clone(&counter), sender.cloned());
            self.counters.lock().push(Counted { exchange, side, counter, sender });
            return Ok(guarded(node, Arc::new(Counting(own))));
        }
        let children: Vec<_> = node.children().into_iter().cloned().collect();
        if children.is_empty() {
            return Ok(node);
        }
        let below = |(index, input)| self.counted_readers(input, sender.filter(|_| !may_end_before(&node, index)));
        let counted = children.into_iter().enumerate().map(below).collect::<Result<Vec<_>>>()?;
        node.replace_children(counted, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
    }

    /// Counts the rows of `streams`, which Fuse reads from one sender of `exchange`.
    pub(crate) fn counted_streams(
        &self,
        streams: Vec<BoxStream<'static, Result<RecordBatch>>>,
        exchange: ExchangeId,
        all: bool,
    ) -> Vec<BoxStream<'static, Result<RecordBatch>>> {
        let counter = Counter::of_streams(streams.len());
        let (own, side) = (Arc::clone(&counter), Side::FuseOfOne { all });
        self.counters.lock().push(Counted { exchange, side, counter: own, sender: None });
        streams.into_iter().map(|batches| counting(batches, Arc::clone(&counter)).boxed()).collect()
    }
}

/// Applies `change` to the operator of a task whose rows are sent. The exchange at its head is created again when the task is
/// executed, so an operator around it would be lost.
///
/// # Errors
/// If the exchange does not accept the changed operator.
pub fn below_exchange(
    plan: Arc<dyn ExecutionPlan>,
    change: impl FnOnce(Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let is_exchange =
        plan.downcast_ref::<RepartitionExec>().is_some() || plan.downcast_ref::<BroadcastExec>().is_some();
    let input = plan.children().first().map(|input| Arc::clone(*input));
    match input {
        Some(input) if is_exchange => {
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            plan.replace_children(vec![change(input)], options)
        }
        _ => Ok(change(plan)),
    }
}

#[derive(Debug)]
struct Counting(Arc<Counter>);

impl Guard for Counting {
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let batches = inner.execute(partition, ctx)?;
        let schema = batches.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counting(batches, Arc::clone(&self.0)))))
    }

    fn fresh(&self) -> Arc<dyn Guard> {
        Arc::new(Self(Arc::clone(&self.0)))
    }
}

/// Counts the rows of `batches`, and its end.
fn counting(
    batches: impl Stream<Item = Result<RecordBatch>>,
    counter: Arc<Counter>,
) -> impl Stream<Item = Result<RecordBatch>> {
    let end = Arc::clone(&counter);
    let counted = batches.inspect(move |batch: &Result<RecordBatch>| {
        if let Ok(batch) = batch {
            counter.rows.fetch_add(batch.num_rows() as u64, Ordering::SeqCst);
        }
    });
    let mut end = Some(end);
    let ended = futures::stream::poll_fn(move |_| {
        if let Some(end) = end.take() {
            end.streams_left.fetch_sub(1, Ordering::SeqCst);
        }
        std::task::Poll::Ready(None)
    });
    counted.chain(ended)
}

/// Describes an exchange whose readers did not get all rows, by the counts of all combs and of Fuse. `None` if there is
/// none. A reader that may end early leaves rows, so its exchange is not compared.
pub fn lost_in_exchange(counts: &[ExchangeCount]) -> Option<String> {
    let mut exchanges: BTreeMap<ExchangeId, Vec<&ExchangeCount>> = BTreeMap::new();
    for count in counts {
        exchanges.entry(count.exchange).or_default().push(count);
    }
    exchanges.into_iter().find_map(|(exchange, counts)| {
        let (senders, readers): (Vec<&ExchangeCount>, Vec<&ExchangeCount>) =
            counts.into_iter().partition(|count| count.side == Side::Sender);
        let of_fuse = readers.iter().filter(|count| matches!(count.side, Side::FuseOfOne { .. }));
        let fuse_asked_all = matches!(of_fuse.count(), asked if asked == 0 || asked == senders.len());
        if readers.iter().any(|reader| reader.stopped) {
            return Some(format!("a reduce plan ended before it had read all rows of its stage {}", exchange.stage));
        }
        if readers.is_empty() || !fuse_asked_all || !readers.iter().all(|reader| reader.ended) {
            return None;
        }
        let sent: u64 = senders.iter().map(|sender| sender.rows).sum();
        let read: u64 = readers.iter().map(|reader| reader.rows).sum();
        let expected = match readers.first().map(|reader| reader.side) {
            Some(Side::Reader { all: true }) => sent * readers.len() as u64,
            _ => sent,
        };
        (read != expected)
            .then(|| format!("{read} of {expected} rows of stage {} of a reduce plan arrived", exchange.stage))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(stage: usize, side: Side, rows: u64, ended: bool) -> ExchangeCount {
        ExchangeCount { exchange: ExchangeId { plan: Uuid::nil(), stage }, side, rows, ended, stopped: false }
    }

    #[test]
    fn rows_that_do_not_arrive_are_noticed() {
        let divided = Side::Reader { all: false };
        let senders = [count(1, Side::Sender, 70, true), count(1, Side::Sender, 30, true)];
        let lost = |readers: &[ExchangeCount]| lost_in_exchange(&[&senders, readers].concat());
        assert_eq!(lost(&[count(1, divided, 60, true), count(1, divided, 40, true)]), None);
        let told = lost(&[count(1, divided, 60, true), count(1, divided, 39, true)]);
        assert_eq!(told.as_deref(), Some("99 of 100 rows of stage 1 of a reduce plan arrived"));
        // A limit above it has enough rows.
        assert_eq!(lost(&[count(1, divided, 60, true), count(1, divided, 3, false)]), None);
        assert_eq!(lost(&[]), None);
        let stopped = ExchangeCount { stopped: true, ..count(1, divided, 3, false) };
        assert!(lost(&[count(1, divided, 60, true), stopped]).is_some());

        let all = Side::Reader { all: true };
        assert_eq!(lost(&[count(1, all, 100, true), count(1, all, 100, true)]), None);
        assert!(lost(&[count(1, all, 100, true), count(1, all, 70, true)]).is_some());

        let fuse = Side::FuseOfOne { all: false };
        assert_eq!(lost(&[count(1, fuse, 70, true), count(1, fuse, 30, true)]), None);
        assert!(lost(&[count(1, fuse, 70, true), count(1, fuse, 29, true)]).is_some());
        // A plan that ends early does not ask every sender.
        assert_eq!(lost(&[count(1, fuse, 70, true)]), None);
    }

    #[test]
    fn exchanges_are_compared_one_by_one() {
        let divided = Side::Reader { all: false };
        let counts = [
            count(1, Side::Sender, 5, true),
            count(2, Side::Sender, 7, true),
            count(1, divided, 7, true),
            count(2, divided, 5, true),
        ];
        assert!(lost_in_exchange(&counts).is_some());
    }
}
