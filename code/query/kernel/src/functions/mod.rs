//! Functions that Buzz adds to those of DataFusion, or that replace one of them. Plans refer to functions by name, so
//! every session that plans, decodes or runs a plan must have them.

mod arithmetic;
mod hidden;
mod instants;
mod intervals;
mod patterns;
mod single_row;
mod spans;
mod sum;
mod wide_sum;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub use arithmetic::{Arithmetic, checked, is_checked};
pub use hidden::hidden;
pub use instants::{instant, round_time, rounded_time, unit_nanoseconds};
pub use intervals::multiply_interval;
pub use patterns::{like_pattern, similar_pattern};
pub use single_row::single_row;
pub use spans::{interval_length, interval_part};
pub use sum::{checked_sum, wrapping_sum};

use crate::bounded::bounded_functions;

/// Returns the scalar functions.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let arithmetic = [Arithmetic::Add, Arithmetic::Subtract, Arithmetic::Multiply].map(checked);
    let intervals = [multiply_interval(), interval_length(), interval_part()];
    let others = [single_row(), like_pattern(), similar_pattern(), hidden(), instant(), rounded_time()];
    arithmetic.into_iter().chain(intervals).chain(others).chain(bounded_functions()).collect()
}

/// Returns the aggregates.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    vec![checked_sum(), wrapping_sum()]
}
