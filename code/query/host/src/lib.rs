//! A host: the place where queries run, as one value.
//!
//! The cloud and one machine differ in three traits: [`Compute`] runs tasks, [`Combs`] has combs ready, and a
//! [`Network`] reaches them. Stores are the fourth part, and the place of exchanged objects the fifth. Everything above
//! takes a [`Host`] and does not know which one it is.

mod cache;
mod objects;
mod seams;

use std::sync::Arc;

use buzz_exchange::Network;
use buzz_storage::Stores;

pub use cache::{KeyHash, ResultCache};
pub use objects::ObjectRoot;
pub use seams::{Combs, Compute, Pace, Refused};

/// The place where queries run. Cloning it shares its parts.
#[derive(Debug, Clone)]
pub struct Host {
    /// Stores that tables are read from.
    pub stores: Arc<Stores>,
    /// Runs tasks.
    pub compute: Arc<dyn Compute>,
    /// Has combs ready.
    pub combs: Arc<dyn Combs>,
    /// Reaches the combs.
    pub network: Arc<dyn Network>,
    /// Results of earlier queries, for the option `reuse`. `None` if there is no place for them.
    pub cache: Option<Arc<ResultCache>>,
    /// The place of the objects through which tasks may deliver rows.
    pub objects: Arc<ObjectRoot>,
}
