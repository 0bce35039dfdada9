//! The stand-ins by themselves, with small programs behind them and the real clients in front.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod ecs;
mod lambda;
mod processes;
mod s3;
