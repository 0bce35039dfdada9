//! What a comb's inboxes are asked to do, wherever the comb is.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_protocol::plan::base64_bytes;
use buzz_protocol::{DeliveryId, QueryError, QueryId, QueryToken, Result, StageId, TaskIndex};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Opens a query's inbox on one comb, which reserves the comb for the query.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenQuery {
    /// The build that asks ([`buzz_protocol::BUILD_ID`]); a comb of another build refuses.
    pub build: String,
    /// The query.
    pub query: QueryId,
    /// What whoever calls from outside must show from now on.
    pub token: QueryToken,
    /// When the query is over in any case, in milliseconds since 1970; None if whoever opens it lives in this process.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// What will be delivered.
    pub stages: Vec<StageSpec>,
    /// Whether batches can be read as soon as they are delivered, before their delivery is accepted. Only where a task is
    /// run once, and a failure of it ends the run: a batch that was read cannot be taken back.
    #[serde(default)]
    pub flowing: bool,
    /// Whether a flowing delivery waits while much of it lies unread. Only where this comb is the query's only one: a
    /// delivery goes to all combs in turn, and on another one a reader may wait for it.
    #[serde(default)]
    pub paced: bool,
    /// Bytes held in memory before deliveries are spilled.
    pub memory_bytes: u64,
    /// Bytes spilled before deliveries are refused with `Limit`.
    pub disk_bytes: u64,
}

/// One stage's share of an inbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageSpec {
    /// The stage.
    pub stage: StageId,
    /// The step's name, for messages.
    pub step: String,
    /// Schema of every delivered batch, as [`buzz_protocol::plan::encode_schema`] writes it.
    #[serde(with = "base64_bytes")]
    pub schema: Bytes,
    /// The partitions that this comb owns, of those of all combs.
    pub partitions: Range<usize>,
    /// Number of tasks; the stage is whole once a delivery is accepted for each.
    pub tasks: u32,
    /// Number of plan leaves that read the stage; each reads all of it.
    pub readers: u32,
}

/// Announces a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryHeader {
    /// The build that delivers.
    pub build: String,
    /// The query.
    pub query: QueryId,
    /// The stage.
    pub stage: StageId,
    /// The task.
    pub task: TaskIndex,
    /// The name of the delivery; every run of a task has its own.
    pub delivery: DeliveryId,
}

/// Accepts a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    /// The stage.
    pub stage: StageId,
    /// The task.
    pub task: TaskIndex,
    /// The accepted delivery; all others of the task are dropped.
    pub delivery: DeliveryId,
    /// Rows by partition that the comb owns, as the task reported them.
    pub rows: Vec<u64>,
}

/// A comb's inboxes, near or far.
///
/// Nothing here waits for a reader, but for deliveries that are [`OpenQuery::paced`]. All calls may be repeated: opening an
/// open query, accepting the accepted delivery and closing or aborting an unknown query do nothing.
#[async_trait]
pub trait InboxService: fmt::Debug + Send + Sync {
    /// Opens a query's inbox.
    ///
    /// # Errors
    /// `Unavailable` when the comb is of another build, `Cancelled` when the query was closed before this arrived.
    async fn open(&self, open: OpenQuery) -> Result<()>;

    /// Begins a delivery. Its batches are held aside; none counts before [`InboxService::commit`], unless the query was
    /// opened for [`OpenQuery::flowing`] deliveries.
    ///
    /// # Errors
    /// `Unavailable` for a query that the comb does not know (it was restarted, or the query is over), `Cancelled` when
    /// another delivery of the task was accepted, `Internal` for a wrong stage, task or schema.
    async fn deliver(
        &self,
        header: DeliveryHeader,
        schema: arrow::datatypes::SchemaRef,
    ) -> Result<Box<dyn DeliverySink>>;

    /// Accepts one delivery each of some tasks. With none, it asks whether the comb still knows the query.
    ///
    /// # Errors
    /// `Unavailable` for an unknown query or a delivery that did not arrive whole, `Internal` when another delivery of
    /// the task was accepted before.
    async fn commit(&self, query: QueryId, commits: Vec<Commit>) -> Result<()>;

    /// The stages of a query that somebody reads by now, where the comb is near enough to say so: whoever runs the tasks
    /// can do those first that are waited for.
    fn demand(&self, query: QueryId) -> Option<watch::Receiver<BTreeSet<StageId>>> {
        let _ = query;
        None
    }

    /// Ends the query's streams with `reason` and drops what it holds.
    async fn abort(&self, query: QueryId, reason: QueryError) -> Result<()>;

    /// Forgets the query and drops what it holds; it cannot be opened again.
    async fn close(&self, query: QueryId) -> Result<()>;
}

/// The batches of one delivery, on their way to one comb. Dropped before [`DeliverySink::finish`], it never was.
#[async_trait]
pub trait DeliverySink: fmt::Debug + Send {
    /// Sends a batch for `partition` (of those of all combs).
    ///
    /// # Errors
    /// As [`InboxService::deliver`], and `Limit` when the inbox is full.
    async fn send(&mut self, partition: usize, batch: RecordBatch) -> Result<()>;

    /// Waits until the comb holds all batches.
    ///
    /// # Errors
    /// As [`DeliverySink::send`].
    async fn finish(self: Box<Self>) -> Result<()>;
}
