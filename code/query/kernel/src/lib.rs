//! DataFusion as every role uses it: sessions, the encoding of plans, the operators that a fragment may contain.

mod bounded;
mod codec;
mod early;
mod functions;
mod guard;
mod operators;
mod pieces;
mod roundtrip;
#[cfg(feature = "sql")]
mod session;
mod shares;
mod yielding;

pub use codec::{decode_fragment, decode_plan, decode_schema, encode_fragment, encode_plan, encode_schema};
pub use early::may_end_before;
pub use functions::{
    Arithmetic, aggregates, checked, checked_sum, hidden, in_zone, instant, instant_in, interval_key, interval_length,
    interval_of_key, interval_part, is_checked, like_pattern, multiply_interval, null_if, one_form, one_nan,
    plain_struct, round_time, rounded_time, scalar_functions, similar_pattern, single_row, unit_nanoseconds,
    with_one_nan, wrapping_sum,
};
pub use guard::{Guard, guarded, guarded_joins, guarded_joins_above, unpanicked_rows};
pub use roundtrip::lost_on_the_wire;
#[cfg(feature = "sql")]
pub use session::{planning_config, session, session_options};
pub use shares::{MemoryShares, OpenShare, QueryShare};
pub use yielding::yielding;
