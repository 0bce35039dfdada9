//! Writes the rows of an answer in one of several formats, for every way in.
//!
//! [`mod@format`] has the entry points, and [`Written`] writes rows while they come. [`check()`] rejects columns that a format
//! cannot represent before the query runs. `table`, `csv`, `json`, `arrow_file` and `parquet_file` are the formats;
//! `parallel` encodes on several threads, `columns` converts columns, `times` checks dates and times.

mod arrow_file;
mod check;
mod columns;
mod csv;
pub mod format;
mod json;
mod parallel;
mod parquet_file;
mod stream;
mod table;
mod times;

pub use check::check;
pub use format::WriteError;
pub use stream::{Incoming, Written, not_writable, written};
pub use table::{Cut, Layout};
