//! Writes the rows of an answer in one of several formats, for every way in.
//!
//! [`mod@format`] has the entry points. [`check()`] rejects columns that a format cannot represent before the query runs.
//! `table`, `csv`, `json` and `binary` are the formats; `columns` converts columns for them, `times` checks dates and times.

mod binary;
mod check;
mod columns;
mod csv;
pub mod format;
mod json;
mod table;
mod times;

pub use check::check;
pub use format::WriteError;
pub use table::{Cut, Layout};
