//! Answers: [`Rows`] keeps the rows of one until it is whole, [`mod@format`] writes them in the form that was asked for.
//! The command line and Fuse as a function share this.

pub mod rows;

pub mod format;

pub use format::{Format, WriteError};
pub use rows::Rows;
