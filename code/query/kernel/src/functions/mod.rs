//! Functions that Buzz adds to those of DataFusion, or that replace one of them. Plans refer to functions by name, so
//! every session that plans, decodes or runs a plan must have them.

mod arithmetic;
mod bins;
mod doubles;
mod extremes;
mod hidden;
mod instants;
mod interval_keys;
mod intervals;
mod mended;
mod null_if;
mod patterns;
mod rounding;
mod single_row;
mod spans;
mod structs;
mod sum;
mod truncation;
mod wide_sum;
mod zones;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub use arithmetic::{Arithmetic, checked, is_checked};
pub use doubles::{one_form, one_nan, with_one_nan};
pub use hidden::hidden;
pub use instants::{instant, instant_in, round_time, rounded_time, unit_nanoseconds};
pub use interval_keys::{interval_key, interval_of_key};
pub use intervals::multiply_interval;
pub use null_if::null_if;
pub use patterns::{like_pattern, similar_pattern};
pub use single_row::single_row;
pub use spans::{interval_length, interval_part};
pub use structs::plain_struct;
pub use sum::{checked_sum, wrapping_sum};
pub use zones::in_zone;

use self::extremes::extremes;
use self::mended::mended_functions;
use crate::bounded::bounded_functions;

/// Returns the scalar functions.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let arithmetic = [Arithmetic::Add, Arithmetic::Subtract, Arithmetic::Multiply].map(checked);
    let intervals = [multiply_interval(), interval_length(), interval_part(), interval_key(), interval_of_key()];
    let others = [
        single_row(),
        like_pattern(),
        similar_pattern(),
        hidden(),
        instant(),
        instant_in(),
        rounded_time(),
        null_if(),
        one_form(),
        one_nan(),
        in_zone(),
        plain_struct(),
    ];
    arithmetic.into_iter().chain(intervals).chain(others).chain(mended_functions()).chain(bounded_functions()).collect()
}

/// Returns the aggregates.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    [checked_sum(), wrapping_sum()].into_iter().chain(extremes()).collect()
}
