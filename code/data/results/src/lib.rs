//! Writes the rows of an answer in one of several formats, for every way in.

pub mod format;

pub use format::WriteError;
