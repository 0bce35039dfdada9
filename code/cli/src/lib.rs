//! The `buzz` command: runs queries in one process, or on a stack.
//!
//! - [`args`] defines the arguments and [`ask`] executes them.
//! - [`local`] runs Fuse, HBees and combs in this process; `remote` sends the query to a stack on AWS.
//! - [`rows`] collects the result and [`output`] writes it.
//! - [`sample`] generates the sample table.

pub mod args;

pub mod ask;

pub mod local;

pub use buzz_answer::rows;

pub mod output;

pub mod sample;

pub mod stream;

mod watch;

#[cfg(feature = "stack")]
mod remote;
