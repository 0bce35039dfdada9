//! What every process of Buzz on AWS has ([`log`], [`environment`], [`counting`], [`process`]), and the HBee function,
//! which has nothing else.
//!
//! HBees are started by the hundred, so their program is small: this crate and what it builds on name neither the SQL
//! parser nor a catalog nor AWS's SDK. Built on its own (`cargo build --package buzz-function`), without the features that
//! the other crates ask of the same libraries, it has none of their code.

pub mod log;

pub mod environment;

pub mod counting;

pub mod process;

pub mod hbee;
