//! Runs complete queries on the complete engine, on generated tables, and compares the rows with plain DataFusion.

#[path = "../common/mod.rs"]
mod common;

mod buckets;

mod busy;

mod command;

mod contract;

mod engine;

mod errors;

mod examples;

mod explain;

mod faults;

mod files;

mod flowing;

mod inline;

mod limits;

mod memory;

mod panics;

mod queries;

mod snapshots;

mod sql;

mod statistics;

mod tables;
