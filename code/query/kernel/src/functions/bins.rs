//! `date_bin` of times before 1677 and after 2262.
//!
//! DataFusion computes in nanoseconds of 64 bits, and returns null for a time that these cannot hold.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType};
use buzz_protocol::QueryError;
use chrono::{DateTime, Datelike, Months, Utc};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::instants::{instant_of, time_of, unit_nanoseconds};
use super::spans::DAY;

/// Computes the `bins` that are null because their times, the second of `args`, are beyond 64 bits of nanoseconds.
///
/// # Errors
/// `Invalid` if the type of the times does not hold a bin.
pub(super) fn beyond_nanoseconds(args: &[ColumnarValue], bins: ColumnarValue) -> Result<ColumnarValue> {
    let [ColumnarValue::Scalar(width), time, origin @ ..] = args else { return Ok(bins) };
    let data_type = time.data_type();
    let (DataType::Timestamp(..), Some(unit)) = (&data_type, unit_nanoseconds(&data_type)) else { return Ok(bins) };
    let origin = match origin {
        [] => 0,
        [ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(origin), _))] => *origin,
        _ => return Ok(bins),
    };
    let Some(width) = Width::of(width) else { return Ok(bins) };
    let start = |count: i64| {
        let start = width.start(i128::from(count) * i128::from(unit), i128::from(origin));
        let count = start.and_then(|start| i64::try_from(start.div_euclid(i128::from(unit))).ok());
        count.ok_or_else(|| {
            QueryError::invalid(format!("`date_bin`: a bin begins beyond the range of {data_type}")).into_datafusion()
        })
    };
    match (time, bins) {
        (ColumnarValue::Array(times), ColumnarValue::Array(bins)) => {
            Ok(ColumnarValue::Array(with_starts(times, bins, &start)?))
        }
        (ColumnarValue::Scalar(time), ColumnarValue::Scalar(bin)) => {
            let starts = with_starts(&time.to_array()?, bin.to_array()?, &start)?;
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&starts, 0)?))
        }
        (_, bins) => Ok(bins),
    }
}

/// Returns `bins`, with the `start` of the bin of each time that has none.
fn with_starts(times: &ArrayRef, bins: ArrayRef, start: &dyn Fn(i64) -> Result<i64>) -> Result<ArrayRef> {
    if bins.null_count() == times.null_count() {
        return Ok(bins);
    }
    let (times, counts) = (cast(times, &DataType::Int64)?, cast(&bins, &DataType::Int64)?);
    let both = times.as_primitive::<Int64Type>().iter().zip(counts.as_primitive::<Int64Type>());
    let starts = both.map(|(time, bin)| match (time, bin) {
        (Some(time), None) => start(time).map(Some),
        (_, bin) => Ok(bin),
    });
    let starts: Int64Array = starts.collect::<Result<Vec<_>>>()?.into();
    Ok(cast(&starts, bins.data_type())?)
}

/// The width of bins. It is not zero.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    Nanoseconds(i128),
    Months(i64),
}

impl Width {
    /// Returns the width of an interval that has months only or none. `None` for null and zero.
    fn of(interval: &ScalarValue) -> Option<Self> {
        let (months, days, nanoseconds) = match interval {
            ScalarValue::IntervalMonthDayNano(Some(interval)) => IntervalMonthDayNanoType::to_parts(*interval),
            ScalarValue::IntervalDayTime(Some(interval)) => {
                let (days, milliseconds) = IntervalDayTimeType::to_parts(*interval);
                (0, days, i64::from(milliseconds) * 1_000_000)
            }
            _ => return None,
        };
        let width = i128::from(days) * i128::from(DAY) + i128::from(nanoseconds);
        match months {
            0 => Some(Self::Nanoseconds(width)).filter(|_| width != 0),
            months => Some(Self::Months(i64::from(months))),
        }
    }

    /// Returns the start of the bin of `time`, if bins are counted from `origin`. All are nanoseconds since 1970. `None` if the
    /// calendar does not have it.
    fn start(self, time: i128, origin: i128) -> Option<i128> {
        match self {
            // DataFusion rounds towards the origin if the width is negative.
            Self::Nanoseconds(width) if width < 0 => Some(origin + (time - origin) / width * width),
            Self::Nanoseconds(width) => Some(origin + (time - origin).div_euclid(width) * width),
            Self::Months(width) => {
                let (time, from) = (time_of(time)?, time_of(origin)?);
                let month = |time: DateTime<Utc>| i64::from(time.year()) * 12 + i64::from(time.month0());
                let apart = month(time) - month(from);
                let bins = if width < 0 { apart / width } else { apart.div_euclid(width) };
                let start = after(from, bins.checked_mul(width)?)?;
                let start = if start > time { after(from, (bins - 1).checked_mul(width)?)? } else { start };
                Some(instant_of(start))
            }
        }
    }
}

/// Returns the time `months` after `time`.
fn after(time: DateTime<Utc>, months: i64) -> Option<DateTime<Utc>> {
    let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    if months < 0 { time.checked_sub_months(count) } else { time.checked_add_months(count) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::IntervalMonthDayNano;

    use super::*;

    fn interval(months: i32, days: i32, nanoseconds: i64) -> ColumnarValue {
        let interval = IntervalMonthDayNano::new(months, days, nanoseconds);
        ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval)))
    }

    fn micros(times: &[Option<&str>]) -> ArrayRef {
        let of = |text: &str| chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap().and_utc();
        let times = times.iter().map(|time| time.map(|text| of(text).timestamp_micros()));
        Arc::new(TimestampMicrosecondArray::from(times.collect::<Vec<_>>()))
    }

    #[track_caller]
    fn assert_bins(width: ColumnarValue, starts: &[Option<&str>]) {
        let times = [Some("9999-12-31 10:20:30"), None, Some("2024-07-01 12:00:00"), Some("1600-02-29 23:59:59")];
        // The bin of 2024 was computed.
        let bins = micros(&[None, None, Some("2024-01-01 00:00:00"), None]);
        let args = [width, ColumnarValue::Array(micros(&times))];
        let ColumnarValue::Array(found) = beyond_nanoseconds(&args, ColumnarValue::Array(bins)).unwrap() else {
            panic!("not an array")
        };
        assert_eq!(&found, &micros(starts));
    }

    #[test]
    fn bins_of_all_times_have_a_start() {
        let computed = Some("2024-01-01 00:00:00");
        let hour = 3_600_000_000_000;
        assert_bins(interval(0, 0, hour), &[Some("9999-12-31 10:00:00"), None, computed, Some("1600-02-29 23:00:00")]);
        // Bins of weeks begin on Thursdays, as 1970 did.
        assert_bins(interval(0, 7, 0), &[Some("9999-12-30 00:00:00"), None, computed, Some("1600-02-24 00:00:00")]);
        assert_bins(interval(3, 0, 0), &[Some("9999-10-01 00:00:00"), None, computed, Some("1600-01-01 00:00:00")]);
        assert_bins(interval(1200, 0, 0), &[Some("9970-01-01 00:00:00"), None, computed, Some("1570-01-01 00:00:00")]);
    }

    #[test]
    fn bins_that_no_type_holds_are_an_error() {
        let second = ScalarValue::TimestampSecond(Some(i64::MIN + 1), None);
        let args = [interval(0, 1, 0), ColumnarValue::Scalar(second)];
        let null = ColumnarValue::Scalar(ScalarValue::TimestampSecond(None, None));
        let error = beyond_nanoseconds(&args, null.clone()).unwrap_err().to_string();
        assert!(error.contains("`date_bin`: a bin begins beyond the range of Timestamp(s)"), "{error}");
        let nothing = [ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(None)), args[1].clone()];
        assert!(matches!(beyond_nanoseconds(&nothing, null).unwrap(), ColumnarValue::Scalar(bin) if bin.is_null()));
    }
}
