//! Fuse as a Lambda function: a way in to the engine by events.
//!
//! [`FuseFunction`] receives the events of `buzz_engine::wire`, asks the engine (`asking`) and returns its answers
//! (`encode`, `upload`). An asynchronous query is stored and answered by another invocation, which the function starts
//! itself (`function`). The program puts the engine together from the parts of `buzz-aws`.

mod asking;
mod encode;
mod function;
mod upload;

pub use function::FuseFunction;
