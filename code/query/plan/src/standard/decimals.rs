//! Literals that are compared with decimals.
//!
//! The planner reads `4.19` as a DOUBLE, and compares it with a decimal as DECIMAL(30, 15), in which it is
//! 4.190000000000000391: no decimal equals it. Here it becomes the decimal that was written. So does one in a list with whole numbers
//! that a DOUBLE does not hold: `b IN (9007199254740993, 0.5)`.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::operands::{compared, type_of};

/// Makes the DOUBLE literals that `expression` compares with a decimal, or with several long whole numbers, decimals.
pub(super) fn comparable(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    compared(expression, &|operands| {
        if !operands.iter().any(|operand| double(operand).is_some()) {
            return Ok(false);
        }
        for operand in operands.iter().filter(|operand| double(operand).is_none()) {
            let data_type = type_of(operand, schema)?;
            // A DOUBLE among the values makes the comparison one of DOUBLEs.
            if !data_type.is_decimal() && !data_type.is_integer() && !data_type.is_null() {
                return Ok(false);
            }
        }
        let mut decimals = operands.iter().filter(|operand| double(operand).is_none());
        let has_decimal =
            decimals.any(|operand| operand.get_type(schema).is_ok_and(|data_type| data_type.is_decimal()));
        // The order of one whole number and a short literal is that of DOUBLEs.
        if !has_decimal && (operands.len() < 3 || !operands.iter().any(is_long)) {
            return Ok(false);
        }
        // With many digits after the point, the other operands would not fit the longest decimal.
        let whole =
            operands.iter().filter_map(|operand| whole_digits(&operand.get_type(schema).ok()?)).max().unwrap_or(0);
        let fits = |value: &ScalarValue| match value {
            ScalarValue::Decimal128(_, _, scale) => *scale <= SCALE_OF_DOUBLE || whole + scale <= DECIMAL_DIGITS,
            _ => false,
        };
        let mut changed = false;
        for operand in operands.iter_mut() {
            if let Some(decimal) = double(operand).and_then(decimal).filter(fits) {
                *operand = Expr::Literal(decimal, None);
                changed = true;
            }
        }
        Ok(changed)
    })
}

/// Digits after the point with which a DOUBLE is compared with a decimal otherwise.
const SCALE_OF_DOUBLE: i8 = 15;
/// The largest whole number up to which a DOUBLE holds all of them.
const WHOLE_OF_DOUBLE: u64 = 1 << 53;
/// Digits of the longest decimal of 128 bits.
const DECIMAL_DIGITS: i8 = 38;

/// Checks if `operand` is a whole number that a DOUBLE does not tell from its neighbours.
fn is_long(operand: &Expr) -> bool {
    match operand {
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => value.unsigned_abs() >= WHOLE_OF_DOUBLE,
        Expr::Literal(ScalarValue::UInt64(Some(value)), _) => *value >= WHOLE_OF_DOUBLE,
        Expr::Negative(inner) => is_long(inner),
        _ => false,
    }
}

/// Returns the digits of a long whole number, or of a decimal before its point.
fn whole_digits(data_type: &DataType) -> Option<i8> {
    match data_type {
        DataType::Int64 => Some(19),
        DataType::UInt64 => Some(20),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => Some(i8::try_from(*precision).ok()?.saturating_sub(*scale)),
        _ => None,
    }
}

fn double(operand: &Expr) -> Option<f64> {
    match operand {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => Some(*value),
        Expr::Negative(inner) => double(inner).map(|value| -value),
        _ => None,
    }
}

/// Returns the shortest decimal that is read as `value`: the one that was written, if it had up to 15 digits.
fn decimal(value: f64) -> Option<ScalarValue> {
    let text = format!("{}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.trim_start_matches('0');
    let precision = u8::try_from((whole.len() + fraction.len()).max(1)).ok()?;
    if !value.is_finite() || precision > DECIMAL128_MAX_PRECISION {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let digits = if value.is_sign_negative() { -digits } else { digits };
    Some(ScalarValue::Decimal128(Some(digits), precision, i8::try_from(fraction.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_is_the_one_that_was_written() {
        let text = |value| decimal(value).map(|value| value.to_string());
        assert_eq!(decimal(4.19), Some(ScalarValue::Decimal128(Some(419), 3, 2)));
        assert_eq!(decimal(-116_054.83), Some(ScalarValue::Decimal128(Some(-11_605_483), 8, 2)));
        assert_eq!(decimal(0.05), Some(ScalarValue::Decimal128(Some(5), 2, 2)));
        assert_eq!(decimal(0.0), Some(ScalarValue::Decimal128(Some(0), 1, 0)));
        assert_eq!(decimal(1e20), Some(ScalarValue::Decimal128(Some(10_i128.pow(20)), 21, 0)));
        assert_eq!((text(1e300), text(1e-300), text(f64::NAN), text(f64::INFINITY)), (None, None, None, None));
    }
}
