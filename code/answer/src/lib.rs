//! Results of queries. [`Rows`] collects the rows until the result is complete, and [`mod@format`] writes them in one
//! of several formats. The command line and the Fuse function share this crate.

pub mod rows;

pub mod format;

pub use format::{Format, WriteError};
pub use rows::Rows;
