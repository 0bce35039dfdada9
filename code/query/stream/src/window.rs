//! Windows of event time, and the functions that stand for them in SQL.
//!
//! `tumble`, `hop` and `session` are placeholders: the SQL planner accepts them, and lowering (`lower`) replaces them
//! before the optimizer runs. The functions `buzz_slice`, `buzz_window`, `buzz_windows` and `buzz_whole` compute times
//! and are evaluated.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, TimestampNanosecondArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit, TimestampNanosecondType};
use arrow::util::display::array_value_to_string;
use buzz_protocol::{QueryError, Result};
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Maximum number of windows that one row may belong to.
const WINDOWS_PER_ROW_MAX: i64 = 10_000;

/// A day in nanoseconds.
pub(crate) const DAY: i64 = 86_400_000_000_000;

/// Maximum length of a window in nanoseconds: 100 years. Times are 64-bit nanoseconds from 1677 to 2262.
const WIDTH_MAX: i64 = 36_500 * DAY;

/// Maximum sum of the lengths of the windows of a statement in nanoseconds, half of the time after 1970: windows of times
/// from 1824 to 2115 fit whatever the statement.
pub(crate) const REACH_MAX: i64 = 53_375 * DAY;

/// The type of event time inside a pipeline.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, None)
}

fn window_fields() -> Fields {
    Fields::from(vec![Field::new("start", time_type(), true), Field::new("end", time_type(), true)])
}

/// The type of a window column: `(start: Timestamp(ns), end: Timestamp(ns))`.
pub(crate) fn window_type() -> DataType {
    DataType::Struct(window_fields())
}

/// Builds a window column from starts and ends.
pub(crate) fn window_array(starts: ArrayRef, ends: ArrayRef) -> ArrayRef {
    let nulls = starts.nulls().cloned();
    Arc::new(StructArray::new(window_fields(), vec![starts, ends], nulls))
}

/// A window specification. Durations are nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowSpec {
    /// Windows of `width` that start every `slide`, aligned to 1970-01-01. A tumbling window has `slide == width`.
    Hop {
        /// Distance between two starts.
        slide: i64,
        /// Length of a window.
        width: i64,
    },
    /// Rows of a key that are at most `gap` apart.
    Session {
        /// Maximum distance between two rows of a session.
        gap: i64,
    },
    /// No window: groups never end.
    Never,
}

impl WindowSpec {
    /// Returns the width of the slices of which windows of this kind are composed.
    pub(crate) fn slice(self) -> i64 {
        match self {
            Self::Hop { slide, width } => gcd(slide, width),
            Self::Session { .. } | Self::Never => 1,
        }
    }

    /// Returns the distance between a time and the farthest start or end of a window that contains it.
    pub(crate) fn reach(self) -> i64 {
        match self {
            Self::Hop { width, .. } => width,
            Self::Session { gap } => gap,
            Self::Never => 0,
        }
    }

    /// Returns the end of the last window that contains `time`, or `None` if no window contains it.
    pub(crate) fn last_end(self, time: i64) -> Option<i64> {
        match self {
            Self::Hop { slide, width } => {
                let end = floor(time, slide)?.saturating_add(width);
                (time < end).then_some(end)
            }
            Self::Session { gap } => Some(time.saturating_add(gap)),
            Self::Never => None,
        }
    }

    /// Returns a time up to which all rows belong to windows that were closed, if all windows with rows up to `time` were.
    pub(crate) fn closed_after(self, time: i64) -> i64 {
        match self {
            Self::Hop { .. } => self.last_end(time).unwrap_or(time),
            // A row up to `gap` after the last one belongs to its session, and its own session would end as much later.
            Self::Session { gap } => time.saturating_add(gap).saturating_add(gap).saturating_add(1),
            Self::Never => time,
        }
    }

    /// Returns true if a window that ends at `end` is closed by `watermark`: no row with a time of at least `watermark`
    /// can belong to it.
    pub(crate) fn is_closed(self, end: i64, watermark: i64) -> bool {
        match self {
            Self::Hop { .. } => end <= watermark,
            // A row exactly `gap` after the last one still belongs to the session.
            Self::Session { .. } => end < watermark,
            Self::Never => false,
        }
    }
}

impl fmt::Display for WindowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hop { slide, width } if slide == width => write!(f, "tumble({})", duration(width)),
            Self::Hop { slide, width } => write!(f, "hop({}, {})", duration(slide), duration(width)),
            Self::Session { gap } => write!(f, "session({})", duration(gap)),
            Self::Never => f.write_str("no window"),
        }
    }
}

/// Formats nanoseconds for people, such as `2 s`.
pub(crate) fn duration(nanos: i64) -> String {
    const UNITS: [(i64, &str); 6] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "min"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "µs"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| nanos != 0 && nanos % unit == 0);
    unit.map_or_else(|| format!("{nanos} ns"), |(unit, name)| format!("{} {name}", nanos / unit))
}

/// Returns the largest multiple of `step` that is at most `value`, or `None` if it is before the first time.
fn floor(value: i64, step: i64) -> Option<i64> {
    value.checked_sub(value.rem_euclid(step))
}

/// Returns the smallest multiple of `step` that is at least `value`.
pub(crate) fn ceil(value: i64, step: i64) -> i64 {
    match value.rem_euclid(step) {
        0 => value,
        rest => value.saturating_add(step - rest),
    }
}

/// Returns the reason for which a row is left out whose windows begin before the first time or end after the last one.
pub(crate) fn unfit_reason(time: i64) -> String {
    let text = array_value_to_string(&TimestampNanosecondArray::from(vec![time]), 0);
    let text = text.unwrap_or_else(|_| format!("{time} ns"));
    format!("the windows of event time {text} do not fit between 1677-09-21 and 2262-04-11")
}

fn unfit(time: i64) -> QueryError {
    QueryError::data(format!("{}; correct the time, or leave the row out by WHERE", unfit_reason(time)))
}

/// Adds `length` to times.
///
/// # Errors
/// `Data` if a sum is after the last time.
pub(crate) fn later(times: &TimestampNanosecondArray, length: i64) -> Result<TimestampNanosecondArray> {
    times.try_unary(|time| time.checked_add(length).ok_or_else(|| unfit(time)))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The part of a window that a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// The struct of both.
    Window,
    /// The start.
    Start,
    /// The end.
    End,
}

/// A call of a placeholder: the window, and the time column if the call names one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowCall {
    pub(crate) spec: WindowSpec,
    pub(crate) time: Option<Expr>,
}

/// Names of the placeholder functions.
const PLACEHOLDERS: [&str; 3] = ["tumble", "hop", "session"];

/// Reads `expr` as a call of a placeholder.
///
/// # Errors
/// `Invalid` if its arguments are not intervals of a fixed positive length.
pub(crate) fn window_call(expr: &Expr) -> Result<Option<WindowCall>> {
    let Expr::ScalarFunction(function) = expr else { return Ok(None) };
    let name = function.name();
    if !PLACEHOLDERS.contains(&name) {
        return Ok(None);
    }
    let mut args = function.args.as_slice();
    let mut time = None;
    if let [first, rest @ ..] = args
        && interval_literal(first).is_none()
    {
        time = Some(first.clone());
        args = rest;
    }
    let lengths = args.iter().map(|arg| interval(name, arg)).collect::<Result<Vec<i64>>>()?;
    let spec = match (name, lengths.as_slice()) {
        ("tumble", [width]) => WindowSpec::Hop { slide: *width, width: *width },
        ("hop", [slide, width]) => WindowSpec::Hop { slide: *slide, width: *width },
        ("session", [gap]) => WindowSpec::Session { gap: *gap },
        ("tumble", _) => return Err(QueryError::invalid("tumble takes one interval: tumble(interval '10 seconds')")),
        ("hop", _) => {
            return Err(QueryError::invalid("hop takes two intervals: hop(interval 'slide', interval 'width')"));
        }
        _ => return Err(QueryError::invalid("session takes one interval: session(interval '10 seconds')")),
    };
    if let WindowSpec::Hop { slide, width } = spec {
        if slide > width {
            return Err(QueryError::invalid(format!(
                "hop has a slide of {} and a width of {}, so rows between two windows would be lost; \
                 use a slide of at most the width",
                duration(slide),
                duration(width)
            )));
        }
        if width / slide > WINDOWS_PER_ROW_MAX || width / spec.slice() > WINDOWS_PER_ROW_MAX {
            return Err(QueryError::invalid(format!(
                "hop({}, {}) puts each row into more than {WINDOWS_PER_ROW_MAX} windows or slices; use a longer slide",
                duration(slide),
                duration(width)
            )));
        }
    }
    Ok(Some(WindowCall { spec, time }))
}

/// Returns the nanoseconds of an interval, which may be more than a window can have.
pub(crate) fn interval_literal(expr: &Expr) -> Option<Result<i128>> {
    let days = |days: i32| i128::from(days) * i128::from(DAY);
    let variable = || Err(QueryError::invalid("a window of months has no fixed length; use days"));
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _) => Some(match value.months {
            0 => Ok(days(value.days) + i128::from(value.nanoseconds)),
            _ => variable(),
        }),
        Expr::Literal(ScalarValue::IntervalDayTime(Some(value)), _) => {
            Some(Ok(days(value.days) + i128::from(value.milliseconds) * 1_000_000))
        }
        Expr::Literal(ScalarValue::IntervalYearMonth(Some(_)), _) => Some(variable()),
        Expr::Negative(inner) => interval_literal(inner).map(|value| value.map(|value| -value)),
        Expr::Cast(cast) => interval_literal(&cast.expr),
        _ => None,
    }
}

fn interval(function: &str, expr: &Expr) -> Result<i64> {
    match interval_literal(expr) {
        Some(Ok(value)) if value <= 0 => {
            Err(QueryError::invalid(format!("{function} requires an interval longer than zero")))
        }
        Some(Ok(value)) => i64::try_from(value).ok().filter(|&nanos| nanos <= WIDTH_MAX).ok_or_else(|| {
            QueryError::invalid(format!(
                "{function} has an interval of {} d, but a window has at most {}; use a shorter interval",
                value / i128::from(DAY),
                duration(WIDTH_MAX)
            ))
        }),
        Some(Err(error)) => Err(error),
        None => Err(QueryError::invalid(format!(
            "{function} requires a constant interval such as interval '10 seconds', not `{expr}`"
        ))),
    }
}

/// Returns the functions that a planning session needs.
pub(crate) fn functions() -> Vec<ScalarUDF> {
    let placeholders = PLACEHOLDERS
        .into_iter()
        .map(|name| Placeholder { name, signature: Signature::variadic_any(Volatility::Volatile) });
    placeholders.map(ScalarUDF::from).chain([slice_udf(), window_udf(), windows_udf(), whole_udf()]).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Placeholder {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Placeholder {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(window_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        plan_err!("{}() can only be used over a stream, in SELECT or GROUP BY", self.name)
    }
}

/// A function of event time with constant widths.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeFunction {
    kind: TimeFunctionKind,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum TimeFunctionKind {
    Slice,
    Window,
    Windows,
    Whole,
}

fn time_function(kind: TimeFunctionKind, arguments: usize) -> ScalarUDF {
    ScalarUDF::from(TimeFunction { kind, signature: Signature::any(arguments, Volatility::Immutable) })
}

/// `buzz_slice(time, width)`: the start of the slice that contains `time`.
pub(crate) fn slice_udf() -> ScalarUDF {
    time_function(TimeFunctionKind::Slice, 2)
}

/// `buzz_window(time, width)`: the tumbling window that contains `time`.
pub(crate) fn window_udf() -> ScalarUDF {
    time_function(TimeFunctionKind::Window, 2)
}

/// `buzz_whole(time)`: the same for each time. The optimizer would remove a constant from GROUP BY.
pub(crate) fn whole_udf() -> ScalarUDF {
    time_function(TimeFunctionKind::Whole, 1)
}

/// `buzz_windows(time, slide, width)`: the list of hopping windows that contain `time`.
pub(crate) fn windows_udf() -> ScalarUDF {
    time_function(TimeFunctionKind::Windows, 3)
}

impl ScalarUDFImpl for TimeFunction {
    fn name(&self) -> &str {
        match self.kind {
            TimeFunctionKind::Slice => "buzz_slice",
            TimeFunctionKind::Window => "buzz_window",
            TimeFunctionKind::Windows => "buzz_windows",
            TimeFunctionKind::Whole => "buzz_whole",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(match self.kind {
            TimeFunctionKind::Slice | TimeFunctionKind::Whole => time_type(),
            TimeFunctionKind::Window => window_type(),
            TimeFunctionKind::Windows => DataType::List(Arc::new(Field::new_list_field(window_type(), true))),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let constant = |index: usize| match args.args.get(index) {
            Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(width)))) if *width > 0 => Ok(*width),
            _ => internal_err!("{} requires constant widths", self.name()),
        };
        let times = args.args[0].to_array(args.number_rows)?;
        let Some(times) = times.as_primitive_opt::<TimestampNanosecondType>() else {
            return internal_err!("{} requires a timestamp in nanoseconds", self.name());
        };
        let array: ArrayRef = match self.kind {
            TimeFunctionKind::Slice => Arc::new(starts_of(times, constant(1)?).map_err(QueryError::into_datafusion)?),
            TimeFunctionKind::Window => {
                let width = constant(1)?;
                let starts = starts_of(times, width).map_err(QueryError::into_datafusion)?;
                let ends = ends_of(times, width).map_err(QueryError::into_datafusion)?;
                window_array(Arc::new(starts), Arc::new(ends))
            }
            TimeFunctionKind::Windows => {
                windows_of(times, constant(1)?, constant(2)?).map_err(QueryError::into_datafusion)?
            }
            TimeFunctionKind::Whole => Arc::new(TimestampNanosecondArray::from_value(0, times.len())),
        };
        Ok(ColumnarValue::Array(array))
    }
}

/// Returns the start of the tumbling window that contains each time.
fn starts_of(times: &TimestampNanosecondArray, width: i64) -> Result<TimestampNanosecondArray> {
    times.try_unary(|time| floor(time, width).ok_or_else(|| unfit(time)))
}

/// Returns the end of the tumbling window that contains each time.
fn ends_of(times: &TimestampNanosecondArray, width: i64) -> Result<TimestampNanosecondArray> {
    times.try_unary(|time| floor(time, width).and_then(|start| start.checked_add(width)).ok_or_else(|| unfit(time)))
}

fn windows_of(times: &TimestampNanosecondArray, slide: i64, width: i64) -> Result<ArrayRef> {
    let capacity = times.len() * (width / slide + 1) as usize;
    let (mut starts, mut ends) = (Vec::<i64>::with_capacity(capacity), Vec::<i64>::with_capacity(capacity));
    let mut offsets = Vec::with_capacity(times.len() + 1);
    offsets.push(0i32);
    for time in times.iter() {
        if let Some(time) = time {
            // The first window is the first multiple of `slide` that is greater than `time - width`.
            let mut start = ceil(time.checked_sub(width - 1).ok_or_else(|| unfit(time))?, slide);
            while start <= time {
                // If the end fits, the next start does too.
                ends.push(start.checked_add(width).ok_or_else(|| unfit(time))?);
                starts.push(start);
                start += slide;
            }
        }
        offsets.push(starts.len() as i32);
    }
    let (starts, ends) = (TimestampNanosecondArray::from(starts), TimestampNanosecondArray::from(ends));
    let windows = window_array(Arc::new(starts), Arc::new(ends));
    let nulls: Option<NullBuffer> = times.nulls().cloned();
    let field = Arc::new(Field::new_list_field(window_type(), true));
    Ok(Arc::new(ListArray::new(field, OffsetBuffer::new(offsets.into()), windows, nulls)))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::IntervalMonthDayNano;
    use buzz_protocol::ErrorKind;
    use datafusion::logical_expr::lit;

    use super::*;

    #[test]
    fn windows_before_1970_are_aligned_as_those_after() {
        assert_eq!((floor(-1, 10), floor(-10, 10), ceil(-1, 10), ceil(11, 10)), (Some(-10), Some(-10), 0, 20));
    }

    #[test]
    fn last_end_is_the_end_of_the_newest_window() {
        assert_eq!(WindowSpec::Hop { slide: 2, width: 10 }.last_end(5), Some(14));
        assert_eq!(WindowSpec::Hop { slide: 4, width: 10 }.last_end(3), Some(10));
    }

    #[test]
    fn hop_lists_each_window_that_contains_a_time() {
        let windows = windows_of(&TimestampNanosecondArray::from(vec![5]), 4, 10).expect("the windows fit");
        let starts = windows.as_list::<i32>().value(0);
        let starts = starts.as_struct().column(0).as_primitive::<TimestampNanosecondType>().clone();
        assert_eq!(starts.values().to_vec(), vec![-4, 0, 4]);
    }

    fn call(name: &str, days: i32) -> Result<Option<WindowCall>> {
        let function = functions().into_iter().find(|function| function.name() == name).expect("a placeholder");
        let interval = lit(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, days, 0))));
        let arguments = if name == "hop" { vec![interval.clone(), interval] } else { vec![interval] };
        window_call(&function.call(arguments))
    }

    #[test]
    fn window_that_is_too_long_is_refused_with_the_largest_width() {
        for name in PLACEHOLDERS {
            for days in [36_501, 107_000, i32::MAX] {
                let error = call(name, days).expect_err("the window is too long").to_string();
                let expected = format!("{name} has an interval of {days} d, but a window has at most 36500 d");
                assert!(error.contains(&expected), "{error}");
            }
            let call = call(name, 36_500).expect("100 years are allowed").expect("it is a window");
            assert_eq!(call.spec.reach(), WIDTH_MAX);
        }
    }

    #[test]
    fn window_beyond_the_ends_of_time_is_an_error_that_names_the_time() {
        let (slide, width) = (2, 10);
        let compute = |time: i64| {
            let times = TimestampNanosecondArray::from(vec![None, Some(time)]);
            starts_of(&times, width)?;
            ends_of(&times, width)?;
            later(&times, width)?;
            windows_of(&times, slide, width)
        };
        for (time, text) in [(i64::MAX, "2262-04-11T23:47:16.854775807"), (i64::MIN, "1677-09-21T00:12:43.145224192")] {
            let error = compute(time).expect_err("the window does not fit");
            assert_eq!(error.kind, ErrorKind::Data);
            assert!(error.to_string().contains(text), "{error}");
        }
        for time in [i64::MAX - width, i64::MIN + width] {
            let windows = compute(time).expect("the windows fit");
            assert_eq!(windows.as_list::<i32>().value(1).len(), 5);
        }
        for spec in [WindowSpec::Hop { slide, width }, WindowSpec::Session { gap: width }] {
            let _ = (spec.last_end(i64::MIN), spec.last_end(i64::MAX));
        }
    }
}
