//! Exact parsing of dates, timestamps and times of day. Arrow's parser cuts digits that the unit cannot hold, and
//! converts a time with a zone to UTC even if the column has no zone.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{
    ArrayRef, PrimitiveArray, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime, string_to_time_nanoseconds};
use arrow::datatypes::{ArrowTimestampType, Date32Type, TimeUnit};
use chrono::{Timelike, Utc};

use super::exact::parsed;

/// Parses `texts` as timestamps in `unit` and `zone`, or returns the first text that is not exactly one. A text with a
/// zone other than UTC is none if the column has no zone. If `epochs` is true, a whole number is the units since 1970.
pub(super) fn timestamps(
    texts: &StringArray,
    unit: TimeUnit,
    zone: Option<&Arc<str>>,
    epochs: bool,
) -> Result<ArrayRef, String> {
    let zone_known = zone.map(|zone| Tz::from_str(zone)).transpose().map_err(|error| error.to_string())?;
    let is_utc = zone.is_none_or(|zone| matches!(&**zone, "UTC" | "Z" | "+00:00" | "Etc/UTC"));
    let parse = |text: &str| {
        if epochs && let Ok(number) = text.parse::<i64>() {
            return Some(number);
        }
        if let Some((seconds, nanoseconds)) = plain_utc(text).filter(|_| is_utc) {
            return in_unit(seconds, nanoseconds, unit);
        }
        any_form(text, unit, zone_known.as_ref())
    };
    let times = parsed(texts, parse)?;
    macro_rules! in_zone {
        ($array:ty) => {
            Arc::new(with_zone(times.collect::<$array>(), zone)) as ArrayRef
        };
    }
    Ok(match unit {
        TimeUnit::Second => in_zone!(TimestampSecondArray),
        TimeUnit::Millisecond => in_zone!(TimestampMillisecondArray),
        TimeUnit::Microsecond => in_zone!(TimestampMicrosecondArray),
        TimeUnit::Nanosecond => in_zone!(TimestampNanosecondArray),
    })
}

fn with_zone<T: ArrowTimestampType>(array: PrimitiveArray<T>, zone: Option<&Arc<str>>) -> PrimitiveArray<T> {
    array.with_timezone_opt(zone.cloned())
}

/// Parses `2024-01-31 10:00:00.25`, with a `T` instead of the blank, with up to 9 decimals, and with or without a `Z`
/// at the end. Returns the seconds since 1970 and the nanoseconds.
fn plain_utc(text: &str) -> Option<(i64, i64)> {
    let bytes = text.as_bytes();
    let bytes = bytes.strip_suffix(b"Z").unwrap_or(bytes);
    if bytes.len() < 19 || bytes.len() > 29 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    if !matches!(bytes[10], b' ' | b'T') || bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let number = |from: usize, to: usize| {
        let mut number = 0;
        for byte in &bytes[from..to] {
            if !byte.is_ascii_digit() {
                return None;
            }
            number = number * 10 + i64::from(byte - b'0');
        }
        Some(number)
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > days || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let nanoseconds = match bytes.get(19) {
        None => 0,
        Some(b'.') if bytes.len() > 20 => number(20, bytes.len())? * POWERS[9 - (bytes.len() - 20)],
        Some(_) => return None,
    };
    Some((days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second, nanoseconds))
}

const POWERS: [i64; 10] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Returns the days from 1970-01-01 to a day of the Gregorian calendar. The calendar repeats every 400 years, and years
/// that begin in March have their leap day at the end.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Returns a time in `unit`, unless the unit cannot hold it exactly.
fn in_unit(seconds: i64, nanoseconds: i64, unit: TimeUnit) -> Option<i64> {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let nanoseconds_each = 1_000_000_000 / per_second;
    if nanoseconds % nanoseconds_each != 0 {
        return None;
    }
    seconds.checked_mul(per_second)?.checked_add(nanoseconds / nanoseconds_each)
}

/// Adds the seconds to a timestamp that ends with its minute, such as `2024-01-31 10:00` or `2024-01-31T10:00+02:00`, as
/// most parsers require them. Returns any other text unchanged.
pub fn with_seconds(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let is_minute = matches!(bytes.get(10), Some(b' ' | b'T' | b't'))
        && bytes.get(13) == Some(&b':')
        && [11, 12, 14, 15].into_iter().all(is_digit)
        && bytes.get(16).is_none_or(|next| matches!(next, b' ' | b'+' | b'-' | b'Z' | b'z'));
    match text.split_at_checked(16).filter(|_| is_minute) {
        Some((minute, zone)) => Cow::Owned(format!("{minute}:00{zone}")),
        None => Cow::Borrowed(text),
    }
}

/// Parses a timestamp in any form that arrow knows, or without seconds. A time without a zone is in `zone`.
fn any_form(text: &str, unit: TimeUnit, zone: Option<&Tz>) -> Option<i64> {
    let text = &*with_seconds(text);
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit);
    if digits.skip(9).any(|digit| digit != b'0') {
        return None;
    }
    let time = match zone {
        Some(zone) => string_to_datetime(zone, text).ok()?.with_timezone(&Utc),
        None if has_zone(text) => return None,
        None => string_to_datetime(&Utc, text).ok()?,
    };
    in_unit(time.timestamp(), i64::from(time.timestamp_subsec_nanos()), unit)
}

/// Returns whether a timestamp names a zone or an offset. A `Z` does not count, since UTC is the time without a zone.
fn has_zone(text: &str) -> bool {
    let time = text.get(11..).unwrap_or_default().trim_end();
    let time = time.strip_suffix(['Z', 'z']).unwrap_or(time);
    time.contains(|c: char| c == '+' || c == '-' || c.is_alphabetic())
}

/// Parses a date, as days since 1970. A time of day other than midnight, or a zone, is not part of a date.
pub(super) fn day(text: &str) -> Option<i32> {
    let text = &*with_seconds(text);
    let day = Date32Type::parse(text)?;
    let is_plain = text.len() <= 10 || text.starts_with(['+', '-']);
    let is_midnight = || {
        string_to_datetime(&Utc, text).is_ok_and(|time| time.num_seconds_from_midnight() == 0 && time.nanosecond() == 0)
    };
    (is_plain || is_midnight()).then_some(day)
}

/// Parses a time of day, in `unit` since midnight. If `epochs` is true, a whole number is that number of units.
pub(super) fn time_of_day(text: &str, unit: TimeUnit, epochs: bool) -> Option<i64> {
    if epochs && let Ok(number) = text.parse() {
        return Some(number);
    }
    let decimals = text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    if decimals > 9 {
        return None;
    }
    let nanoseconds = string_to_time_nanoseconds(text).ok()?;
    in_unit(nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000, unit)
}

/// The type that a text needs as a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampForm {
    /// `Nanosecond` if the text has more than 6 decimals, otherwise `Microsecond`.
    pub unit: TimeUnit,
    /// True if the text names a zone or an offset.
    pub is_zoned: bool,
    /// True if 64 bits of nanoseconds, which end in 1677 and 2262, hold the timestamp.
    pub has_nanoseconds: bool,
}

/// Returns the type for a text that is a timestamp, of the years 0 to 9999. Returns `None` for any other text.
pub fn timestamp_form(text: &str) -> Option<TimestampForm> {
    let utc = Tz::from_str("UTC").ok()?;
    let has_nanoseconds = any_form(text, TimeUnit::Nanosecond, Some(&utc)).is_some();
    let unit = match any_form(text, TimeUnit::Microsecond, Some(&utc)) {
        Some(_) => TimeUnit::Microsecond,
        None if has_nanoseconds => TimeUnit::Nanosecond,
        None => return None,
    };
    Some(TimestampForm { unit, is_zoned: has_zone(text) || text.ends_with(['Z', 'z']), has_nanoseconds })
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    fn read(text: &str, unit: TimeUnit, zone: Option<&str>) -> Option<String> {
        let zone = zone.map(Arc::from);
        let array = timestamps(&StringArray::from(vec![text]), unit, zone.as_ref(), false).ok()?;
        assert_eq!(array.len(), 1);
        Some(arrow::util::display::array_value_to_string(&array, 0).unwrap())
    }

    #[test]
    fn common_forms_are_parsed_as_arrow_does() {
        for (year, month, day) in
            [(1, 1, 1), (1899, 12, 31), (1900, 2, 28), (1970, 1, 1), (2000, 2, 29), (2024, 12, 31), (9999, 12, 31)]
        {
            for time in ["00:00:00", "23:59:59.999999", "12:30:01.5", "01:02:03.000000000"] {
                for separator in [' ', 'T'] {
                    let text = format!("{year:04}-{month:02}-{day:02}{separator}{time}");
                    let expected = string_to_datetime(&Utc, &text).unwrap();
                    let (seconds, nanoseconds) = plain_utc(&text).unwrap();
                    let found = (seconds, nanoseconds);
                    assert_eq!(found, (expected.timestamp(), i64::from(expected.timestamp_subsec_nanos())), "{text}");
                    assert_eq!(plain_utc(&format!("{text}Z")), Some(found));
                }
            }
        }
        for wrong in ["2023-02-29 00:00:00", "2024-01-01 24:00:00", "2024-13-01 00:00:00", "2024-01-01 00:00:00."] {
            assert_eq!(plain_utc(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn time_that_the_type_cannot_hold_is_rejected() {
        use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        let fine = "2024-01-01 10:00:00.123456";
        assert_eq!(read(fine, Microsecond, None).unwrap(), "2024-01-01T10:00:00.123456");
        assert_eq!(read("2024-01-01 10:00:00.1234560000", Microsecond, None).unwrap(), "2024-01-01T10:00:00.123456");
        assert_eq!(read(fine, Millisecond, None), None);
        assert_eq!(read("2024-01-01 10:00:00.5", Second, None), None);
        assert_eq!(read("2024-01-01 10:00:00.1234567", Microsecond, None), None);
        assert_eq!(read("2024-01-01 10:00:00.1234567891", Nanosecond, None), None);
        assert_eq!(read("9999-12-31", Nanosecond, None), None);
        assert_eq!(read("9999-12-31", Microsecond, None).unwrap(), "9999-12-31T00:00:00");
        let berlin = "2024-01-01 10:00:00 Europe/Berlin";
        assert_eq!(read(berlin, Microsecond, None), None);
        assert_eq!(read("2024-01-01 10:00:00+01:00", Microsecond, None), None);
        assert_eq!(read("2024-01-01T10:00:00Z", Microsecond, None).unwrap(), "2024-01-01T10:00:00");
        assert_eq!(read(berlin, Microsecond, Some("UTC")).unwrap(), "2024-01-01T09:00:00Z");
        assert_eq!(
            read("2024-01-01 10:00:00", Microsecond, Some("Europe/Berlin")).unwrap(),
            "2024-01-01T10:00:00+01:00"
        );
        assert_eq!(time_of_day("10:00:00.5", Second, false), None);
        assert_eq!(time_of_day("10:00:00.5", Millisecond, false), Some(36_000_500));
        assert_eq!(day("9999-12-31 10:00:00"), None);
        assert_eq!(day("2024-01-31T00:00:00"), Some(19_753));
    }

    #[test]
    fn form_of_a_timestamp_is_detected() {
        use TimeUnit::{Microsecond, Nanosecond};
        let form = |text: &str| timestamp_form(text).map(|form| (form.unit, form.is_zoned, form.has_nanoseconds));
        assert_eq!(form("2024-01-01 10:00:00"), Some((Microsecond, false, true)));
        assert_eq!(form("2024-01-01 10:00:00 Europe/Berlin"), Some((Microsecond, true, true)));
        assert_eq!(form("2024-01-01T10:00:00.123456789Z"), Some((Nanosecond, true, true)));
        for far in ["0001-01-01 00:00:00", "1677-01-01T00:00:00", "2263-01-01 00:00:00.5", "9999-12-31 23:59:59.999999"]
        {
            assert_eq!(form(far), Some((Microsecond, false, false)), "{far}");
        }
        assert_eq!(form("9999-12-31T23:59:59Z"), Some((Microsecond, true, false)));
        assert_eq!(form("9999-12-31 23:59:59.1234567"), None);
        assert_eq!(form("2024-01-01 10:00:00.1234567891"), None);
        assert_eq!(form("2024-01-01 10:00:00 PST8"), None);
    }

    #[test]
    fn seconds_may_be_missing() {
        use TimeUnit::{Microsecond, Second};
        for text in ["2024-01-31 10:05", "2024-01-31T10:05", "2024-01-31 10:05Z"] {
            assert_eq!(read(text, Second, None).unwrap(), "2024-01-31T10:05:00", "{text}");
        }
        for text in ["2024-01-31T10:05+01:00", "2024-01-31 10:05 Europe/Berlin", "2024-01-31 10:05 +0100"] {
            assert_eq!(read(text, Microsecond, Some("UTC")).unwrap(), "2024-01-31T09:05:00Z", "{text}");
            assert!(timestamp_form(text).unwrap().is_zoned, "{text}");
            assert_eq!(read(text, Microsecond, None), None, "{text}");
        }
        assert_eq!(read("2024-01-31 10:05", Microsecond, Some("Europe/Berlin")).unwrap(), "2024-01-31T10:05:00+01:00");
        assert_eq!(day("2024-01-31 00:00"), Some(19_753));
        assert_eq!(day("2024-01-31 10:05"), None);
        for wrong in
            ["2024-01-31 10", "2024-01-31 10:5", "2024-01-31 10:60", "2024-01-31 10:05.5", "2024-01-31 10:05 PM"]
        {
            assert_eq!(timestamp_form(wrong), None, "{wrong}");
        }
    }
}
