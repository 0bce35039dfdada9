//! HBee as a Lambda function ([`hbee`]) and HComb as a Fargate task ([`comb`], [`certificate`]), and the modules that every process on
//! AWS uses: [`log`], [`metrics`], [`environment`], [`process`].
//!
//! HBees are started by the hundred, so these programs must be small: this crate and its dependencies use neither the
//! SQL parser, nor catalogs, nor the AWS SDK. Build it on its own (`cargo build --package buzz-worker`) to leave out
//! features that other crates enable in the same libraries.

pub mod log;

pub mod environment;

pub mod metrics;

pub mod process;

pub mod hbee;

pub mod certificate;

pub mod comb;
