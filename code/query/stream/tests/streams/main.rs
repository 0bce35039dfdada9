//! Tests of continuous queries on batches in memory.

mod changes;
mod changing;
mod dialect;
mod differential;
mod harness;
mod lookup;
mod rows;
mod statements;
mod updating;
