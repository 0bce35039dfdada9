//! Places in stores, and the only place where object stores are made.
//!
//! A [`Location`] is a store and a path within it. [`Stores`] belongs to a process and shares stores between queries;
//! [`QueryStores`] is one query's view of them, with its options for buckets, and serves DataFusion as an
//! `ObjectStoreRegistry`. No other crate names a kind of storage.

mod access;
mod counting;
mod footer;
mod http;
mod location;
mod lossless;
mod region;
mod s3;
mod segments;
mod several;
mod steady;
mod stores;
mod synced;
pub mod text;
mod unchanged;

use std::time::Duration;

pub use access::Access;
pub use footer::{INT96_UNIT, footer, footer_schema, reader_panicked, unpanicked};
pub use location::Location;
pub use lossless::lossless;
pub use segments::{SegmentRange, SegmentWriter, read_segment};
pub use several::{SEVERAL_STORES, full_path, is_in_bucket, path_among_stores, several_stores};
pub use stores::{QueryStores, Stores};
pub use synced::{is_disk_full, synced_folder};
pub use unchanged::UnchangedStore;

/// Retries of a request before the store counts as unavailable, and the time that all of them may take.
const RETRIES: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
