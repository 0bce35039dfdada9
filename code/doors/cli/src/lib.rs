//! The `buzz` command: asks the engine in this process, or that of a stack.
//!
//! `args` defines the arguments and [`ask`] executes them. `question` makes a question of the arguments, [`compose`] an
//! engine; `names` adds the registry of names; `watch` shows warnings and progress, `output` writes the rows, unless `interrupt` ends it. `shell` asks one question after the other.
//! `serve` puts a server together, and `kept` finds the file of its history. [`sample`] generates the sample table.

pub mod args;
pub mod ask;
pub mod compose;
mod interrupt;
mod kept;
mod mcp;
mod names;
pub mod output;
mod question;
pub mod sample;
mod serve;
mod shell;
pub mod stream;
mod tables;
mod terminal;
mod timeline;
mod watch;
