//! Writes one value of an Arrow array as PostgreSQL does, as text or in binary form. A value that PostgreSQL cannot hold
//! exactly is an error.

use std::fmt::Write as _;

use arrow::array::timezone::Tz;
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
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Datelike, Offset, TimeZone, Utc};

use crate::postgres::json;
use crate::postgres::types::{Base, PgType, microseconds};

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
        DataType::Utf8 => text(array.as_string::<i32>().value(row))?,
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row))?,
        DataType::Utf8View => text(array.as_string_view().value(row))?,
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

fn text(value: &str) -> Result<Scalar<'_>, Misfit> {
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

/// Writes the value at `row` of `array`, which is not null, as text.
pub(crate) fn write_text(array: &dyn Array, row: usize, zone: Tz, out: &mut String) -> Result<(), Misfit> {
    if let Some(value) = scalar(array, row)? {
        scalar_text(&value, zone, out);
        return Ok(());
    }
    if !PgType::of(array.data_type()).is_array {
        return json::write(array, row, zone, out);
    }
    let elements = elements(array, row);
    out.push('{');
    let mut element = String::new();
    for index in 0..elements.len() {
        if index > 0 {
            out.push(',');
        }
        if elements.is_null(index) {
            out.push_str("NULL");
            continue;
        }
        element.clear();
        write_text(elements.as_ref(), index, zone, &mut element)?;
        quote_element(&element, out);
    }
    out.push('}');
    Ok(())
}

/// Returns the elements of the list at `row`.
pub(crate) fn elements(array: &dyn Array, row: usize) -> ArrayRef {
    match array.data_type() {
        DataType::LargeList(_) => array.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        _ => array.as_list::<i32>().value(row),
    }
}

fn quote_element(text: &str, out: &mut String) {
    let special = |character: char| "{},\"\\".contains(character) || character.is_whitespace();
    if !text.is_empty() && !text.contains(special) && !text.eq_ignore_ascii_case("null") {
        out.push_str(text);
        return;
    }
    out.push('"');
    for character in text.chars() {
        if "\"\\".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

/// Writes a plain value as text.
pub(crate) fn scalar_text(value: &Scalar<'_>, zone: Tz, out: &mut String) {
    // Writing to a String cannot fail.
    _ = match value {
        Scalar::Bool(value) => write!(out, "{}", if *value { 't' } else { 'f' }),
        Scalar::Int2(value) => write!(out, "{value}"),
        Scalar::Int4(value) => write!(out, "{value}"),
        Scalar::Int8(value) => write!(out, "{value}"),
        Scalar::Float4(value) => return float(f64::from(*value), &format!("{value:e}"), out),
        Scalar::Float8(value) => return float(*value, &format!("{value:e}"), out),
        Scalar::Numeric(digits) => write!(out, "{digits}"),
        Scalar::Text(text) => write!(out, "{text}"),
        Scalar::Bytea(bytes) => {
            out.push_str("\\x");
            bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
        }
        Scalar::Date(days) => {
            let date = DateTime::from_timestamp_secs(i64::from(*days) * 86_400).unwrap_or_default();
            return with_era(&date.naive_utc(), false, "", out);
        }
        Scalar::Time(microseconds) => return time_of_day(*microseconds, out),
        Scalar::Timestamp(microseconds) => {
            let at = DateTime::from_timestamp_micros(*microseconds).unwrap_or_default();
            return with_era(&at.naive_utc(), true, "", out);
        }
        Scalar::Timestamptz(microseconds) => {
            let at: DateTime<Utc> = DateTime::from_timestamp_micros(*microseconds).unwrap_or_default();
            let offset = zone.offset_from_utc_datetime(&at.naive_utc()).fix();
            let local = at.naive_utc().checked_add_offset(offset);
            // Beyond chrono's last day in this zone, the same moment in UTC.
            let (local, seconds) = local.map_or((at.naive_utc(), 0), |local| (local, offset.local_minus_utc()));
            return with_era(&local, true, &offset_text(seconds), out);
        }
        Scalar::Interval { months, days, microseconds } => return interval_text(*months, *days, *microseconds, out),
    };
}

fn offset_text(seconds: i32) -> String {
    let (sign, all) = (if seconds < 0 { '-' } else { '+' }, seconds.abs());
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    match (minutes, seconds) {
        (0, 0) => format!("{sign}{hours:02}"),
        (_, 0) => format!("{sign}{hours:02}:{minutes:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

fn with_era(at: &chrono::NaiveDateTime, has_time: bool, zone: &str, out: &mut String) {
    let (year, era) = if at.year() > 0 { (at.year(), "") } else { (1 - at.year(), " BC") };
    _ = write!(out, "{year:04}-{:02}-{:02}", at.month(), at.day());
    if has_time {
        out.push(' ');
        let since_midnight = at.time() - chrono::NaiveTime::MIN;
        time_of_day(since_midnight.num_microseconds().unwrap_or_default(), out);
    }
    _ = write!(out, "{zone}{era}");
}

fn time_of_day(microseconds: i64, out: &mut String) {
    let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        _ = write!(out, ".{}", digits.trim_end_matches('0'));
    }
}

/// Writes a number with the fewest digits that are read back as the same number. `scientific` is its form with an exponent.
fn float(value: f64, scientific: &str, out: &mut String) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or_default();
    if !(-4..15).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        _ = write!(out, "{digits}e{sign}{:02}", power.abs());
        return;
    }
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let plain: String = digits.chars().filter(|digit| *digit != '.').collect();
    let point = power + 1;
    out.push_str(sign);
    if point <= 0 {
        _ = write!(out, "0.{}{plain}", "0".repeat(point.unsigned_abs() as usize));
    } else {
        let point = point.unsigned_abs() as usize;
        if plain.len() <= point {
            _ = write!(out, "{plain}{}", "0".repeat(point - plain.len()));
        } else {
            _ = write!(out, "{}.{}", &plain[..point], &plain[point..]);
        }
    }
}

/// Writes an interval in the style `postgres`.
fn interval_text(months: i32, days: i32, microseconds: i64, out: &mut String) {
    let start = out.len();
    let mut is_before = false;
    let parts = [(months / 12, "year"), (months % 12, "mon"), (days, "day")];
    for (value, unit) in parts.into_iter().filter(|(value, _)| *value != 0) {
        let space = if out.len() == start { "" } else { " " };
        let plus = if is_before && value > 0 { "+" } else { "" };
        _ = write!(out, "{space}{plus}{value} {unit}{}", if value == 1 { "" } else { "s" });
        is_before = value < 0;
    }
    if microseconds != 0 || out.len() == start {
        if out.len() > start {
            out.push(' ');
        }
        if microseconds < 0 {
            out.push('-');
        } else if is_before {
            out.push('+');
        }
        let all = microseconds.unsigned_abs();
        let (seconds, fraction) = (all / 1_000_000, all % 1_000_000);
        _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        if fraction != 0 {
            let digits = format!("{fraction:06}");
            _ = write!(out, ".{}", digits.trim_end_matches('0'));
        }
    }
}

/// Writes the value at `row` of `array`, which is not null, in the binary form of a column that was announced as `kind`.
pub(crate) fn write_binary_as(
    kind: PgType,
    array: &dyn Array,
    row: usize,
    zone: Tz,
    out: &mut BytesMut,
) -> Result<(), Misfit> {
    // An OID has four bytes. Its Arrow type is also that of numbers, which have eight.
    if kind == PgType::of_base(Base::Oid)
        && let Some(Scalar::Int8(number)) = scalar(array, row)?
    {
        out.put_u32(u32::try_from(number).map_err(|_| format!("{number} is not an OID"))?);
        return Ok(());
    }
    write_binary(array, row, zone, out)
}

/// Writes the value at `row` of `array`, which is not null, in binary form.
pub(crate) fn write_binary(array: &dyn Array, row: usize, zone: Tz, out: &mut BytesMut) -> Result<(), Misfit> {
    if let Some(value) = scalar(array, row)? {
        return scalar_binary(&value, out);
    }
    let kind = PgType::of(array.data_type());
    if !kind.is_array {
        let mut text = String::new();
        json::write(array, row, zone, &mut text)?;
        out.put_slice(text.as_bytes());
        return Ok(());
    }
    let elements = elements(array, row);
    let count = i32::try_from(elements.len()).map_err(|_| "an array has more than 2^31 elements".to_string())?;
    out.put_i32(i32::from(count > 0));
    out.put_i32(i32::from(elements.null_count() > 0));
    out.put_u32(kind.base.oid());
    if count == 0 {
        return Ok(());
    }
    out.put_i32(count);
    // The index of the first element.
    out.put_i32(1);
    for index in 0..elements.len() {
        if elements.is_null(index) {
            out.put_i32(-1);
        } else {
            with_length(out, |out| write_binary(elements.as_ref(), index, zone, out))?;
        }
    }
    Ok(())
}

/// Writes what `write` writes after its length.
pub(crate) fn with_length(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    let start = out.len();
    out.put_i32(0);
    write(out)?;
    let length = i32::try_from(out.len() - start - 4).map_err(|_| "a value has more than 2 GiB".to_string())?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn scalar_binary(value: &Scalar<'_>, out: &mut BytesMut) -> Result<(), Misfit> {
    match value {
        Scalar::Bool(value) => out.put_u8(u8::from(*value)),
        Scalar::Int2(value) => out.put_i16(*value),
        Scalar::Int4(value) => out.put_i32(*value),
        Scalar::Int8(value) => out.put_i64(*value),
        Scalar::Float4(value) => out.put_f32(*value),
        Scalar::Float8(value) => out.put_f64(*value),
        Scalar::Numeric(digits) => numeric(digits, out)?,
        Scalar::Text(text) => out.put_slice(text.as_bytes()),
        Scalar::Bytea(bytes) => out.put_slice(bytes),
        Scalar::Date(days) => out.put_i32(days - EPOCH_DAYS),
        Scalar::Time(microseconds) => out.put_i64(*microseconds),
        Scalar::Timestamp(microseconds) | Scalar::Timestamptz(microseconds) => {
            out.put_i64(microseconds - EPOCH_MICROSECONDS);
        }
        Scalar::Interval { months, days, microseconds } => {
            out.put_i64(*microseconds);
            out.put_i32(*days);
            out.put_i32(*months);
        }
    }
    Ok(())
}

/// Writes a decimal number: groups of four digits, the power of 10,000 of the first, the sign, and the number of decimals.
fn numeric(digits: &str, out: &mut BytesMut) -> Result<(), Misfit> {
    let (sign, digits) = digits.strip_prefix('-').map_or((0_u16, digits), |digits| (0x4000, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let padded = format!("{whole}{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let groups: Result<Vec<i16>, _> = (0..padded.len() / 4).map(|at| padded[at * 4..at * 4 + 4].parse()).collect();
    let groups = groups.map_err(|_| format!("`{digits}` is not a decimal number"))?;
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let end = groups.iter().rposition(|group| *group != 0).map_or(leading, |last| last + 1);
    let kept = &groups[leading.min(end)..end];
    let weight = if kept.is_empty() { 0 } else { whole.len() / 4 - 1 };
    let short = |count: usize| i16::try_from(count).map_err(|_| "a number has too many digits".to_string());
    out.put_i16(short(kept.len())?);
    out.put_i16(if kept.is_empty() { 0 } else { short(weight)? - short(leading)? });
    out.put_u16(if kept.is_empty() { 0 } else { sign });
    out.put_i16(short(fraction.len())?);
    kept.iter().for_each(|group| out.put_i16(*group));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Decimal256Array, Float32Array, Float64Array, Int32Array, IntervalMonthDayNanoArray, ListArray, StringArray,
        TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    };
    use arrow::datatypes::{IntervalMonthDayNano, i256};

    use super::*;

    fn as_text(array: &dyn Array) -> Result<String, Misfit> {
        let mut out = String::new();
        write_text(array, 0, "+00:00".parse().unwrap(), &mut out).map(|()| out)
    }

    fn as_binary(array: &dyn Array) -> Vec<u8> {
        let mut out = BytesMut::new();
        write_binary(array, 0, "+00:00".parse().unwrap(), &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn floats_have_the_digits_that_are_read_back() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (123_456.75, "123456.75"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (-1.5e-7, "-1.5e-07"),
        ];
        for (value, text) in cases {
            assert_eq!(as_text(&Float64Array::from(vec![value])).unwrap(), text);
        }
        assert_eq!(as_text(&Float32Array::from(vec![0.1_f32])).unwrap(), "0.1");
    }

    #[test]
    fn timestamps_are_exact_or_refused() {
        let text = |value| as_text(&TimestampMicrosecondArray::from(vec![value]));
        assert_eq!(text(1_700_000_000_123_400).unwrap(), "2023-11-14 22:13:20.1234");
        assert_eq!(text(-62_135_596_800_000_000).unwrap(), "0001-01-01 00:00:00");
        assert_eq!(text(-62_135_596_800_000_001).unwrap(), "0001-12-31 23:59:59.999999 BC");
        assert_eq!(text(253_402_300_800_000_000).unwrap(), "10000-01-01 00:00:00");
        assert!(text(i64::MAX).unwrap_err().contains("outside the range"));
        assert!(text(i64::MIN).unwrap_err().contains("outside the range"));
        let far = TimestampSecondArray::from(vec![9_000_000_000_000_000]);
        assert!(as_text(&far).unwrap_err().contains("outside the range"));
        let nanoseconds = |value| as_text(&TimestampNanosecondArray::from(vec![value]));
        assert_eq!(nanoseconds(1000).unwrap(), "1970-01-01 00:00:00.000001");
        assert!(nanoseconds(1001).unwrap_err().contains("not a whole number of microseconds"));
        let at = TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC");
        let mut out = String::new();
        write_text(&at, 0, "Asia/Kolkata".parse().unwrap(), &mut out).unwrap();
        assert_eq!(out, "1970-01-01 05:30:00+05:30");
        assert_eq!(as_binary(&at), (-EPOCH_MICROSECONDS).to_be_bytes());
    }

    #[test]
    fn numbers_of_any_width_are_exact() {
        let wide = |text: &str, scale| {
            let array = Decimal256Array::from(vec![i256::from_string(text).unwrap()]);
            array.with_precision_and_scale(76, scale).unwrap()
        };
        let nines = "9".repeat(76);
        assert_eq!(as_text(&wide(&nines, 10)).unwrap(), format!("{}.{}", &nines[..66], &nines[66..]));
        let shorts = |values: &[i16]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>();
        assert_eq!(as_binary(&wide("-1234567", 2)), shorts(&[3, 1, 0x4000, 2, 1, 2345, 6700]));
        assert_eq!(as_binary(&wide("0", 2)), shorts(&[0, 0, 0, 2]));
        assert_eq!(as_binary(&wide("5", 6)), shorts(&[1, -2, 0, 6, 500]));
        assert_eq!(as_binary(&wide("10000", 0)), shorts(&[1, 1, 0, 0, 1]));
        assert_eq!(as_text(&UInt64Array::from(vec![u64::MAX])).unwrap(), "18446744073709551615");
    }

    #[test]
    fn intervals_are_written_as_postgresql_does() {
        let cases = [
            ((14, 3, 14_706_789_000_000), "1 year 2 mons 3 days 04:05:06.789"),
            ((0, 0, 0), "00:00:00"),
            ((-1, 2, -1_000_000_000), "-1 mons +2 days -00:00:01"),
            ((-12, 0, 3_600_000_000_000), "-1 years +01:00:00"),
        ];
        for ((months, days, nanoseconds), text) in cases {
            let value = IntervalMonthDayNano::new(months, days, nanoseconds);
            assert_eq!(as_text(&IntervalMonthDayNanoArray::from(vec![value])).unwrap(), text);
        }
    }

    #[test]
    fn arrays_quote_what_is_special() {
        let texts = StringArray::from(vec![Some("a"), Some(""), Some("x,\"y\\"), None, Some("NULL")]);
        let field = Arc::new(arrow::datatypes::Field::new("item", DataType::Utf8, true));
        let list = ListArray::new(field, arrow::buffer::OffsetBuffer::from_lengths([5]), Arc::new(texts), None);
        assert_eq!(as_text(&list).unwrap(), r#"{a,"","x,\"y\\",NULL,"NULL"}"#);
        let numbers = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(7), None])]);
        let ints: Vec<u8> = [1, 1, 23, 2, 1, 4, 7, -1_i32].iter().flat_map(|value| value.to_be_bytes()).collect();
        assert_eq!(as_binary(&numbers), ints);
        assert_eq!(as_text(&Int32Array::from(vec![i32::MIN])).unwrap(), "-2147483648");
        assert!(as_text(&StringArray::from(vec!["a\0b"])).unwrap_err().contains("character 0"));
    }
}
