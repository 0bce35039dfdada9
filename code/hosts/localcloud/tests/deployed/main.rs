//! Buzz as it is deployed, in a local cloud: the real bootstraps and the real comb, asked with the `aws` command and with
//! `buzz --stack`. Rows are compared with plain DataFusion's over the same files.

mod command;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod jobs;
mod queries;
mod stack;
