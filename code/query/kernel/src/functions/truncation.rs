//! `date_trunc` of times before 1677 and after 2262.
//!
//! DataFusion computes in nanoseconds of 64 bits, and fails for a time that these cannot hold. Constants before 1970 it rounds up to
//! the next millisecond or microsecond.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use buzz_protocol::QueryError;
use chrono::{
    Datelike, Days, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone,
    Timelike,
};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::instants::{instant_of, time_of, unit_nanoseconds};

/// Makes an array of a constant timestamp: arrays are rounded down also before 1970.
pub(super) fn as_array(args: &mut [ColumnarValue]) -> Result<()> {
    let Some(time) = args.get_mut(1) else { return Ok(()) };
    if let ColumnarValue::Scalar(constant) = time
        && matches!(constant.data_type(), DataType::Timestamp(..))
    {
        *time = ColumnarValue::Array(constant.to_array()?);
    }
    Ok(())
}

/// Returns the times that DataFusion computed of `args`, or computes them if it failed and the type of the times holds them.
///
/// # Errors
/// `Invalid` if a time begins beyond the range of its type, else the error of DataFusion.
pub(super) fn beyond_nanoseconds(args: &[ColumnarValue], found: Result<ColumnarValue>) -> Result<ColumnarValue> {
    let ([ColumnarValue::Scalar(part), time], true) = (args, found.is_err()) else { return found };
    let Some(name) = part.try_as_str().flatten() else { return found };
    let Some(part) = Part::of(name) else { return found };
    let data_type = time.data_type();
    let (DataType::Timestamp(_, zone), Some(unit)) = (&data_type, unit_nanoseconds(&data_type)) else { return found };
    let zone = zone.as_ref().map(|zone| zone.parse::<Tz>()).transpose()?;
    let start = |count: i64| {
        let count = part.start(count, unit, zone);
        count.ok_or_else(|| {
            QueryError::invalid(format!("`date_trunc`: the start of a {name} is beyond the range of {data_type}"))
                .into_datafusion()
        })
    };
    super::spans::computed(time, |times| {
        let counts = cast(times, &DataType::Int64)?;
        let starts = counts.as_primitive::<Int64Type>().iter().map(|count| count.map(start).transpose());
        let starts: Int64Array = starts.collect::<Result<Vec<_>>>()?.into();
        Ok(Arc::new(cast(&starts, &data_type)?))
    })
}

/// A part of the calendar or the clock, of which DataFusion computes the start in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Part {
    fn of(name: &str) -> Option<Self> {
        Some(match name.to_lowercase().as_str() {
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "quarter" => Self::Quarter,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// Returns the start of the part in which the time is that is `count` times `unit` nanoseconds after 1970, as such a count.
    /// `None` if the calendar or 64 bits do not hold it.
    fn start(self, count: i64, unit: i64, zone: Option<Tz>) -> Option<i64> {
        let time = time_of(i128::from(count) * i128::from(unit))?.naive_utc();
        let start = match zone {
            None => self.local_start(time)?,
            Some(zone) => {
                let offset = zone.offset_from_utc_datetime(&time).fix();
                let local = self.local_start(time.checked_add_offset(offset)?)?;
                local.checked_sub_offset(offset_of(local, zone, offset)?)?
            }
        };
        i64::try_from(instant_of(start.and_utc()).div_euclid(i128::from(unit))).ok()
    }

    fn local_start(self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let day = local.date();
        let midnight = |day: NaiveDate| day.and_time(NaiveTime::MIN);
        match self {
            Self::Hour => day.and_hms_opt(local.hour(), 0, 0),
            Self::Day => Some(midnight(day)),
            Self::Week => day.checked_sub_days(Days::new(day.weekday().num_days_from_monday().into())).map(midnight),
            Self::Month => day.with_day(1).map(midnight),
            Self::Quarter => day.with_day(1)?.with_month0(day.month0() / 3 * 3).map(midnight),
            Self::Year => NaiveDate::from_ymd_opt(day.year(), 1, 1).map(midnight),
        }
    }
}

/// Returns the offset of a local time in `zone`. A time that the clock shows twice has the offset `own` if that is one of both, and one
/// that it skips has the offset before.
fn offset_of(local: NaiveDateTime, zone: Tz, own: FixedOffset) -> Option<FixedOffset> {
    match zone.offset_from_local_datetime(&local) {
        MappedLocalTime::Single(offset) => Some(offset.fix()),
        MappedLocalTime::Ambiguous(first, _) if first.fix() == own => Some(own),
        MappedLocalTime::Ambiguous(_, last) => Some(last.fix()),
        MappedLocalTime::None => {
            let before = local.checked_sub_signed(TimeDelta::hours(3))?;
            zone.offset_from_local_datetime(&before).latest().map(|offset| offset.fix())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: i64 = 1000;

    fn count(text: &str) -> i64 {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap().and_utc().timestamp_micros()
    }

    #[test]
    fn parts_of_all_times_have_a_start() {
        let cases = [
            ("hour", "9999-12-31 10:00:00", "1600-02-29 23:00:00"),
            ("day", "9999-12-31 00:00:00", "1600-02-29 00:00:00"),
            ("week", "9999-12-27 00:00:00", "1600-02-28 00:00:00"),
            ("MONTH", "9999-12-01 00:00:00", "1600-02-01 00:00:00"),
            ("quarter", "9999-10-01 00:00:00", "1600-01-01 00:00:00"),
            ("year", "9999-01-01 00:00:00", "1600-01-01 00:00:00"),
        ];
        for (name, late, early) in cases {
            let part = Part::of(name).unwrap();
            assert_eq!(part.start(count("9999-12-31 10:20:30"), MICRO, None), Some(count(late)), "{name}");
            assert_eq!(part.start(count("1600-02-29 23:59:59"), MICRO, None), Some(count(early)), "{name}");
        }
        assert_eq!(Part::Year.start(i64::MAX, 1_000_000_000, None), None);
        assert_eq!(Part::of("second"), None);
    }

    #[test]
    fn days_begin_at_the_midnight_of_their_zone() {
        let start = |part: Part, text: &str, zone: &str| part.start(count(text), MICRO, Some(zone.parse().unwrap()));
        assert_eq!(start(Part::Day, "9999-12-31 10:20:30", "+02:00"), Some(count("9999-12-30 22:00:00")));
        assert_eq!(start(Part::Month, "2024-07-15 10:00:00", "America/Denver"), Some(count("2024-07-01 06:00:00")));
        // Midnight was skipped, and half past one was there twice.
        assert_eq!(start(Part::Day, "2018-11-04 12:00:00", "America/Sao_Paulo"), Some(count("2018-11-04 03:00:00")));
        assert_eq!(start(Part::Hour, "2024-11-03 07:30:00", "America/Denver"), Some(count("2024-11-03 07:00:00")));
        assert_eq!(start(Part::Hour, "2024-11-03 08:30:00", "America/Denver"), Some(count("2024-11-03 08:00:00")));
    }
}
