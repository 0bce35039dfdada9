//! Tests of continuous queries on batches in memory.

mod differential;
mod harness;
mod rows;
mod statements;
