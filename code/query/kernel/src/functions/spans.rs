//! The functions `buzz_interval_length(interval)` and `buzz_interval_part(part, interval)`.
//!
//! Arrow compares intervals by months, then by days, then by nanoseconds: 36 hours are less than a day. It returns the hours of
//! a duration with those of its days, its seconds without their fraction, and overflows for its microseconds.

use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
};
use arrow::compute::kernels::cast_utils::IntervalUnit as Unit;
use arrow::datatypes::{
    DataType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field,
    FieldRef, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, TimeUnit,
};
use buzz_protocol::QueryError;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The type of a length in nanoseconds. The longest interval has 25 digits, the longest duration 28.
const LENGTH: DataType = DataType::Decimal128(38, 0);

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

pub(super) const DAYS_PER_MONTH: i64 = 30;
const SECONDS_PER_DAY: i64 = 86_400;
/// Counts 365.25 days, as PostgreSQL does for the epoch of an interval.
const SECONDS_PER_YEAR: i64 = 31_557_600;

/// Returns the function that computes the length of an interval or a duration in nanoseconds. A day has 24 hours and a
/// month 30 days.
pub fn interval_length() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::any(1, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(IntervalLength { signature }))
    });
    Arc::clone(&FUNCTION)
}

/// Returns the function that computes a part of an interval or a duration, as PostgreSQL does: days, hours of a time and
/// seconds of a minute are apart. The name of the part is a literal. `epoch` and `second` are Float64 with their fraction,
/// `nanosecond` is Int64, other parts are Int32.
pub fn interval_part() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::any(2, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(IntervalPart { signature }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalLength {
    signature: Signature,
}

impl ScalarUDFImpl for IntervalLength {
    fn name(&self) -> &'static str {
        "buzz_interval_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(LENGTH)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [interval] = args.args.as_slice() else {
            return internal_err!("buzz_interval_length takes an interval");
        };
        computed(interval, |array| Ok(Arc::new(lengths(array)?)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalPart {
    signature: Signature,
}

impl ScalarUDFImpl for IntervalPart {
    fn name(&self) -> &'static str {
        "buzz_interval_part"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        internal_err!("the type of buzz_interval_part depends on its first argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let ([_, interval], [part, _]) = (args.arg_fields, args.scalar_arguments) else {
            return internal_err!("buzz_interval_part takes the name of a part and an interval");
        };
        let data_type = Part::of(*part)?.data_type();
        Ok(Arc::new(Field::new(self.name(), data_type, interval.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(part), interval] = args.args.as_slice() else {
            return internal_err!("buzz_interval_part takes the name of a part and an interval");
        };
        let part = Part::of(Some(part))?;
        computed(interval, |array| part.values(spans(array)?))
    }
}

/// Returns the lengths of intervals or durations in nanoseconds.
pub(super) fn lengths(intervals: &dyn Array) -> Result<Decimal128Array> {
    let lengths: Decimal128Array = spans(intervals)?.map(|span| span.map(Span::length)).collect();
    Ok(lengths.with_precision_and_scale(38, 0)?)
}

/// Computes a value or a column of values with a function of arrays.
pub(super) fn computed(
    value: &ColumnarValue,
    compute: impl Fn(&dyn Array) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    match value {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(compute(array.as_ref())?)),
        ColumnarValue::Scalar(scalar) => {
            let array = compute(scalar.to_array()?.as_ref())?;
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(array.as_ref(), 0)?))
        }
    }
}

/// The fields of an interval. A duration has days and a time of less than a day.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    months: i32,
    days: i64,
    nanoseconds: i64,
}

impl Span {
    fn of_duration(count: i64, unit_nanoseconds: i64) -> Self {
        let units_per_day = DAY / unit_nanoseconds;
        Self { months: 0, days: count / units_per_day, nanoseconds: count % units_per_day * unit_nanoseconds }
    }

    fn length(self) -> i128 {
        let days = i128::from(self.months) * i128::from(DAYS_PER_MONTH) + i128::from(self.days);
        days * i128::from(DAY) + i128::from(self.nanoseconds)
    }

    fn epoch(self) -> f64 {
        let (years, months) = (i128::from(self.months / 12), i128::from(self.months % 12));
        let days = months * i128::from(DAYS_PER_MONTH) + i128::from(self.days);
        let seconds = years * i128::from(SECONDS_PER_YEAR) + days * i128::from(SECONDS_PER_DAY);
        seconds_of(seconds * i128::from(SECOND) + i128::from(self.nanoseconds))
    }
}

/// Converts nanoseconds to seconds. The result is the nearest one if they are at most 285 years of whole microseconds.
fn seconds_of(nanoseconds: i128) -> f64 {
    if nanoseconds % 1000 == 0 { (nanoseconds / 1000) as f64 / 1e6 } else { nanoseconds as f64 / 1e9 }
}

type Spans<'a> = Box<dyn Iterator<Item = Option<Span>> + 'a>;

fn spans(array: &dyn Array) -> Result<Spans<'_>> {
    let spans: Spans<'_> = match array.data_type() {
        DataType::Null => Box::new(std::iter::repeat_n(None::<Span>, array.len())),
        DataType::Interval(IntervalUnit::YearMonth) => {
            let intervals = array.as_primitive::<IntervalYearMonthType>().iter();
            Box::new(intervals.map(|months| months.map(|months| Span { months, days: 0, nanoseconds: 0 })))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let intervals = array.as_primitive::<IntervalDayTimeType>().iter();
            Box::new(intervals.map(|interval| {
                interval.map(|interval| Span {
                    months: 0,
                    days: i64::from(interval.days),
                    nanoseconds: i64::from(interval.milliseconds) * 1_000_000,
                })
            }))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let intervals = array.as_primitive::<IntervalMonthDayNanoType>().iter();
            Box::new(intervals.map(|interval| {
                interval.map(|interval| Span {
                    months: interval.months,
                    days: i64::from(interval.days),
                    nanoseconds: interval.nanoseconds,
                })
            }))
        }
        DataType::Duration(TimeUnit::Second) => durations::<DurationSecondType>(array, SECOND),
        DataType::Duration(TimeUnit::Millisecond) => durations::<DurationMillisecondType>(array, 1_000_000),
        DataType::Duration(TimeUnit::Microsecond) => durations::<DurationMicrosecondType>(array, 1000),
        DataType::Duration(TimeUnit::Nanosecond) => durations::<DurationNanosecondType>(array, 1),
        other => return internal_err!("{other} is neither an interval nor a duration"),
    };
    Ok(spans)
}

fn durations<T: ArrowPrimitiveType<Native = i64>>(array: &dyn Array, unit_nanoseconds: i64) -> Spans<'_> {
    let counts = array.as_primitive::<T>().iter();
    Box::new(counts.map(move |count| count.map(|count| Span::of_duration(count, unit_nanoseconds))))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Year,
    Quarter,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
    Epoch,
}

impl Part {
    /// Parses the name of a part, which may be in the plural or have quotes around it.
    fn of(name: Option<&ScalarValue>) -> Result<Self> {
        let Some(name) = name.and_then(|name| name.try_as_str().flatten()) else {
            let error = "the part of an interval must be a literal, such as `hour`";
            return Err(QueryError::invalid(error).into_datafusion());
        };
        let plain = name.trim_matches(['\'', '"']).to_lowercase();
        match plain.as_str() {
            "epoch" => return Ok(Self::Epoch),
            "quarter" | "qtr" => return Ok(Self::Quarter),
            _ => {}
        }
        match Unit::from_str(&plain) {
            Ok(Unit::Year) => Ok(Self::Year),
            Ok(Unit::Month) => Ok(Self::Month),
            Ok(Unit::Week) => Ok(Self::Week),
            Ok(Unit::Day) => Ok(Self::Day),
            Ok(Unit::Hour) => Ok(Self::Hour),
            Ok(Unit::Minute) => Ok(Self::Minute),
            Ok(Unit::Second) => Ok(Self::Second),
            Ok(Unit::Millisecond) => Ok(Self::Millisecond),
            Ok(Unit::Microsecond) => Ok(Self::Microsecond),
            Ok(Unit::Nanosecond) => Ok(Self::Nanosecond),
            _ => Err(QueryError::invalid(format!(
                "`{plain}` is not a part of an interval; use year, quarter, month, week, day, hour, minute, second, \
                 millisecond, microsecond, nanosecond or epoch"
            ))
            .into_datafusion()),
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Epoch | Self::Second => DataType::Float64,
            Self::Nanosecond => DataType::Int64,
            _ => DataType::Int32,
        }
    }

    /// Computes the part of each of `spans`, in the type of the part.
    fn values(self, spans: Spans<'_>) -> Result<ArrayRef> {
        let values: ArrayRef = match self {
            Self::Epoch => Arc::new(spans.map(|span| span.map(Span::epoch)).collect::<Float64Array>()),
            Self::Second => {
                let second = |span: Span| seconds_of(i128::from(self.whole(span)));
                Arc::new(spans.map(|span| span.map(second)).collect::<Float64Array>())
            }
            Self::Nanosecond => Arc::new(spans.map(|span| span.map(|span| self.whole(span))).collect::<Int64Array>()),
            _ => {
                let short = |span: Span| {
                    let value = self.whole(span);
                    i32::try_from(value).map_err(|_| {
                        let error = format!("the part {self:?} of a duration is {value}, which does not fit 32 bits");
                        QueryError::invalid(error).into_datafusion()
                    })
                };
                Arc::new(spans.map(|span| span.map(short).transpose()).collect::<Result<Int32Array>>()?)
            }
        };
        Ok(values)
    }

    /// Returns the part as a whole number: nanoseconds for the seconds and the epoch of the time.
    fn whole(self, span: Span) -> i64 {
        let months = i64::from(span.months);
        match self {
            Self::Year => months / 12,
            Self::Quarter => months % 12 / 3 + 1,
            Self::Month => months % 12,
            Self::Week => span.days / 7,
            Self::Day => span.days,
            Self::Hour => span.nanoseconds / HOUR,
            Self::Minute => span.nanoseconds % HOUR / MINUTE,
            Self::Millisecond => span.nanoseconds % MINUTE / 1_000_000,
            Self::Microsecond => span.nanoseconds % MINUTE / 1000,
            Self::Second | Self::Nanosecond => span.nanoseconds % MINUTE,
            Self::Epoch => span.nanoseconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{DurationMicrosecondArray, DurationSecondArray, IntervalMonthDayNanoArray};
    use arrow::datatypes::IntervalMonthDayNano;

    use super::*;

    fn lengths(array: &dyn Array) -> Vec<Option<i128>> {
        spans(array).unwrap().map(|span| span.map(Span::length)).collect()
    }

    fn part(name: &str, array: &dyn Array) -> ArrayRef {
        let name = ScalarValue::from(name);
        Part::of(Some(&name)).unwrap().values(spans(array).unwrap()).unwrap()
    }

    #[test]
    fn lengths_do_not_overflow() {
        let day = i128::from(DAY);
        let interval = IntervalMonthDayNano::new;
        let intervals = IntervalMonthDayNanoArray::from(vec![
            Some(interval(0, 1, 0)),
            Some(interval(0, 0, 36 * HOUR)),
            Some(interval(1, -1, 1)),
            None,
            Some(interval(i32::MAX, i32::MAX, i64::MAX)),
        ]);
        let longest = (i128::from(i32::MAX) * 31) * day + i128::from(i64::MAX);
        assert_eq!(lengths(&intervals), [Some(day), Some(day * 3 / 2), Some(29 * day + 1), None, Some(longest)]);
        let seconds = DurationSecondArray::from(vec![i64::MAX, i64::MIN, -90_000]);
        let expected = [i64::MAX, i64::MIN, -90_000].map(|count| Some(i128::from(count) * i128::from(SECOND)));
        assert_eq!(lengths(&seconds), expected);
    }

    #[test]
    fn parts_of_a_duration_have_days_apart() {
        let durations =
            DurationMicrosecondArray::from(vec![(53 * 3600 + 6 * 60 + 1) * 1_000_000 + 500_001, -61_500_000]);
        let whole = |name| part(name, &durations).as_primitive::<arrow::datatypes::Int32Type>().values().to_vec();
        assert_eq!(whole("DAY"), [2, 0]);
        assert_eq!(whole("hours"), [5, 0]);
        assert_eq!(whole("minute"), [6, -1]);
        assert_eq!(whole("millisecond"), [1500, -1500]);
        assert_eq!(whole("microsecond"), [1_500_001, -1_500_000]);
        let fraction = |name| part(name, &durations).as_primitive::<arrow::datatypes::Float64Type>().values().to_vec();
        assert_eq!(fraction("second"), [1.500_001, -1.5]);
        assert_eq!(fraction("epoch"), [191_161.500_001, -61.5]);
    }

    #[test]
    fn unknown_and_long_parts_are_errors() {
        let name = ScalarValue::from("dow");
        assert!(Part::of(Some(&name)).unwrap_err().to_string().contains("`dow` is not a part of an interval"));
        let seconds = DurationSecondArray::from(vec![i64::MAX]);
        assert!(Part::Day.values(spans(&seconds).unwrap()).unwrap_err().to_string().contains("does not fit 32 bits"));
    }
}
