//! The `buzz` command: everything put together on one machine.
//!
//! [`args`] says what can be asked, [`ask`] asks it, [`local`] is the host (functions and combs in this process),
//! [`rows`] keeps the answer, [`format`](mod@format) writes it, [`sample`] generates the sample table.

pub mod args;

pub mod ask;

pub mod local;

pub mod rows;

pub mod format;

pub mod sample;

mod watch;
