//! The stand-ins by themselves, with small programs behind them and the real clients in front.

mod clients;
mod ecs;
mod lambda;
mod processes;
mod s3;
