//! Comparisons of a value that is cast to a type with fewer values.
//!
//! The optimizer moves the cast to the literal: `CAST(p AS INT) = 2` becomes `p = 2.00`, which is false for 2.50, and
//! `TRY_CAST(b AS INT) <> 1` becomes `b <> 1`, which is true where the cast is null. Here, such casts are hidden from it.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use buzz_kernel::{hidden, unit_nanoseconds};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Cast, Expr, TryCast};

use super::operands::compared;
use super::overflow::type_of;
use super::zones::is_utc;

/// Makes a cast of a function that the optimizer would make one of, after the rules of this module.
pub(super) fn plain(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(call) = &expression else { return Ok(Transformed::no(expression)) };
    let is_try = matches!(call.name(), "arrow_try_cast" | "try_cast_to_type");
    if !is_try && !matches!(call.name(), "arrow_cast" | "cast_to_type") {
        return Ok(Transformed::no(expression));
    }
    let [value, _] = call.args.as_slice() else { return Ok(Transformed::no(expression)) };
    let (value, to) = (Box::new(value.clone()), type_of(&expression, schema)?);
    Ok(Transformed::yes(if is_try { Expr::TryCast(TryCast::new(value, to)) } else { Expr::Cast(Cast::new(value, to)) }))
}

/// Hides the casts of `expression` that must not move to the other side of a comparison.
pub(super) fn kept(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    compared(expression, &|operands| {
        let mut changed = false;
        for operand in operands.iter_mut() {
            if stays(operand, schema)? {
                *operand = hidden().call(vec![operand.clone()]);
                changed = true;
            }
        }
        Ok(changed)
    })
}

/// Checks if a cast must stay, or one below it: the planner casts `CAST(p AS INT)` to BIGINT to compare it with `2`.
fn stays(operand: &Expr, schema: &DFSchema) -> Result<bool> {
    let (is_try, expr, field) = match operand {
        Expr::Cast(Cast { expr, field }) => (false, expr, field),
        Expr::TryCast(TryCast { expr, field }) => (true, expr, field),
        _ => return Ok(false),
    };
    if matches!(expr.as_ref(), Expr::Literal(..)) {
        return Ok(false);
    }
    let (from, to) = (type_of(expr, schema)?, field.data_type());
    // Between whole numbers, a cast that moves loses its error only, and keeps the bounds of files.
    let is_exact = !is_try && from.is_integer() && to.is_integer();
    Ok(!is_exact && narrows(&from, to) || stays(expr, schema)?)
}

/// Checks if a cast gives several values of a type the same value, or fails for some.
fn narrows(from: &DataType, to: &DataType) -> bool {
    if let (DataType::Timestamp(_, own), DataType::Timestamp(_, other)) = (from, to) {
        // The number of a timestamp without a zone is that of a local time.
        let is_local = own.is_some() != other.is_some() && !own.iter().chain(other).all(|zone| is_utc(zone));
        return is_local || unit_nanoseconds(from) < unit_nanoseconds(to);
    }
    match (digits(from), digits(to)) {
        (Some((whole, scale)), Some((to_whole, to_scale))) => {
            if from.is_integer() && to.is_integer() {
                return !holds(from, to);
            }
            whole > to_whole || scale > to_scale
        }
        _ => false,
    }
}

/// Returns the digits before and after the point.
fn digits(data_type: &DataType) -> Option<(i16, i16)> {
    Some(match data_type {
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::UInt64 => (20, 0),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let whole = i16::from(*precision) - i16::from(*scale);
            // The longest decimals are what the planner gives operands that need more: they fail where they do not fit.
            let whole = if *precision >= DECIMAL128_MAX_PRECISION { whole.max(19) } else { whole };
            (whole, i16::from(*scale))
        }
        _ => return None,
    })
}

/// Checks if the integer type `to` has all values of `from`.
fn holds(from: &DataType, to: &DataType) -> bool {
    let bits = |data_type: &DataType| data_type.primitive_width().unwrap_or_default();
    match (from.is_signed_integer(), to.is_signed_integer()) {
        (true, false) => false,
        (false, true) => bits(from) < bits(to),
        _ => bits(from) <= bits(to),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn casts_to_fewer_values_narrow() {
        use DataType::{Decimal128, Int8, Int32, Int64, Timestamp, UInt8, UInt32, UInt64, Utf8};
        let (seconds, micros) = (Timestamp(TimeUnit::Second, None), Timestamp(TimeUnit::Microsecond, None));
        let micros_in = |zone: &str| Timestamp(TimeUnit::Microsecond, Some(zone.into()));
        for (from, to) in [
            (micros.clone(), seconds.clone()),
            (micros_in("America/Denver"), micros.clone()),
            (micros.clone(), micros_in("+02:00")),
            (Int64, Int32),
            (Int32, UInt32),
            (UInt64, Int64),
            (UInt8, Int8),
            (Decimal128(10, 2), Int64),
            (Decimal128(10, 2), Decimal128(10, 1)),
            (Decimal128(10, 2), Decimal128(9, 2)),
            (Int64, Decimal128(18, 0)),
        ] {
            assert!(narrows(&from, &to), "{from} to {to}");
        }
        for (from, to) in [
            (micros_in("UTC"), micros.clone()),
            (micros_in("America/Denver"), micros_in("UTC")),
            (seconds, micros),
            (Int32, Int64),
            (UInt8, Int32),
            (UInt32, Int64),
            (Int64, Decimal128(20, 0)),
            (Int64, Decimal128(22, 2)),
            (Decimal128(10, 2), Decimal128(12, 4)),
            (Int64, Utf8),
            (Int64, Int64),
        ] {
            assert!(!narrows(&from, &to), "{from} to {to}");
        }
    }
}
