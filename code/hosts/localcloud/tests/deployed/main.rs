//! Tests a deployed Buzz in a local cloud: the real bootstraps and the real comb, queried with the `aws` command and
//! with `buzz --stack`. Rows are compared with those of plain DataFusion on the same files.

mod attacks;
mod chaos;
mod command;
#[path = "../common/mod.rs"]
mod common;
mod deployments;
mod engine;
mod estimates;
mod faults;
mod jobs;
mod matrix;
mod names;
mod network;
mod objects;
mod queries;
mod stack;
mod tls;
mod traces;
