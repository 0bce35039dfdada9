//! Functions whose result over constants is bounded.
//!
//! The planner evaluates functions of constants. `repeat('x', 2000000000)` would end Fuse while it plans, for lack of
//! memory.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef, IntervalUnit, TimeUnit};
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
            let step = if values.len() > 2 { number(2)?.unsigned_abs().max(1) } else { 1 };
            Some((stop.abs_diff(start) / step).saturating_mul(size_of::<i64>() as u64))
        }
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
    fn every_growing_function_has_a_bounded_version() {
        let mut names: Vec<String> = bounded_functions().iter().map(|function| function.name().to_string()).collect();
        names.sort();
        let mut growing = GROWING.to_vec();
        growing.sort_unstable();
        assert_eq!(names, growing);
    }
}
