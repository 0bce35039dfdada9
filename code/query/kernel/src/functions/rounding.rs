//! `round` and `trunc` of doubles without an intermediate result that is infinite.
//!
//! DataFusion multiplies by a power of ten, rounds and divides: `round(1e300, 10)` was infinite, and `trunc(x, 400)` was NaN. A number
//! that is too large to be multiplied has no digits behind the point.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

/// Places beyond which a double and a decimal no longer change.
const PLACES_MAX: i64 = 400;

/// Bounds the places of `trunc(number, places)`, which DataFusion takes modulo 2³².
pub(super) fn bound_places(args: &mut [ColumnarValue]) {
    let bounded = |places: i64| places.clamp(-PLACES_MAX, PLACES_MAX);
    match args.get_mut(1) {
        Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(places)))) => *places = bounded(*places),
        Some(ColumnarValue::Array(places)) => {
            if let Some(counts) = places.as_primitive_opt::<Int64Type>() {
                let counts: Int64Array = counts.unary(bounded);
                *places = Arc::new(counts);
            }
        }
        _ => {}
    }
}

/// Returns the doubles that were computed of a number and its places, `args`, and mends those that are not finite though the number is.
/// Other types than doubles stay.
pub(super) fn finite(args: &[ColumnarValue], computed: ColumnarValue) -> Result<ColumnarValue> {
    let Some(number) = args.first() else { return Ok(computed) };
    let data_type = computed.data_type();
    if number.data_type() != data_type || !matches!(data_type, DataType::Float32 | DataType::Float64) {
        return Ok(computed);
    }
    let (rows, is_scalar) = match &computed {
        ColumnarValue::Array(array) => (array.len(), false),
        ColumnarValue::Scalar(_) => (1, true),
    };
    let numbers = number.to_array(rows)?;
    let computed = computed.into_array(rows)?;
    let places = match args.get(1) {
        Some(places) => cast(&places.to_array(rows)?, &DataType::Int64)?,
        None => Arc::new(Int64Array::from_value(0, rows)),
    };
    let places = places.as_primitive::<Int64Type>();
    let mended = match data_type {
        DataType::Float64 => mended::<Float64Type>(&numbers, &computed, places, f64::is_finite),
        _ => mended::<Float32Type>(&numbers, &computed, places, f32::is_finite),
    };
    if is_scalar {
        return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&mended, 0)?));
    }
    Ok(ColumnarValue::Array(mended))
}

/// Returns `computed` with the number itself where that is finite and the result is not, or zero where the result is NaN and digits
/// before the point are dropped: the power of ten was zero.
fn mended<T: ArrowPrimitiveType>(
    numbers: &ArrayRef,
    computed: &ArrayRef,
    places: &Int64Array,
    is_finite: fn(T::Native) -> bool,
) -> ArrayRef {
    let found = computed.as_primitive::<T>();
    if found.values().iter().all(|value| is_finite(*value)) {
        return Arc::clone(computed);
    }
    let rows = numbers.as_primitive::<T>().iter().zip(found.iter()).zip(places.iter());
    let values: PrimitiveArray<T> = rows
        .map(|((number, found), places)| match (number, found) {
            (Some(number), Some(found)) if is_finite(number) && !is_finite(found) => {
                let is_nan = found.partial_cmp(&found).is_none();
                let drops_all = is_nan && places.is_some_and(|places| places < 0);
                Some(if drops_all { T::default_value() } else { number })
            }
            (_, found) => found,
        })
        .collect();
    Arc::new(values)
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    #[test]
    fn results_of_finite_numbers_are_finite() {
        let array = |values: Vec<Option<f64>>| ColumnarValue::Array(Arc::new(Float64Array::from(values)));
        let numbers = array(vec![Some(1e300), Some(f64::INFINITY), None, Some(1.25), Some(5.0), Some(5.0)]);
        let places = ColumnarValue::Array(Arc::new(Int64Array::from(vec![10, 1, 1, 1, -400, 400])));
        let nan = Some(f64::NAN);
        let computed = array(vec![Some(f64::INFINITY), Some(f64::INFINITY), None, Some(1.3), nan, nan]);
        let ColumnarValue::Array(found) = finite(&[numbers, places], computed).unwrap() else { panic!("a scalar") };
        let expected = [Some(1e300), Some(f64::INFINITY), None, Some(1.3), Some(0.0), Some(5.0)];
        assert_eq!(found.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), expected);
        let scalar = |value| ColumnarValue::Scalar(ScalarValue::Float64(Some(value)));
        let found = finite(&[scalar(1e300)], scalar(f64::INFINITY)).unwrap();
        assert!(matches!(found, ColumnarValue::Scalar(ScalarValue::Float64(Some(value))) if value == 1e300));
    }

    #[test]
    fn places_of_more_than_32_bits_are_bounded() {
        let mut args = [
            ColumnarValue::Scalar(ScalarValue::Float64(Some(1.5))),
            ColumnarValue::Scalar(ScalarValue::Int64(Some(1 << 32))),
        ];
        bound_places(&mut args);
        assert!(matches!(args[1], ColumnarValue::Scalar(ScalarValue::Int64(Some(PLACES_MAX)))));
        args[1] = ColumnarValue::Array(Arc::new(Int64Array::from(vec![i64::MIN, 2])));
        bound_places(&mut args);
        let ColumnarValue::Array(places) = &args[1] else { panic!("a scalar") };
        assert_eq!(places.as_primitive::<Int64Type>().values(), &[-PLACES_MAX, 2]);
    }
}
