//! Stand-ins for the cloud services that Buzz uses, on one machine: for tests and for looking.
//!
//! A [`LocalCloud`] is one HTTP endpoint with three services behind it: [`s3`], a folder; [`lambda`], which runs real
//! bootstraps as processes within the service's limits; [`ecs`], which runs the real `hcomb`. [`stack`] says what a
//! deployed Buzz consists of. Nothing outlives a local cloud ([`process`]).

mod account;
mod body;
mod cloud;
pub mod ecs;
pub mod lambda;
mod process;
mod s3;
pub mod stack;
pub mod upload;

pub(crate) use account::Account;
pub use account::{ACCESS_KEY, ACCOUNT, REGION, SECRET_KEY, client_environment};
pub use cloud::{LocalCloud, Setup};
