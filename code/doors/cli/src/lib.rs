//! The `buzz` command: everything put together on one machine.
//!
//! [`args`] says what can be asked, [`ask`] asks it, [`local`] is the host (functions and combs in this process),
//! [`rows`] keeps the answer, [`output`] says where it goes, `remote` asks a stack on AWS instead, [`sample`] generates the sample table.

pub mod args;

pub mod ask;

pub mod local;

pub use buzz_answer::rows;

pub mod output;

pub mod sample;

mod watch;

#[cfg(feature = "stack")]
mod remote;
