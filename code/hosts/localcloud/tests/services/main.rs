//! Tests the emulated services on their own, with small programs as functions and containers and with real clients.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod ecs;
mod keys;
mod lambda;
mod processes;
mod s3;
