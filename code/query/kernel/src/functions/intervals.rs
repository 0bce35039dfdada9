//! The function `buzz_multiply_interval(interval, number)`, for which DataFusion has no operator.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};
use buzz_protocol::QueryError;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::scalar::ScalarValue;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

const DAYS_PER_MONTH: f64 = 30.0;
const NANOSECONDS_PER_DAY: f64 = 86_400e9;

/// Returns the function that multiplies an interval by a whole number (Int64) or by another number (Float64). A fraction
/// of a month counts as days of a month of 30 days, and a fraction of a day as hours of a day of 24 hours.
pub fn multiply_interval() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let of = |number| TypeSignature::Exact(vec![INTERVAL, number]);
        let signature = Signature::one_of(vec![of(DataType::Int64), of(DataType::Float64)], Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(MultiplyInterval { signature }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MultiplyInterval {
    signature: Signature,
}

impl ScalarUDFImpl for MultiplyInterval {
    fn name(&self) -> &'static str {
        "buzz_multiply_interval"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [intervals, numbers] = arrays.as_slice() else {
            return internal_err!("buzz_multiply_interval takes an interval and a number");
        };
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>().iter();
        let product: IntervalMonthDayNanoArray = match numbers.data_type() {
            DataType::Int64 => {
                let rows = intervals.zip(numbers.as_primitive::<Int64Type>());
                rows.map(|row| product(row, by_whole)).collect::<Result<_>>()?
            }
            _ => {
                let rows = intervals.zip(numbers.as_primitive::<Float64Type>());
                rows.map(|row| product(row, by_fraction)).collect::<Result<_>>()?
            }
        };
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&product, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(product) as ArrayRef))
    }
}

fn product<N: Copy + std::fmt::Display>(
    (interval, number): (Option<IntervalMonthDayNano>, Option<N>),
    compute: impl Fn(IntervalMonthDayNano, N) -> Option<IntervalMonthDayNano>,
) -> Result<Option<IntervalMonthDayNano>> {
    let (Some(interval), Some(number)) = (interval, number) else { return Ok(None) };
    let product = compute(interval, number);
    let product = product.ok_or_else(|| QueryError::invalid(format!("an interval times {number} is too long")));
    product.map(Some).map_err(QueryError::into_datafusion)
}

fn by_whole(interval: IntervalMonthDayNano, number: i64) -> Option<IntervalMonthDayNano> {
    let short = |count: i32| i32::try_from(i64::from(count).checked_mul(number)?).ok();
    let nanoseconds = interval.nanoseconds.checked_mul(number)?;
    Some(IntervalMonthDayNano::new(short(interval.months)?, short(interval.days)?, nanoseconds))
}

fn by_fraction(interval: IntervalMonthDayNano, number: f64) -> Option<IntervalMonthDayNano> {
    let months = f64::from(interval.months) * number;
    let days = f64::from(interval.days) * number + months.fract() * DAYS_PER_MONTH;
    let nanoseconds = interval.nanoseconds as f64 * number + days.fract() * NANOSECONDS_PER_DAY;
    // Fractions of a microsecond come from the number, not from the interval.
    let nanoseconds = (nanoseconds / 1000.0).round() * 1000.0;
    let short = |count: f64| (count.abs() <= f64::from(i32::MAX)).then_some(count.trunc() as i32);
    let long = (nanoseconds.abs() < i64::MAX as f64).then_some(nanoseconds as i64);
    Some(IntervalMonthDayNano::new(short(months)?, short(days)?, long?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_become_smaller_units() {
        let interval = IntervalMonthDayNano::new;
        assert_eq!(by_whole(interval(1, 2, 3), -4), Some(interval(-4, -8, -12)));
        assert_eq!(by_whole(interval(1, 0, 0), i64::MAX), None);
        assert_eq!(by_fraction(interval(1, 0, 0), 1.5), Some(interval(1, 15, 0)));
        assert_eq!(by_fraction(interval(0, 1, 0), 0.25), Some(interval(0, 0, 6 * 3_600_000_000_000)));
        assert_eq!(by_fraction(interval(0, 0, 1000), f64::INFINITY), None);
    }
}
