//! The functions `buzz_instant(time)`, `buzz_instant_in(time, zone)` and `buzz_round_time(time, like, up)`, which compare times of
//! different units exactly.
//!
//! A time in nanoseconds ends in 2262, so a day, a second or a microsecond cannot be converted to the unit of a finer time beside it
//! in general.

use std::sync::{Arc, LazyLock};

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use buzz_protocol::QueryError;
use chrono::{DateTime, Offset, TimeDelta, TimeZone, Utc};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::spans::computed;

/// The type of an instant: nanoseconds since 1970. The latest one in seconds has 28 digits.
const INSTANT: DataType = DataType::Decimal128(38, 0);

const SECOND: i128 = 1_000_000_000;

/// Returns the function that computes the nanoseconds since 1970 of a date or a timestamp, as Decimal128(38, 0). A date is the
/// midnight at its start, in UTC.
pub fn instant() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(Instant { signature: Signature::any(1, Volatility::Immutable) }))
    });
    Arc::clone(&FUNCTION)
}

/// Returns the function `buzz_instant_in(time, zone)`, which computes the nanoseconds since 1970 of a date or a timestamp that has no
/// time zone and is a time in `zone`, a literal. Of two such times it is the later one, and a time that the zone leaves out is read
/// with the offset before.
pub fn instant_in() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(InstantIn { signature: Signature::any(2, Volatility::Immutable) }))
    });
    Arc::clone(&FUNCTION)
}

/// Returns the function `buzz_round_time(time, like, up)`, which rounds a date or a timestamp to the unit of `like`: to the next
/// value if `up` is true, otherwise to the one before. Both are literals, and the result has the type of `like`.
pub fn rounded_time() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(RoundedTime { signature: Signature::any(3, Volatility::Immutable) }))
    });
    Arc::clone(&FUNCTION)
}

/// Returns the nanoseconds in the unit of a type of dates or timestamps. `None` for another type.
#[must_use]
pub fn unit_nanoseconds(data_type: &DataType) -> Option<i64> {
    match data_type {
        DataType::Date32 => Some(86_400_000_000_000),
        DataType::Date64 => Some(1_000_000),
        DataType::Timestamp(unit, _) => Some(match unit {
            TimeUnit::Second => 1_000_000_000,
            TimeUnit::Millisecond => 1_000_000,
            TimeUnit::Microsecond => 1_000,
            TimeUnit::Nanosecond => 1,
        }),
        _ => None,
    }
}

/// Returns the time that is `instant` nanoseconds after 1970. `None` if the calendar does not have it.
pub(super) fn time_of(instant: i128) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(instant.div_euclid(SECOND)).ok()?;
    DateTime::from_timestamp(seconds, u32::try_from(instant.rem_euclid(SECOND)).ok()?)
}

/// Returns the nanoseconds from 1970 to `time`.
pub(super) fn instant_of(time: DateTime<Utc>) -> i128 {
    i128::from(time.timestamp()) * SECOND + i128::from(time.timestamp_subsec_nanos())
}

/// Rounds the date or timestamp `value` to the unit of the type `to`, to the next one if `up`, otherwise to the one before.
///
/// # Errors
/// `Invalid` if the type does not hold the result, `Internal` if a type has no unit.
pub fn round_time(value: &ScalarValue, to: &DataType, up: bool) -> Result<ScalarValue> {
    ScalarValue::try_from_array(&rounded(value.to_array()?.as_ref(), to, up)?, 0)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Instant {
    signature: Signature,
}

impl ScalarUDFImpl for Instant {
    fn name(&self) -> &'static str {
        "buzz_instant"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(INSTANT)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time] = args.args.as_slice() else { return internal_err!("buzz_instant takes a time") };
        computed(time, |array| Ok(Arc::new(instants(array)?)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InstantIn {
    signature: Signature,
}

impl ScalarUDFImpl for InstantIn {
    fn name(&self) -> &'static str {
        "buzz_instant_in"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(INSTANT)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, ColumnarValue::Scalar(zone)] = args.args.as_slice() else {
            return internal_err!("buzz_instant_in takes a time and the name of a zone");
        };
        let Some(Some(zone)) = zone.try_as_str() else {
            return internal_err!("buzz_instant_in takes a time and the name of a zone");
        };
        let zone: Tz = zone.parse()?;
        computed(time, |array| {
            let instants = nanoseconds(array)?.map(|local| local.map(|local| local - offset(local, zone)));
            let instants: Decimal128Array = instants.collect();
            Ok(Arc::new(instants.with_precision_and_scale(38, 0)?))
        })
    }
}

/// Returns the nanoseconds by which a local time in `zone` is ahead of UTC. Times beyond the range of the calendar have none.
fn offset(local: i128, zone: Tz) -> i128 {
    let seconds = i64::try_from(local.div_euclid(SECOND)).ok();
    let Some(time) = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0)) else { return 0 };
    let time = time.naive_utc();
    let before = || zone.offset_from_local_datetime(&time.checked_sub_signed(TimeDelta::days(1))?).latest();
    let offset = zone.offset_from_local_datetime(&time).latest().or_else(before);
    offset.map_or(0, |offset| i128::from(offset.fix().local_minus_utc()) * SECOND)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RoundedTime {
    signature: Signature,
}

impl ScalarUDFImpl for RoundedTime {
    fn name(&self) -> &'static str {
        "buzz_round_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, like, _] => Ok(like.clone()),
            _ => internal_err!("buzz_round_time takes a time, a value of the type and a direction"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [time, like, _] = args.arg_fields else {
            return internal_err!("buzz_round_time takes a time, a value of the type and a direction");
        };
        Ok(Arc::new(Field::new(self.name(), like.data_type().clone(), time.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, like, ColumnarValue::Scalar(ScalarValue::Boolean(Some(up)))] = args.args.as_slice() else {
            return internal_err!("buzz_round_time takes a time, a value of the type and a direction");
        };
        computed(time, |array| rounded(array, &like.data_type(), *up))
    }
}

/// Returns dates or timestamps as nanoseconds since 1970.
pub(super) fn instants(times: &dyn Array) -> Result<Decimal128Array> {
    let instants: Decimal128Array = nanoseconds(times)?.collect();
    Ok(instants.with_precision_and_scale(38, 0)?)
}

/// Returns the nanoseconds since 1970 of each time in `times`.
fn nanoseconds(times: &dyn Array) -> Result<impl Iterator<Item = Option<i128>>> {
    let Some(unit) = unit_nanoseconds(times.data_type()) else {
        return internal_err!("a value of type {} is not a date or timestamp", times.data_type());
    };
    let counts = cast(&cast_days(times)?, &DataType::Int64)?;
    let counts: Vec<Option<i64>> = counts.as_primitive::<Int64Type>().iter().collect();
    Ok(counts.into_iter().map(move |count| count.map(|count| i128::from(count) * i128::from(unit))))
}

/// Returns `times` with dates as numbers of days.
fn cast_days(times: &dyn Array) -> Result<ArrayRef> {
    let to = match times.data_type() {
        DataType::Date32 => DataType::Int32,
        _ => DataType::Int64,
    };
    Ok(cast(times, &to)?)
}

fn rounded(times: &dyn Array, to: &DataType, up: bool) -> Result<ArrayRef> {
    let Some(unit) = unit_nanoseconds(to) else {
        return internal_err!("a value of type {to} is not a date or timestamp");
    };
    let unit = i128::from(unit);
    let round = |instant: i128| {
        let before = instant.div_euclid(unit);
        let count = if up && instant.rem_euclid(unit) != 0 { before + 1 } else { before };
        let fits = |count: i64| *to != DataType::Date32 || i32::try_from(count).is_ok();
        let count = i64::try_from(count).ok().filter(|count| fits(*count));
        count.ok_or_else(|| QueryError::invalid(format!("a time is beyond the range of {to}")).into_datafusion())
    };
    let counts: Int64Array =
        nanoseconds(times)?.map(|instant| instant.map(round).transpose()).collect::<Result<Vec<_>>>()?.into();
    if *to == DataType::Date32 {
        return Ok(cast(&cast(&counts, &DataType::Int32)?, to)?);
    }
    Ok(cast(&counts, to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_a_coarser_unit_also_before_1970() {
        let time = |nanoseconds| ScalarValue::TimestampNanosecond(Some(nanoseconds), None);
        let of = |nanoseconds, to: &DataType, up| round_time(&time(nanoseconds), to, up).unwrap();
        let millis = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let milli = |count| ScalarValue::TimestampMillisecond(Some(count), Some("UTC".into()));
        assert_eq!(of(1_500_001, &millis, false), milli(1));
        assert_eq!(of(1_500_001, &millis, true), milli(2));
        assert_eq!(of(2_000_000, &millis, true), milli(2));
        assert_eq!(of(-1, &millis, false), milli(-1));
        assert_eq!(of(-1, &millis, true), milli(0));
        assert_eq!(of(-1, &DataType::Date32, false), ScalarValue::Date32(Some(-1)));
        assert_eq!(of(1, &DataType::Date32, true), ScalarValue::Date32(Some(1)));
        let end = ScalarValue::TimestampSecond(Some(i64::MAX), None);
        assert!(round_time(&end, &DataType::Date32, false).unwrap_err().to_string().contains("beyond the range"));
    }

    #[test]
    fn local_times_have_the_offset_of_their_zone() {
        let hour = 3600 * SECOND;
        let of = |text: &str, zone: &str| {
            let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap().and_utc();
            offset(i128::from(time.timestamp()) * SECOND, zone.parse().unwrap()) / hour
        };
        assert_eq!(of("2024-07-01 00:00", "+02:00"), 2);
        assert_eq!(of("2024-07-01 00:00", "America/Denver"), -6);
        assert_eq!(of("2024-01-01 00:00", "America/Denver"), -7);
        // The clock went from 00:00 to 01:00, and one hour was there twice.
        assert_eq!(of("2018-11-04 00:00", "America/Sao_Paulo"), -3);
        assert_eq!(of("2024-11-03 01:30", "America/Denver"), -7);
        assert_eq!(offset(i128::MAX / 2, "America/Denver".parse().unwrap()), 0);
    }

    #[test]
    fn instants_of_all_units_are_nanoseconds() {
        let of = |value: ScalarValue| nanoseconds(value.to_array().unwrap().as_ref()).unwrap().next().unwrap();
        let year_9999 = 253_402_214_400;
        let instant = Some(i128::from(year_9999) * 1_000_000_000);
        assert_eq!(of(ScalarValue::TimestampSecond(Some(year_9999), None)), instant);
        assert_eq!(of(ScalarValue::TimestampMicrosecond(Some(year_9999 * 1_000_000), None)), instant);
        assert_eq!(of(ScalarValue::Date32(Some(2_932_896))), instant);
        assert_eq!(of(ScalarValue::Date64(Some(year_9999 * 1000))), instant);
        assert_eq!(of(ScalarValue::TimestampNanosecond(None, None)), None);
    }
}
