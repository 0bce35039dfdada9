//! The roles as AWS runs them: Fuse and HBee as Lambda functions, HComb as a Fargate task.
//!
//! Fuse's binary does what only a process can ([`settings`], clients) and calls this library; those of HBee and HComb are
//! in `buzz-worker`. [`event`] is what Fuse is asked and [`fuse_function`] how it answers ([`answer`], [`price`]);
//! [`lambda`] runs HBee tasks ([`failure`] tells what went wrong), [`combs`] finds and starts combs,
//! [`results`] keeps what outlives an invocation, and [`stack`] asks a stack from outside, for the command
//! line, which reads buckets with the usual keys ([`credentials`]). This is the only crate that names AWS's SDK.

pub mod settings;

pub mod clients;

pub mod credentials;

pub mod event;

pub mod fuse_function;

pub mod answer;

pub mod price;

pub mod lambda;

pub mod failure;

pub mod combs;

pub mod results;

pub mod stack;
