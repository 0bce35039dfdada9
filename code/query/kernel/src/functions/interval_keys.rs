//! The functions `buzz_interval_key(interval)` and `buzz_interval_of_key(key)`: numbers that have the order of intervals by length.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Decimal256Array, IntervalMonthDayNanoArray};
use arrow::datatypes::{DataType, Decimal256Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, i256};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

use super::spans::{DAY, DAYS_PER_MONTH, computed};

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// The type of a key. The longest interval has 25 digits, and its months and days ten each.
const KEY: DataType = DataType::Decimal256(76, 0);

/// Larger than any number of months or days, less the smallest one.
const STEP: i128 = 10_000_000_000;

/// Returns the function that makes a number, Decimal256(76, 0), of an interval. Numbers have the order of the lengths of intervals;
/// those of one length are in the order of their months, then of their days.
pub fn interval_key() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        function("buzz_interval_key", (INTERVAL, KEY), |intervals| {
            let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
            let keys: Decimal256Array = intervals.iter().map(|interval| interval.map(key_of)).collect();
            Ok(Arc::new(keys.with_precision_and_scale(76, 0)?))
        })
    });
    Arc::clone(&FUNCTION)
}

/// Returns the function that makes the interval of a number of [`interval_key`].
pub fn interval_of_key() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        function("buzz_interval_of_key", (KEY, INTERVAL), |keys| {
            let keys = keys.as_primitive::<Decimal256Type>().iter();
            let intervals = keys.map(|key| key.map(interval_of).transpose());
            Ok(Arc::new(intervals.collect::<Result<IntervalMonthDayNanoArray>>()?))
        })
    });
    Arc::clone(&FUNCTION)
}

fn function(
    name: &str,
    (from, to): (DataType, DataType),
    convert: impl Fn(&dyn Array) -> Result<ArrayRef> + Send + Sync + 'static,
) -> Arc<ScalarUDF> {
    let call = move |args: &[ColumnarValue]| match args {
        [value] => computed(value, &convert),
        _ => internal_err!("the key of an interval is made of one value"),
    };
    Arc::new(create_udf(name, vec![from], to, Volatility::Immutable, Arc::new(call)))
}

/// Returns the nanoseconds of the months and days of an interval.
fn of_days(months: i128, days: i128) -> i128 {
    (months * i128::from(DAYS_PER_MONTH) + days) * i128::from(DAY)
}

fn key_of(interval: IntervalMonthDayNano) -> i256 {
    let (months, days) = (i128::from(interval.months), i128::from(interval.days));
    let length = of_days(months, days) + i128::from(interval.nanoseconds);
    let offset = -i128::from(i32::MIN);
    let rest = (months + offset) * STEP + days + offset;
    // Both factors are far from the bounds of 256 bits.
    i256::from_i128(length).wrapping_mul(i256::from_i128(STEP * STEP)).wrapping_add(i256::from_i128(rest))
}

fn interval_of(key: i256) -> Result<IntervalMonthDayNano> {
    let step = i256::from_i128(STEP * STEP);
    // Towards zero, while the rest is never negative.
    let length = key.checked_div(step).zip(key.checked_rem(step)).map(|(length, rest)| {
        if rest.is_negative() { (length.wrapping_sub(i256::ONE), rest.wrapping_add(step)) } else { (length, rest) }
    });
    let parts = length.and_then(|(length, rest)| {
        let (length, rest) = (length.to_i128()?, rest.to_i128()?);
        let offset = -i128::from(i32::MIN);
        let (months, days) = (rest / STEP - offset, rest % STEP - offset);
        let nanoseconds = i64::try_from(length - of_days(months, days)).ok()?;
        Some(IntervalMonthDayNano::new(i32::try_from(months).ok()?, i32::try_from(days).ok()?, nanoseconds))
    });
    match parts {
        Some(interval) => Ok(interval),
        None => internal_err!("{key} is not the key of an interval"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_order_of_lengths_and_hold_the_interval() {
        const HOUR: i64 = 3_600_000_000_000;
        let interval = IntervalMonthDayNano::new;
        let ordered = [
            interval(i32::MIN, i32::MIN, i64::MIN),
            interval(0, -2, 12 * HOUR),
            interval(0, -1, 0),
            interval(0, 0, -1),
            interval(0, 0, 0),
            interval(0, 0, 24 * HOUR),
            interval(0, 1, 0),
            interval(0, 0, 36 * HOUR),
            interval(0, 30, 0),
            interval(1, 0, 0),
            interval(1, 0, 1),
            interval(i32::MAX, i32::MAX, i64::MAX),
        ];
        let keys = ordered.map(key_of);
        assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] < pair[1]));
        for interval in ordered {
            assert_eq!(interval_of(key_of(interval)).unwrap(), interval);
        }
    }
}
