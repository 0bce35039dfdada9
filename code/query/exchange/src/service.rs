//! The interface of a comb's inboxes, local or remote.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use buzz_protocol::{DeliveryId, QueryError, QueryId, QueryToken, Result, StageId, TaskIndex, base64_bytes};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::exchanged::ExchangeCount;

/// Opens a query's inbox on one comb, which reserves the comb for the query.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenQuery {
    /// The build of the caller ([`buzz_protocol::BUILD_ID`]); a comb of another build refuses the call.
    pub build: String,
    /// The query.
    pub query: QueryId,
    /// The token that all later remote calls for this query must carry.
    pub token: QueryToken,
    /// The deadline of the query, in milliseconds since 1970; `None` if the query cannot become overdue.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Milliseconds after which the query ends on the comb unless the caller renews its lease by a
    /// [`InboxService::commit`]; `None` if the query has no lease.
    #[serde(default)]
    pub lease_ms: Option<u64>,
    /// The stages that will be delivered.
    pub stages: Vec<StageSpec>,
    /// Makes batches readable as soon as they are delivered, before their delivery is accepted. Requires that each task
    /// has one attempt and that its failure ends the run: a batch that was read cannot be taken back.
    #[serde(default)]
    pub flowing: bool,
    /// Makes a flowing delivery wait while too much of its stage is unread (back-pressure). Requires that the query has
    /// only this comb: a delivery sends to all combs in turn, and a reader on another comb may wait for it.
    #[serde(default)]
    pub paced: bool,
    /// Makes readers fetch several batches ahead: deliveries are objects in storage, which responds late.
    #[serde(default)]
    pub ahead: bool,
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
    /// The step's name, for error messages.
    pub step: String,
    /// Schema of every delivered batch, as encoded by [`buzz_kernel::encode_schema`].
    #[serde(with = "base64_bytes")]
    pub schema: Bytes,
    /// The partitions that this comb owns, in the numbering of all combs.
    pub partitions: Range<usize>,
    /// Number of tasks; the stage is complete once a delivery is accepted for each.
    pub tasks: u32,
    /// Number of plan leaves that read the stage; each reads all rows.
    pub readers: u32,
}

/// The header that begins a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryHeader {
    /// The build of the sender.
    pub build: String,
    /// The query.
    pub query: QueryId,
    /// The stage.
    pub stage: StageId,
    /// The task.
    pub task: TaskIndex,
    /// The id of the delivery; every attempt of a task has its own.
    pub delivery: DeliveryId,
}

/// The acceptance of a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    /// The stage.
    pub stage: StageId,
    /// The task.
    pub task: TaskIndex,
    /// The accepted delivery; all others of the task are dropped.
    pub delivery: DeliveryId,
    /// Rows by partition that the comb owns, as reported by the task.
    pub rows: Vec<u64>,
}

/// A comb's inboxes, local or remote.
///
/// No call waits for a reader, except deliveries that are [`OpenQuery::paced`]. Opening, accepting, aborting and
/// closing are idempotent: opening an open query, accepting an accepted delivery and closing or aborting an unknown
/// query do nothing.
#[async_trait]
pub trait InboxService: fmt::Debug + Send + Sync {
    /// Opens a query's inbox.
    ///
    /// # Errors
    /// `Unavailable` when the comb is of another build, is stopping or has no free slot, `Cancelled` when the query is
    /// already closed.
    async fn open(&self, open: OpenQuery) -> Result<()>;

    /// Begins a delivery. Its batches cannot be read before [`InboxService::commit`], unless the query is
    /// [`OpenQuery::flowing`].
    ///
    /// # Errors
    /// `Unavailable` when the query is not open (the comb restarted, or the query ended), `Cancelled` when another
    /// delivery of the task was accepted, `Internal` for a wrong stage, task or schema.
    async fn deliver(
        &self,
        header: DeliveryHeader,
        schema: arrow::datatypes::SchemaRef,
    ) -> Result<Box<dyn DeliverySink>>;

    /// Accepts one delivery for each of some tasks, and renews the query's lease. Without commits, it only checks that
    /// the query is open on the comb.
    ///
    /// # Errors
    /// `Unavailable` when the query is not open or the delivery is incomplete, `Internal` when another delivery of the
    /// task was accepted before.
    async fn commit(&self, query: QueryId, commits: Vec<Commit>) -> Result<()>;

    /// Checks that a query is open. Unlike [`InboxService::commit`], it does not renew the lease: an HBee calls it.
    ///
    /// # Errors
    /// `Cancelled` when the query is not open, `Unavailable` when the comb does not respond.
    async fn check_open(&self, query: QueryId) -> Result<()>;

    /// Returns the stages of a query that are being read, so that Fuse can run their tasks first. `None` if the comb is
    /// remote or the query is not open.
    fn demand(&self, query: QueryId) -> Option<watch::Receiver<BTreeSet<StageId>>> {
        let _ = query;
        None
    }

    /// Checks that every reader of every stage has read its partitions to the end, except those of `unread`. Returns the
    /// counts of the rows that the comb sent to other combs and read from them.
    ///
    /// # Errors
    /// `Internal`, naming a stage that was not read to the end, `Unavailable` when the query is not open.
    async fn check_read(&self, query: QueryId, unread: BTreeSet<StageId>) -> Result<Vec<ExchangeCount>>;

    /// Fails the query's streams with `reason` and drops its batches.
    async fn abort(&self, query: QueryId, reason: QueryError) -> Result<()>;

    /// Removes the query and drops its batches. The query cannot be opened again.
    async fn close(&self, query: QueryId) -> Result<()>;
}

/// Sends the batches of one delivery to one comb. If it is dropped before [`DeliverySink::finish`], the delivery is
/// discarded.
#[async_trait]
pub trait DeliverySink: fmt::Debug + Send {
    /// Sends a batch for `partition`, in the numbering of all combs.
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
