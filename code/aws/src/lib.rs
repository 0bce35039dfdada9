//! The roles as AWS runs them: Fuse and HBee as Lambda functions, HComb as a Fargate task.
//!
//! Three binaries do what only a process can ([`settings`], logging, clients) and call this library. [`event`] is what
//! Fuse is asked and [`fuse_function`] how it answers ([`answer`], [`price`]); [`lambda`] runs HBee tasks
//! ([`hbee_function`] on the other end, [`failure`] tells what went wrong), [`combs`] finds and starts combs
//! ([`comb_server`] on the other end), [`results`] keeps what outlives an invocation, and [`stack`] asks a stack from
//! outside, for the command line, which reads buckets with the usual keys ([`credentials`]). This is the only crate that names AWS's SDK.

pub mod settings;

pub mod clients;

pub mod credentials;

pub mod log;

pub mod event;

pub mod fuse_function;

pub mod answer;

pub mod price;

pub mod lambda;

pub mod failure;

pub mod hbee_function;

pub mod combs;

pub mod comb_server;

pub mod results;

mod counting;

pub mod stack;
