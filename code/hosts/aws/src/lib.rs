//! AWS as a host: HBees are Lambda functions, combs are Fargate tasks.
//!
//! [`settings`] reads the environment, [`clients`] and [`credentials`] set up the SDK. [`lambda`] runs HBee tasks,
//! [`failure`] converts failed calls, [`combs`] finds and starts combs, [`results`] keeps objects that outlive an
//! invocation, and [`price`] estimates the cost of a query. Only this crate and the two doors that call Lambda
//! (`buzz-lambda`, `buzz-client`) name the SDK.

pub mod clients;
pub mod combs;
pub mod credentials;
pub mod failure;
pub mod lambda;
pub mod price;
pub mod results;
pub mod settings;
