//! Runs continuous queries in a process: a script until it ends, or the jobs of a server.
//!
//! - [`run()`] is the loop of one script. `start` opens a pipeline in its state, `runner` runs an epoch, and `commit` ends it:
//!   state files, the record, and the rows in the sinks (`publish`, `outbox`). `summary` counts.
//! - `plan` turns a script into a pipeline with its sources and sinks, which it finds in a [`Process`].
//! - `json` translates the JSON form of a query to a script; `unique` refuses keys that it has twice.
//! - `store` is where state is kept.
//! - `jobs` keeps the pipelines of a server: [`Jobs`]. `live` has their figures, `graph` their stages, and `thread` their threads.

mod commit;
mod graph;
pub mod jobs;
mod json;
mod live;
mod notes;
mod outbox;
mod plan;
mod process;
mod publish;
mod run;
mod runner;
mod start;
pub mod store;
mod summary;
mod thread;
mod unchanged;
mod unique;

pub use jobs::Jobs;
pub use json::script_of;
pub use live::Figures;
pub use notes::Notes;
pub use process::{MakeSink, Printed, Process};
pub use run::{Run, describe, existing, run};
