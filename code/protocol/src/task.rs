//! What Fuse asks of an HBee, and what it answers.
//!
//! A task is a serialized plan fragment and the files to run it on. `datafusion-proto` drops parts of a scan without
//! saying so (deleted rows, the mapping of renamed columns, version tags), so files, constants, mapping and deletion
//! vectors travel beside the fragment and the HBee rebuilds the scan from them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::inline::InlineRows;
use crate::plan::base64_bytes;
use crate::{BucketOptions, CombAddress, DeliveryId, FileFormat, QueryId, QueryToken, StageId, TaskIndex};

/// One task of a map stage. Running it twice is harmless: every run delivers under a fresh [`DeliveryId`], and Fuse
/// accepts one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HBeeTask {
    /// The build that made the task ([`crate::BUILD_ID`]).
    pub build: String,
    /// The query.
    pub query: QueryId,
    /// What the combs want to be shown.
    pub token: QueryToken,
    /// When the query's time is over, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The stage that the task is of.
    pub stage: StageId,
    /// The step's name, for messages.
    pub step: String,
    /// The place of the task in its stage.
    pub task: TaskIndex,
    /// From 1; grows when the task is tried again.
    pub attempt: u32,
    /// The plan, as [`crate::plan::encode_fragment`] makes it. Its scans name no file.
    #[serde(with = "base64_bytes")]
    pub fragment: Bytes,
    /// What each scan of the fragment reads, in pre-order of the plan.
    pub scans: Vec<ScanSpec>,
    /// The fragment is run once for each of these, and the task's rows are those of all runs.
    pub evaluations: Vec<Evaluation>,
    /// DataFusion configuration of the session, by key.
    pub session: BTreeMap<String, String>,
    /// How rows are divided among the partitions of all combs.
    pub partitioning: Partitioning,
    /// The combs. With `n` partitions in all, comb `t` of `T` owns `t·n/T .. (t+1)·n/T`. Without any, the rows go into
    /// the outcome, to Fuse.
    pub combs: Vec<CombAddress>,
    /// Bytes of rows, in memory, that the outcome can carry if there are no combs.
    #[serde(default)]
    pub inline_bytes: u64,
}

/// What one scan leaf of the fragment reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScanSpec {
    /// Root of the object store, as `file:///` or `s3://bucket/`, or `several:///` for all of `stores`.
    pub store: Url,
    /// How the store is reached, where the environment does not say it.
    #[serde(default, skip_serializing_if = "BucketOptions::is_empty")]
    pub bucket: BucketOptions,
    /// The stores of the files, if they are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreRoot>,
    /// The table's name, for messages.
    pub table: String,
    /// What the files are like.
    #[serde(default)]
    pub format: FileFormat,
    /// The files that this task's evaluations name by position.
    pub files: Vec<TaskFile>,
    /// Partition values as an Arrow IPC stream of one batch: one column per partition column, one row per file.
    #[serde(with = "base64_bytes")]
    pub constants: Bytes,
    /// How the table's columns are called in its files.
    #[serde(default, skip_serializing_if = "ColumnMapping::is_identity")]
    pub mapping: ColumnMapping,
}

/// One of the stores that hold the files of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRoot {
    /// Root of the store, as `file:///` or `s3://bucket/`.
    pub url: Url,
    /// How it is reached, where the environment does not say it.
    #[serde(default, skip_serializing_if = "BucketOptions::is_empty")]
    pub bucket: BucketOptions,
}

impl StoreRoot {
    /// The store at `url`, reached as the environment says.
    pub fn new(url: Url) -> Self {
        Self { url, bucket: BucketOptions::default() }
    }
}

/// A file of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskFile {
    /// Path within the store.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The store's tag of the version that was planned, where it was asked; another one now is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e_tag: Option<String>,
    /// Rows that the table deleted without rewriting the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
}

/// How the columns of a table are called in its files, at one level: its columns, or the fields inside of one. What a
/// list or a map holds is called `element`, `key` and `value` here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnMapping {
    /// Logical name to physical name, where they differ.
    pub physical_names: BTreeMap<String, String>,
    /// Logical name to field id, if the table finds columns by these rather than by physical names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ids: BTreeMap<String, i64>,
    /// What is inside of columns, by their logical name, where anything there has another name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inside: BTreeMap<String, ColumnMapping>,
}

impl ColumnMapping {
    /// Whether every column is found by its own name.
    pub fn is_identity(&self) -> bool {
        self.physical_names.is_empty() && self.ids.is_empty() && self.inside.is_empty()
    }
}

/// Where the positions of a file's deleted rows are found. The bytes are a `RoaringBitmapArray` as the
/// [Delta protocol](https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vector-format) has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DeletionVector {
    /// The bytes themselves, magic number first.
    Inline {
        /// Magic number and bitmap.
        #[serde(with = "base64_bytes")]
        bytes: Bytes,
        /// Number of deleted rows.
        cardinality: u64,
    },
    /// In a file of the table's store: at `offset` a big-endian length, then magic number and bitmap, then a CRC-32.
    File {
        /// Path within the store.
        path: String,
        /// Where the length stands.
        offset: u64,
        /// Bytes of magic number and bitmap.
        size: u64,
        /// Number of deleted rows.
        cardinality: u64,
    },
}

/// One run of the fragment: for each scan, what it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// As many as there are scans.
    pub inputs: Vec<Vec<FileSlice>>,
}

/// A file, or the part of it whose row groups start in a range of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSlice {
    /// Position in [`ScanSpec::files`].
    pub file: u32,
    /// First byte and the byte after the last, if not the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
}

/// How the rows of a task are divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Partitioning {
    /// Batch by batch in turn, beginning with a partition that depends on the task.
    RoundRobin {
        /// Partitions of all combs together.
        count: usize,
    },
    /// By DataFusion's hash of some columns, the one by which its own exchanges divide rows.
    Hash {
        /// Positions of the columns in the delivered schema.
        columns: Vec<usize>,
        /// Partitions of all combs together.
        count: usize,
    },
}

impl Partitioning {
    /// Partitions of all combs together.
    pub fn count(&self) -> usize {
        match self {
            Partitioning::RoundRobin { count } | Partitioning::Hash { count, .. } => *count,
        }
    }
}

/// What one run of a task did. It counts only once Fuse has accepted its delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskOutcome {
    /// The name under which every comb holds the rows.
    pub delivery: DeliveryId,
    /// Where the rows are.
    #[serde(default)]
    pub delivered: Delivered,
    /// Rows delivered, by partition of all combs.
    pub rows: Vec<u64>,
    /// Bytes of delivered batches in memory.
    pub bytes_delivered: u64,
    /// Rows that the scans gave.
    pub rows_scanned: u64,
    /// Bytes that the scans read from storage.
    pub bytes_scanned: u64,
    /// Requests to storage, where they are counted.
    #[serde(default)]
    pub requests: u64,
    /// Time from start to end.
    pub milliseconds: u64,
}

/// Where the rows of a task are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivered {
    /// On the combs, under the delivery's name.
    #[default]
    ToCombs,
    /// Here.
    Inline(InlineRows),
    /// Nowhere: they are more than an outcome can carry, and the task must run again, towards combs.
    TooLarge,
}
