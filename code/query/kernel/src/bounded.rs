//! Functions whose results are bounded.
//!
//! The planner evaluates functions of constants. `repeat('x', 2000000000)` would end Fuse while it plans, for lack of
//! memory, and `repeat(name, 2000000000)` the HBee that computes it for a batch of rows.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalUnit, TimeUnit};
use buzz_protocol::QueryError;
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::scalar::ScalarValue;

/// Maximum size of a value that a function makes of constants.
const CONSTANT_BYTES_MAX: u64 = 64 << 20;

/// Maximum size of the values that a function makes of the rows of a batch. Offsets of texts end at twice as much.
const BATCH_BYTES_MAX: u64 = 1 << 30;

/// The functions whose result can be much larger than their arguments.
const GROWING: &[&str] = &[
    "repeat",
    "replace",
    "regexp_replace",
    "lpad",
    "rpad",
    "array_repeat",
    "array_resize",
    "range",
    "generate_series",
];

/// Returns bounded versions of the functions whose result can be much larger than their arguments. They replace the
/// functions of the same names in every session.
pub(crate) fn bounded_functions() -> Vec<Arc<ScalarUDF>> {
    static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
        let all = SessionStateDefaults::default_scalar_functions().into_iter();
        let growing = all.filter(|function| GROWING.contains(&function.name()));
        growing.map(|function| Arc::new(ScalarUDF::new_from_impl(Bounded(function)))).collect()
    });
    FUNCTIONS.clone()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded(Arc<ScalarUDF>);

impl Bounded {
    fn inner(&self) -> &dyn ScalarUDFImpl {
        self.0.inner().as_ref()
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner().aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner().return_field_from_args(args)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let updated = self.inner().with_updated_config(config)?;
        Some(ScalarUDF::new_from_impl(Self(Arc::new(updated))))
    }

    fn is_strict(&self) -> bool {
        self.inner().is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if bytes_made(self.name(), &args.args).is_some_and(|bytes| bytes > CONSTANT_BYTES_MAX) {
            let error = QueryError::limit(format!(
                "`{}` makes a value of more than {} MiB of constants; make it shorter",
                self.name(),
                CONSTANT_BYTES_MAX >> 20
            ));
            return Err(error.into_datafusion());
        }
        if bytes_of_rows(self.name(), &args.args, args.number_rows).is_some_and(|bytes| bytes > BATCH_BYTES_MAX) {
            let error = QueryError::limit(format!(
                "`{}` makes values of more than {} MiB for a batch of {} rows; make them shorter, or lower the option `batch_size`",
                self.name(),
                BATCH_BYTES_MAX >> 20,
                args.number_rows
            ));
            return Err(error.into_datafusion());
        }
        self.inner().invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner().simplify(args, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner().short_circuits()
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner().evaluate_bounds(input)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner().preserves_lex_ordering(inputs)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner().coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }
}

/// Returns the approximate size of the result of function `name`. `None` if an argument is a column, or without an
/// estimate.
fn bytes_made(name: &str, args: &[ColumnarValue]) -> Option<u64> {
    let constant = |arg: &ColumnarValue| match arg {
        ColumnarValue::Scalar(value) => Some(value.clone()),
        ColumnarValue::Array(_) => None,
    };
    let values = args.iter().map(constant).collect::<Option<Vec<_>>>()?;
    let number = |at: usize| match values.get(at)?.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(number) => number,
        _ => None,
    };
    let times = |at: usize| number(at).map(|count| u64::try_from(count).unwrap_or(0));
    let text_bytes = |at: usize| Some(values.get(at)?.try_as_str()??.len() as u64);
    match name {
        "replace" | "regexp_replace" => Some(text_bytes(0)?.saturating_mul(text_bytes(2)?.max(1))),
        "array_resize" => Some(times(1)?.saturating_mul(size_of::<i64>() as u64)),
        "repeat" => Some((values.first()?.try_as_str()??.len() as u64).saturating_mul(times(1)?)),
        "lpad" | "rpad" => times(1),
        "array_repeat" => Some((values.first()?.size() as u64).saturating_mul(times(1)?)),
        _ if values.len() > 2 && matches!(values[2].data_type(), DataType::Interval(_)) => {
            let steps = (seconds(&values[1])? - seconds(&values[0])?).abs() / interval_seconds(&values[2])?;
            Some((steps * size_of::<i64>() as f64) as u64)
        }
        _ => {
            let (start, stop) = if values.len() == 1 { (0, number(0)?) } else { (number(0)?, number(1)?) };
            let step = if values.len() > 2 { number(2)? } else { 1 };
            Some(steps(start, stop, step).saturating_mul(size_of::<i64>() as u64))
        }
    }
}

/// Returns the approximate size of what function `name` makes of `rows` rows. `None` if no argument is a column, or without an
/// estimate: what `replace` makes depends on how often it finds its text.
fn bytes_of_rows(name: &str, args: &[ColumnarValue], rows: usize) -> Option<u64> {
    if !args.iter().any(|arg| matches!(arg, ColumnarValue::Array(_))) {
        return None;
    }
    let number = |at: usize| Numbers::of(args.get(at)?);
    let sum = |of: &dyn Fn(usize) -> u64| (0..rows).fold(0_u64, |sum, row| sum.saturating_add(of(row)));
    let element = size_of::<i64>() as u64;
    match name {
        "lpad" | "rpad" => {
            let lengths = number(1)?;
            // A character has up to four bytes.
            let bytes: u64 = if args.get(2).is_none_or(is_ascii) { 1 } else { 4 };
            Some(sum(&|row| lengths.count(row).saturating_mul(bytes)))
        }
        "repeat" => {
            let (lengths, counts) = (Numbers::of_bytes(args.first()?)?, number(1)?);
            Some(sum(&|row| lengths.count(row).saturating_mul(counts.count(row))))
        }
        "array_repeat" | "array_resize" => {
            let counts = number(1)?;
            Some(sum(&|row| counts.count(row).saturating_mul(element)))
        }
        "range" | "generate_series" => {
            let first = number(0)?;
            let (start, stop) = if args.len() == 1 { (Numbers::One(Some(0)), first) } else { (first, number(1)?) };
            let step = if args.len() > 2 { number(2)? } else { Numbers::One(Some(1)) };
            Some(sum(&|row| match (start.at(row), stop.at(row), step.at(row)) {
                (Some(start), Some(stop), Some(step)) => steps(start, stop, step).saturating_mul(element),
                _ => 0,
            }))
        }
        _ => None,
    }
}

/// Returns the number of steps from `start` to `stop`; none if they lead away from it.
fn steps(start: i64, stop: i64, step: i64) -> u64 {
    if (step < 0) == (stop < start) { stop.abs_diff(start) / step.unsigned_abs().max(1) } else { 0 }
}

/// Checks if a text is known to have characters of one byte only.
fn is_ascii(text: &ColumnarValue) -> bool {
    match text {
        ColumnarValue::Scalar(value) => value.try_as_str().flatten().is_none_or(str::is_ascii),
        ColumnarValue::Array(_) => false,
    }
}

/// The whole numbers that an argument has for the rows of a batch.
enum Numbers {
    One(Option<i64>),
    Many(Int64Array),
}

impl Numbers {
    /// Returns the values of `arg`. `None` if they are not whole numbers.
    fn of(arg: &ColumnarValue) -> Option<Self> {
        if !arg.data_type().is_integer() {
            return None;
        }
        match arg {
            ColumnarValue::Scalar(value) => match value.cast_to(&DataType::Int64).ok()? {
                ScalarValue::Int64(number) => Some(Self::One(number)),
                _ => None,
            },
            ColumnarValue::Array(values) => {
                Some(Self::Many(cast(values, &DataType::Int64).ok()?.as_primitive::<Int64Type>().clone()))
            }
        }
    }

    /// Returns the bytes of the texts of `arg`. `None` if they are not texts.
    fn of_bytes(arg: &ColumnarValue) -> Option<Self> {
        match arg {
            ColumnarValue::Scalar(value) => Some(Self::One(Some(i64::try_from(value.try_as_str()??.len()).ok()?))),
            ColumnarValue::Array(texts) => {
                let lengths = length(texts.as_ref()).ok()?;
                Some(Self::Many(cast(&lengths, &DataType::Int64).ok()?.as_primitive::<Int64Type>().clone()))
            }
        }
    }

    fn at(&self, row: usize) -> Option<i64> {
        match self {
            Self::One(number) => *number,
            Self::Many(numbers) => (row < numbers.len() && numbers.is_valid(row)).then(|| numbers.value(row)),
        }
    }

    /// Returns the number of `row`, which counts something: 0 if it is negative or null.
    fn count(&self, row: usize) -> u64 {
        self.at(row).and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
    }
}

/// Returns a time in seconds since 1970.
fn seconds(time: &ScalarValue) -> Option<f64> {
    match time.cast_to(&DataType::Timestamp(TimeUnit::Second, None)).ok()? {
        ScalarValue::TimestampSecond(seconds, _) => seconds.map(|seconds| seconds as f64),
        _ => None,
    }
}

/// Returns the length of an interval in seconds, at least that of a nanosecond. A month has 28 days.
fn interval_seconds(interval: &ScalarValue) -> Option<f64> {
    match interval.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)).ok()? {
        ScalarValue::IntervalMonthDayNano(Some(step)) => {
            let days = f64::from(step.months) * 28.0 + f64::from(step.days);
            Some((days * 86_400.0 + step.nanoseconds as f64 / 1e9).abs().max(1e-9))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str, values: &[ScalarValue]) -> Option<u64> {
        bytes_made(name, &values.iter().cloned().map(ColumnarValue::Scalar).collect::<Vec<_>>())
    }

    #[test]
    fn size_is_estimated_from_constants() {
        let text = |text: &str| ScalarValue::from(text);
        assert_eq!(made("repeat", &[text("abc"), ScalarValue::from(2_000_000_000_i64)]), Some(6_000_000_000));
        assert_eq!(made("repeat", &[text("abc"), ScalarValue::from(-1_i64)]), Some(0));
        assert_eq!(made("repeat", &[ScalarValue::Utf8(None), ScalarValue::from(7_i64)]), None);
        assert_eq!(made("lpad", &[text("a"), ScalarValue::from(9_i32), text("x")]), Some(9));
        assert_eq!(made("range", &[ScalarValue::from(10_i64)]), Some(80));
        let series = [5_i64, -5, -2].map(ScalarValue::from);
        assert_eq!(made("generate_series", &series), Some(40));
        let texts = [text("aaaa"), text("a"), text("bbb")];
        assert_eq!(made("replace", &texts), Some(12));
        let time = |seconds| ScalarValue::TimestampSecond(Some(seconds), None);
        let step = ScalarValue::new_interval_mdn(0, 0, 1_000_000_000);
        assert_eq!(made("generate_series", &[time(0), time(100), step]), Some(800));
        let column = [ColumnarValue::Array(Arc::new(arrow::array::StringArray::from(vec!["a"])))];
        assert_eq!(bytes_made("repeat", &column), None);
    }

    #[test]
    fn size_is_estimated_from_rows() {
        let texts =
            ColumnarValue::Array(Arc::new(arrow::array::StringArray::from(vec![Some("abc"), None, Some("de")])));
        let counts = ColumnarValue::Array(Arc::new(Int64Array::from(vec![Some(10), Some(5), Some(-1)])));
        let million = ColumnarValue::Scalar(ScalarValue::from(1_000_000_i32));
        let made = |name, args: [&ColumnarValue; 2]| bytes_of_rows(name, &args.map(ColumnarValue::clone), 3);
        assert_eq!(made("lpad", [&texts, &million]), Some(3_000_000));
        assert_eq!(made("repeat", [&texts, &counts]), Some(30));
        assert_eq!(made("repeat", [&texts, &million]), Some(5_000_000));
        assert_eq!(made("repeat", [&ColumnarValue::Scalar(ScalarValue::from("abcd")), &counts]), Some(60));
        assert_eq!(made("array_repeat", [&texts, &counts]), Some(120));
        assert_eq!(made("generate_series", [&counts, &million]), Some((999_990 + 999_995 + 1_000_001) * 8));
        let away = bytes_of_rows("range", &[million.clone(), counts.clone()], 3);
        assert_eq!(away, Some(0), "a series away from its end is empty");
        assert_eq!(made("replace", [&texts, &texts]), None);
        assert_eq!(made("repeat", [&million, &million]), None);
    }

    #[test]
    fn every_growing_function_has_a_bounded_version() {
        let mut names: Vec<String> = bounded_functions().iter().map(|function| function.name().to_string()).collect();
        names.sort();
        let mut growing = GROWING.to_vec();
        growing.sort_unstable();
        assert_eq!(names, growing);
    }
}
