//! Whole queries on the whole engine, on tables that are made here, compared with plain DataFusion.

#[path = "../common/mod.rs"]
mod common;

mod buckets;

mod command;

mod errors;

mod faults;

mod files;

mod flowing;

mod inline;

mod queries;

mod sql;

mod statistics;

mod tables;
