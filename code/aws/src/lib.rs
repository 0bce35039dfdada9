//! Buzz on AWS: Fuse and HBee are Lambda functions, an HComb is a Fargate task.
//!
//! Fuse's binary reads [`settings`], creates [`clients`] and calls this library. The binaries of HBee and HComb are in
//! `buzz-worker`.
//!
//! - [`event`] parses the events of Fuse and [`fuse_function`] answers them ([`answer`], [`price`]).
//! - [`lambda`] runs HBee tasks, and [`failure`] converts failed calls to errors.
//! - [`combs`] finds and starts combs.
//! - [`results`] stores objects that outlive an invocation.
//! - [`stack`] is the client of a stack for the command line, which reads buckets with [`credentials`].
//!
//! This is the only crate that depends on the AWS SDK.

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
