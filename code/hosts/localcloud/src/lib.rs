//! Emulates the cloud services that Buzz uses on one machine, for tests and for local use.
//!
//! A [`LocalCloud`] serves three services on one HTTP endpoint:
//! - [`s3`] stores objects in a folder.
//! - [`lambda`] runs the real bootstraps as processes, within the limits of the service.
//! - [`ecs`] runs the real `hcomb`.
//!
//! [`stack`] defines the functions, tasks and buckets of a deployed Buzz. All processes end with their local cloud
//! ([`process`]).

mod account;
mod body;
mod clock;
mod cloud;
mod connections;
pub mod ecs;
mod keys;
pub mod lambda;
mod process;
pub mod s3;
pub mod stack;
pub mod upload;

/// Decides at random, true in `percent` of 100 cases.
pub(crate) fn by_chance(percent: u8) -> bool {
    percent > 0 && rand::random::<f64>() * 100.0 < f64::from(percent)
}

pub(crate) use account::Account;
pub use account::{ACCESS_KEY, ACCOUNT, REGION, SECRET_KEY, client_environment};
pub use cloud::{LocalCloud, Setup};
pub use connections::Freeze;
pub use keys::Keys;
