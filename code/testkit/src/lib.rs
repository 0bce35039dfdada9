//! Helpers for tests and benchmarks: real tables, fault injection, and comparison with plain DataFusion. For
//! development only.

mod compare;

mod distant;

mod faulty;

mod plain;

mod proxy;

mod shared;

pub use compare::{Rows, disagreement, not_among};
pub use distant::{Asked, DistantStore};
pub use faulty::FaultyStore;
pub use plain::{plain_rows, same_rows, sorted_text};
pub use proxy::SilentProxy;
pub use shared::shared_data;
