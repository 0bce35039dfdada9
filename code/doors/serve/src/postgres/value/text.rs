//! The text form of values.

use std::fmt::Write as _;

use arrow::array::Array;
use arrow::array::timezone::Tz;
use chrono::{DateTime, Datelike, Offset, TimeZone, Utc};

use crate::postgres::json;
use crate::postgres::types::PgType;
use crate::postgres::value::{Misfit, Scalar, elements, scalar};

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Decimal256Array, Float32Array, Float64Array, Int32Array, IntervalMonthDayNanoArray, ListArray, StringArray,
        TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    };
    use arrow::datatypes::{DataType, IntervalMonthDayNano, i256};

    use super::*;

    fn as_text(array: &dyn Array) -> Result<String, Misfit> {
        let mut out = String::new();
        write_text(array, 0, "+00:00".parse().unwrap(), &mut out).map(|()| out)
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
    }

    #[test]
    fn numbers_of_any_width_have_all_digits() {
        let wide = |text: &str, scale| {
            let array = Decimal256Array::from(vec![i256::from_string(text).unwrap()]);
            array.with_precision_and_scale(76, scale).unwrap()
        };
        let nines = "9".repeat(76);
        assert_eq!(as_text(&wide(&nines, 10)).unwrap(), format!("{}.{}", &nines[..66], &nines[66..]));
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
        assert_eq!(as_text(&Int32Array::from(vec![i32::MIN])).unwrap(), "-2147483648");
        assert!(as_text(&StringArray::from(vec!["a\0b"])).unwrap_err().contains("character 0"));
    }
}
