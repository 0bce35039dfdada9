//! The types that the roles exchange.
//!
//! A user sends a [`Query`]. Fuse divides it into [`HBeeTask`]s, and each attempt of a task returns a [`TaskOutcome`].
//! Every failure is a [`QueryError`] that keeps its original [`ErrorKind`] on the way to the user. [`Options`] are the
//! limits and choices of one query. Plans are sent as bytes, schemas and batches as Arrow IPC.
//!
//! This crate compiles without DataFusion, so that a client of a stack is small. The feature `datafusion` adds the
//! conversions between [`QueryError`] and DataFusion's errors, and `sql` what needs a SQL parser: the length of a statement.
//!
//! Read in this order: [`query`], [`catalog`], [`file_format`], [`options`], [`task`], [`inline`], [`ids`], [`error`].

pub mod base64_bytes;
pub mod catalog;
mod clock;
#[cfg(feature = "datafusion")]
mod datafusion_error;
#[cfg(feature = "datafusion")]
mod dialects;
pub mod error;
pub mod file_format;
pub mod format;
mod human;
mod identifier;
pub mod ids;
pub mod inline;
mod nearest;
mod nullable;
pub mod object_rows;
mod option_bounds;
pub mod options;
mod place;
pub mod query;
mod requests;
mod spelling;
#[cfg(feature = "sql")]
mod sql_length;
mod store_error;
mod structs;
mod table_text;
pub mod task;
mod temporary;

pub use catalog::{
    BucketOptions, CatalogEntry, CatalogType, ColumnSpec, NO_USER_INFO, split_version, without_user_info,
};
pub use clock::{milliseconds, now, now_ms};
pub use error::{ErrorKind, QueryError, Result, panic_message};
pub use file_format::{Compression, CsvFormat, FileFormat, JsonFormat, SegmentsFormat};
pub use format::{FORMATS, Format};
pub use human::human_bytes;
pub use identifier::identifier;
pub use ids::{CombAddress, DeliveryId, QueryId, QueryToken, StageId, TaskIndex};
pub use inline::InlineRows;
pub use nearest::nearest;
pub use nullable::nullable;
pub use object_rows::{DeliveredObject, Segment, StageInput, delivery_object, exchange_of};
pub use options::{JoinOrder, KeyFilters, Options, Overflow, ReducerChoice, Transport, Usd};
pub use place::Place;
pub use query::{Param, Query, QueryBody, Split, Step, StepType};
pub use requests::Requests;
pub use spelling::names_in_table;
#[cfg(feature = "sql")]
pub use sql_length::SqlLength;
pub use store_error::{StoreAnswer, StoreSilent};
pub use structs::without_hidden_values;
pub use task::{
    ColumnMapping, DeletionVector, Delivered, Evaluation, FileSlice, HBeeTask, Partitioning, RowRun, ScanSpec,
    StoreRoot, TaskFile, TaskOutcome,
};

/// Identifies the build that sent a message. Hashes and plan bytes agree only between equal builds, so Fuse, HBees and
/// HCombs reject messages of another build. Packages are built with a hash of all sources in `BUZZ_BUILD`; the programs
/// on one machine are always built together.
pub const BUILD_ID: &str = match option_env!("BUZZ_BUILD") {
    Some(build) => build,
    None => concat!(env!("CARGO_PKG_VERSION"), "+df55"),
};

/// Stack of each thread that plans or runs queries, in bytes. Planning and running recurse into plans and expressions.
/// The default of 2 MiB was exhausted by expressions of 1,600 terms.
pub const THREAD_STACK_BYTES: usize = 16 << 20;

/// Marks, as a key in the metadata of a schema, rows of a continuous query that change earlier ones: they have the columns
/// `before`, `after` and `op`.
pub const CHANGES: &str = "buzz.changes";

/// The format of a sink that takes such rows.
pub const CHANGES_FORMAT: &str = "debezium_json";
