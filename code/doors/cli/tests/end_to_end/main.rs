//! Runs complete queries on the complete engine, on generated tables, and compares the rows with plain DataFusion.

#[path = "../common/mod.rs"]
mod common;

mod buckets;

mod busy;

mod chaos;

mod collected;

mod command;

mod contract;

mod drift;

mod engine;

mod errors;

mod estimate;

mod examples;

mod explain;

mod faults;

mod files;

mod folders;

mod full_disk;

mod flowing;

mod inline;

mod join_order;

mod key_filters;

mod limits;

mod matrix;

mod mcp;

mod memory;

mod names;

mod objects;

mod outputs;

mod panics;

mod queries;

mod reuse;

mod scopes;

mod shell;

mod snapshots;

mod sql;

mod standard;

mod statements;

mod statistics;

mod tables;

mod text;
mod text_types;

mod traces;
