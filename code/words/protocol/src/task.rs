//! The task that Fuse sends to an HBee, and the outcome that the HBee returns.
//!
//! A task is a serialized plan fragment and the files to run it on. `datafusion-proto` silently drops parts of a scan:
//! deleted rows, the mapping of renamed columns and version tags. So a task carries files, constants, mapping and
//! deletion vectors separately, and the HBee rebuilds the scan from them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::inline::InlineRows;
use crate::object_rows::{Segment, StageInput};
use crate::{
    BucketOptions, CombAddress, DeliveryId, FileFormat, QueryId, QueryToken, Requests, StageId, TaskIndex, base64_bytes,
};

/// One task of a map stage. It is idempotent: every attempt delivers under a new [`DeliveryId`], and Fuse accepts one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HBeeTask {
    /// The build that created the task ([`crate::BUILD_ID`]).
    pub build: String,
    /// The query.
    pub query: QueryId,
    /// The secret that combs require in each request.
    pub token: QueryToken,
    /// The query's deadline, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The stage of the task.
    pub stage: StageId,
    /// The step's name, for messages.
    pub step: String,
    /// The index of the task in its stage.
    pub task: TaskIndex,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The plan, encoded by `encode_fragment` of `buzz-kernel`. Its scans name no file.
    #[serde(with = "base64_bytes")]
    pub fragment: Bytes,
    /// The input of each scan of the fragment, in pre-order of the plan.
    pub scans: Vec<ScanSpec>,
    /// The evaluations of the fragment. The rows of the task are those of all evaluations.
    pub evaluations: Vec<Evaluation>,
    /// DataFusion configuration of the session, by key.
    pub session: BTreeMap<String, String>,
    /// The partitioning of the rows over the partitions of all combs.
    pub partitioning: Partitioning,
    /// The combs. With `n` partitions in total, comb `t` of `T` owns `t·n/T .. (t+1)·n/T`. Without combs, the outcome
    /// carries the rows to Fuse.
    pub combs: Vec<CombAddress>,
    /// Maximum bytes of rows, in memory, that the outcome can carry if there are no combs.
    #[serde(default)]
    pub inline_bytes: u64,
    /// URI below which the task writes its rows as an object, if they go neither to combs nor into its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<String>,
    /// The deliveries that the task reads below `objects`, if its plan is a part of a reduce plan. It has no scans then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<StageInput>,
    /// The W3C `traceparent` of the attempt, if the query is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// The input of one scan of the fragment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScanSpec {
    /// Root of the object store: `file:///`, `s3://bucket/`, or `several:///` for all of `stores`.
    pub store: Url,
    /// Connection settings of the store. They override those of the environment.
    #[serde(default, skip_serializing_if = "BucketOptions::is_empty")]
    pub bucket: BucketOptions,
    /// The stores of the files, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreRoot>,
    /// The table's name, for messages.
    pub table: String,
    /// The format of the files.
    #[serde(default)]
    pub format: FileFormat,
    /// The files, to which the evaluations of the task refer by position.
    pub files: Vec<TaskFile>,
    /// Partition values as an Arrow IPC stream of one batch: one column per partition column, one row per file.
    #[serde(with = "base64_bytes")]
    pub constants: Bytes,
    /// The names of the table's columns in its files.
    #[serde(default, skip_serializing_if = "ColumnMapping::is_identity")]
    pub mapping: ColumnMapping,
}

/// One of the stores that hold the files of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRoot {
    /// Root of the store, such as `file:///` or `s3://bucket/`.
    pub url: Url,
    /// Connection settings of the store. They override those of the environment.
    #[serde(default, skip_serializing_if = "BucketOptions::is_empty")]
    pub bucket: BucketOptions,
}

impl StoreRoot {
    /// Creates the root of the store at `url`, with the connection settings of the environment.
    pub fn new(url: Url) -> Self {
        Self { url, bucket: BucketOptions::default() }
    }
}

/// A file of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskFile {
    /// Path within the store.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// The store's tag of the planned version, if it is known. Reading another version is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e_tag: Option<String>,
    /// Rows that the table deleted without rewriting the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
}

/// The names of a table's columns in its files, at one level: its columns, or the fields inside one column. The
/// contents of lists and maps are named `element`, `key` and `value`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnMapping {
    /// Logical name to physical name, if they differ.
    pub physical_names: BTreeMap<String, String>,
    /// Logical name to field id, if the table finds columns by ids instead of physical names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ids: BTreeMap<String, i64>,
    /// Logical name of a column to the mapping of its nested fields, if any of them has another name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inside: BTreeMap<String, ColumnMapping>,
}

impl ColumnMapping {
    /// Returns true if every column is found by its own name.
    pub fn is_identity(&self) -> bool {
        self.physical_names.is_empty() && self.ids.is_empty() && self.inside.is_empty()
    }
}

/// The positions of a file's deleted rows, or the place where they are stored. The bytes are a `RoaringBitmapArray` as
/// defined by the
/// [Delta protocol](https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vector-format).
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
    /// In a file of the table's store. At `offset` are a big-endian length, magic number, bitmap and CRC-32.
    File {
        /// Path within the store.
        path: String,
        /// Position of the length in the file.
        offset: u64,
        /// Bytes of magic number and bitmap.
        size: u64,
        /// Number of deleted rows.
        cardinality: u64,
    },
}

/// One evaluation of the fragment: the input of each scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// One list of inputs per scan.
    pub inputs: Vec<Vec<FileSlice>>,
}

/// A file, or a part of it: the row groups, or the lines of a text, that start in a range of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSlice {
    /// Position in [`ScanSpec::files`].
    pub file: u32,
    /// First byte and the byte after the last; `None` for the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
}

/// The partitioning of a task's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Partitioning {
    /// Batch by batch, starting at a partition that depends on the task.
    RoundRobin {
        /// Number of partitions of all combs together.
        count: usize,
    },
    /// By DataFusion's hash of some columns, the same as in its own hash repartitioning.
    Hash {
        /// Positions of the columns in the delivered schema.
        columns: Vec<usize>,
        /// Number of partitions of all combs together.
        count: usize,
    },
}

impl Partitioning {
    /// Returns the number of partitions of all combs together.
    pub fn count(&self) -> usize {
        match self {
            Partitioning::RoundRobin { count } | Partitioning::Hash { count, .. } => *count,
        }
    }
}

/// The outcome of one attempt of a task. It counts only after Fuse has accepted its delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskOutcome {
    /// The id under which the rows are held, on every comb or at Fuse.
    pub delivery: DeliveryId,
    /// Place of the rows.
    #[serde(default)]
    pub delivered: Delivered,
    /// Rows delivered, by partition of all combs.
    pub rows: Vec<u64>,
    /// Bytes of delivered batches in memory.
    pub bytes_delivered: u64,
    /// Rows returned by the scans.
    pub rows_scanned: u64,
    /// Bytes that the scans read from storage.
    pub bytes_scanned: u64,
    /// Requests to buckets.
    #[serde(default)]
    pub requests: Requests,
    /// Duration of the attempt.
    pub milliseconds: u64,
}

/// The place of a task's rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivered {
    /// On the combs, under the delivery's id.
    #[default]
    ToCombs,
    /// In this outcome.
    Inline(InlineRows),
    /// In the object of the delivery ([`crate::delivery_object`]), in these parts of it. Without parts, there is no object.
    Object(Vec<Segment>),
    /// Nowhere: they exceed the bytes that an outcome can carry. The task must run again and deliver to combs.
    TooLarge,
}
