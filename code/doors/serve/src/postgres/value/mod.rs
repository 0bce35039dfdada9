//! Takes one value from an Arrow array, and writes it as PostgreSQL does: as `text` or in `binary` form. A value that PostgreSQL
//! cannot hold exactly is an error.

mod binary;
mod text;

use arrow::array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalYearMonthType,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use chrono::DateTime;

pub(crate) use self::binary::{with_length, write_binary_as};
pub(crate) use self::text::{scalar_text, write_text};
use crate::postgres::types::microseconds;

/// Microseconds from 1970 to 2000, at which PostgreSQL begins to count.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The first day of PostgreSQL's calendar, in days since 2000.
const FIRST_DAY: i32 = -2_451_545;

/// The reason for which a value cannot be sent.
pub(crate) type Misfit = String;

/// A plain value, between Arrow and the two forms of PostgreSQL.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    /// Decimal digits with an optional sign and point.
    Numeric(String),
    Text(&'a str),
    Bytea(&'a [u8]),
    /// Days since 1970.
    Date(i32),
    /// Microseconds of the day.
    Time(i64),
    /// Microseconds since 1970.
    Timestamp(i64),
    Timestamptz(i64),
    Interval {
        months: i32,
        days: i32,
        microseconds: i64,
    },
}

/// Returns the plain value at `row`, which is not null. None for a nested type.
pub(crate) fn scalar(array: &dyn Array, row: usize) -> Result<Option<Scalar<'_>>, Misfit> {
    macro_rules! value {
        ($kind:ty) => {
            array.as_primitive::<$kind>().value(row)
        };
    }
    Ok(Some(match array.data_type() {
        DataType::Boolean => Scalar::Bool(array.as_boolean().value(row)),
        DataType::Int8 => Scalar::Int2(value!(Int8Type).into()),
        DataType::Int16 => Scalar::Int2(value!(Int16Type)),
        DataType::Int32 => Scalar::Int4(value!(Int32Type)),
        DataType::Int64 => Scalar::Int8(value!(Int64Type)),
        DataType::UInt8 => Scalar::Int2(value!(UInt8Type).into()),
        DataType::UInt16 => Scalar::Int4(value!(UInt16Type).into()),
        DataType::UInt32 => Scalar::Int8(value!(UInt32Type).into()),
        DataType::UInt64 => Scalar::Numeric(value!(UInt64Type).to_string()),
        DataType::Float16 => Scalar::Float4(value!(Float16Type).to_f32()),
        DataType::Float32 => Scalar::Float4(value!(Float32Type)),
        DataType::Float64 => Scalar::Float8(value!(Float64Type)),
        DataType::Decimal32(..) => Scalar::Numeric(array.as_primitive::<Decimal32Type>().value_as_string(row)),
        DataType::Decimal64(..) => Scalar::Numeric(array.as_primitive::<Decimal64Type>().value_as_string(row)),
        DataType::Decimal128(..) => Scalar::Numeric(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Decimal256(..) => Scalar::Numeric(array.as_primitive::<Decimal256Type>().value_as_string(row)),
        DataType::Utf8 => valid(array.as_string::<i32>().value(row))?,
        DataType::LargeUtf8 => valid(array.as_string::<i64>().value(row))?,
        DataType::Utf8View => valid(array.as_string_view().value(row))?,
        DataType::Binary => Scalar::Bytea(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Scalar::Bytea(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => Scalar::Bytea(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => Scalar::Bytea(array.as_fixed_size_binary().value(row)),
        DataType::Date32 => date(value!(Date32Type))?,
        DataType::Date64 => Scalar::Timestamp(instant(value!(Date64Type), TimeUnit::Millisecond)?),
        DataType::Time32(unit) => time(
            match unit {
                TimeUnit::Second => value!(Time32SecondType).into(),
                _ => value!(Time32MillisecondType).into(),
            },
            *unit,
        )?,
        DataType::Time64(unit) => time(
            match unit {
                TimeUnit::Microsecond => value!(Time64MicrosecondType),
                _ => value!(Time64NanosecondType),
            },
            *unit,
        )?,
        DataType::Timestamp(unit, zone) => {
            let value = match unit {
                TimeUnit::Second => value!(TimestampSecondType),
                TimeUnit::Millisecond => value!(TimestampMillisecondType),
                TimeUnit::Microsecond => value!(TimestampMicrosecondType),
                TimeUnit::Nanosecond => value!(TimestampNanosecondType),
            };
            let value = instant(value, *unit)?;
            if zone.is_some() { Scalar::Timestamptz(value) } else { Scalar::Timestamp(value) }
        }
        DataType::Duration(unit) => {
            let value = match unit {
                TimeUnit::Second => value!(DurationSecondType),
                TimeUnit::Millisecond => value!(DurationMillisecondType),
                TimeUnit::Microsecond => value!(DurationMicrosecondType),
                TimeUnit::Nanosecond => value!(DurationNanosecondType),
            };
            interval(0, 0, whole(value, *unit)?)
        }
        DataType::Interval(IntervalUnit::YearMonth) => interval(value!(IntervalYearMonthType), 0, 0),
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = value!(IntervalDayTimeType);
            interval(0, value.days, i64::from(value.milliseconds) * 1000)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = value!(IntervalMonthDayNanoType);
            interval(value.months, value.days, whole(value.nanoseconds, TimeUnit::Nanosecond)?)
        }
        _ => return Ok(None),
    }))
}

fn interval<'a>(months: i32, days: i32, microseconds: i64) -> Scalar<'a> {
    Scalar::Interval { months, days, microseconds }
}

fn valid(value: &str) -> Result<Scalar<'_>, Misfit> {
    if value.contains('\0') {
        return Err("a text contains the character 0, which PostgreSQL's protocol cannot carry; remove it with \
                    `replace(…, chr(0), '')`"
            .to_string());
    }
    Ok(Scalar::Text(value))
}

fn date<'a>(days: i32) -> Result<Scalar<'a>, Misfit> {
    let is_known = chrono::NaiveDate::from_epoch_days(days).is_some();
    match days.checked_sub(EPOCH_DAYS) {
        Some(own) if is_known && own >= FIRST_DAY => Ok(Scalar::Date(days)),
        _ => Err(format!("a date of {days} days since 1970 is outside the range of PostgreSQL's dates")),
    }
}

fn whole(value: i64, unit: TimeUnit) -> Result<i64, Misfit> {
    microseconds(value, unit).ok_or_else(|| match unit {
        TimeUnit::Nanosecond => format!(
            "a time of {value} nanoseconds is not a whole number of microseconds, which PostgreSQL counts; use \
             `date_trunc('microsecond', …)`, or cast it to text"
        ),
        _ => format!("a time of {value} {unit:?}s is outside the range of PostgreSQL's times"),
    })
}

fn time<'a>(value: i64, unit: TimeUnit) -> Result<Scalar<'a>, Misfit> {
    let microseconds = whole(value, unit)?;
    if (0..=86_400_000_000).contains(&microseconds) {
        return Ok(Scalar::Time(microseconds));
    }
    Err(format!("a time of {microseconds} microseconds is not within one day"))
}

fn instant(value: i64, unit: TimeUnit) -> Result<i64, Misfit> {
    let microseconds = whole(value, unit)?;
    let first = i64::from(FIRST_DAY) * 86_400_000_000;
    match microseconds.checked_sub(EPOCH_MICROSECONDS) {
        Some(own) if own >= first && DateTime::from_timestamp_micros(microseconds).is_some() => Ok(microseconds),
        _ => Err(format!(
            "a timestamp of {microseconds} microseconds since 1970 is outside the range of PostgreSQL's timestamps"
        )),
    }
}

/// Returns the elements of the list at `row`.
pub(crate) fn elements(array: &dyn Array, row: usize) -> ArrayRef {
    match array.data_type() {
        DataType::LargeList(_) => array.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        _ => array.as_list::<i32>().value(row),
    }
}
