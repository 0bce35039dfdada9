//! DataFusion as every role uses it: sessions, the encoding of plans, the operators that a fragment may contain.

mod bounded;
mod codec;
mod guard;
mod operators;
mod roundtrip;
#[cfg(feature = "sql")]
mod session;
mod single_row;
mod yielding;

pub use bounded::bounded_functions;
pub use codec::{decode_fragment, decode_schema, encode_fragment, encode_schema};
pub use guard::{Guard, guarded, guarded_joins, guarded_joins_above, unpanicked_rows};
pub use roundtrip::lost_on_the_wire;
#[cfg(feature = "sql")]
pub use session::{planning_config, session, session_options};
pub use single_row::single_row;
pub use yielding::yielding;
