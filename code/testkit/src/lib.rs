//! Helpers for tests and benchmarks: real tables, fault injection, and comparison with plain DataFusion. For
//! development only.

mod collector;

mod compare;

mod contract;

mod distant;

mod faulty;

mod matrix;

mod mutate;

mod paths;

mod plain;

mod proxy;

mod shared;

mod slt_files;

mod tpch;

mod trace;

mod troubled;

pub use collector::{Collector, ReceivedSpan};
pub use compare::{Rows, disagreement, not_among};
pub use contract::{check_combs, check_compute};
pub use distant::{Asked, DistantStore};
pub use faulty::FaultyStore;
pub use matrix::{Cell, FaultMatrix};
pub use mutate::mutate;
pub use paths::{program, program_folder, target_folder, workspace_root};
pub use plain::{plain_rows, same_rows, sorted_text};
pub use proxy::SilentProxy;
pub use shared::{NO_SHARED_DATA, shared_data};
pub use slt_files::datafusion_slt_files;
pub use tpch::{TPCH_ANSWERS_SCALE, TPCH_TABLES, TpchStatement, tpch_statement, tpch_table};
pub use trace::check_one_trace;
pub use troubled::{StoreFault, StoreSwitch, TroubledStore};
