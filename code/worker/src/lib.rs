//! The workers as AWS runs them, HBee as a Lambda function ([`hbee`]) and HComb as a Fargate task ([`comb`]), and what every
//! process there has: [`log`], [`environment`], [`counting`], [`process`].
//!
//! Workers are started by the hundred, so their programs are small: this crate and what it builds on name neither the SQL
//! parser nor a catalog nor AWS's SDK. Built on its own (`cargo build --package buzz-worker`), without the features that
//! other crates ask of the same libraries, it has none of their code.

pub mod log;

pub mod environment;

pub mod counting;

pub mod process;

pub mod hbee;

pub mod comb;
