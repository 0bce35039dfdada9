//! Rows that are exchanged through objects: the places of deliveries, and what a task reads of them.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{DeliveryId, QueryId, StageId, TaskIndex, base64_bytes};

/// Returns the place of the deliveries of the run `query`, below the stack's own objects.
pub fn exchange_of(query: QueryId) -> String {
    format!("exchange/{query}")
}

/// Returns the name of the object of a delivery, below the place of its query. Each attempt of a task has its own.
pub fn delivery_object(stage: StageId, task: TaskIndex, delivery: DeliveryId) -> String {
    format!("{stage}-{task}-{delivery}")
}

/// A range of an object with rows of one partition: an Arrow IPC stream, whose batches may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The partition, counted over all partitions of the stage.
    pub partition: u32,
    /// Number of rows.
    pub rows: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// CRC-32 of the bytes.
    pub crc: u32,
}

/// The part of a stage's accepted deliveries that one task reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageInput {
    /// The stage.
    pub stage: StageId,
    /// The name of its step, for messages.
    pub step: String,
    /// Schema of its rows, as an Arrow IPC flatbuffer.
    #[serde(with = "base64_bytes")]
    pub schema: Bytes,
    /// The partitions that the task reads: one, or all.
    pub partitions: Range<u32>,
    /// Number of leaves of the task's plan that read the stage.
    pub readers: u32,
    /// The deliveries with rows of these partitions.
    pub deliveries: Vec<DeliveredObject>,
}

/// An accepted delivery, and the parts of its object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredObject {
    /// The task that delivered.
    pub task: TaskIndex,
    /// The id of the delivery.
    pub delivery: DeliveryId,
    /// Parts of the object.
    pub segments: Vec<Segment>,
}
