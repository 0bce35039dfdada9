//! Tests on a store in memory: each decision once, without randomness. The simulator has the combinations.

mod epochs;
mod sources;
