//! The function `buzz_null_if(value, other)`, which is `nullif` for values whose equality is not that of Arrow.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::doubles::in_one_form;
use super::instants::{instants, unit_nanoseconds};
use super::spans::lengths;

/// Returns the function `buzz_null_if(value, other)`: null if both are equal, otherwise `value`. Intervals and durations are equal if
/// they have the same length, dates and timestamps if they are the same instant, and doubles if they have the same value.
pub fn null_if() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(NullIf { signature: Signature::any(2, Volatility::Immutable) }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NullIf {
    signature: Signature,
}

impl ScalarUDFImpl for NullIf {
    fn name(&self) -> &'static str {
        "buzz_null_if"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [value, _] => Ok(value.clone()),
            _ => internal_err!("buzz_null_if takes two values"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [value, _] = args.arg_fields else { return internal_err!("buzz_null_if takes two values") };
        Ok(Arc::new(Field::new(self.name(), value.data_type().clone(), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [value, other] = arrays.as_slice() else { return internal_err!("buzz_null_if takes two values") };
        let result = nullif(value, &eq(&key(value.as_ref())?, &key(other.as_ref())?)?)?;
        if is_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// Returns what is compared: nanoseconds, or doubles in one form.
fn key(values: &dyn Array) -> Result<ArrayRef> {
    if values.data_type().is_floating() {
        return in_one_form(values);
    }
    Ok(Arc::new(if unit_nanoseconds(values.data_type()).is_some() { instants(values)? } else { lengths(values)? }))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Float64Array, IntervalMonthDayNanoArray, TimestampNanosecondArray};
    use arrow::datatypes::IntervalMonthDayNano;

    use super::*;

    #[test]
    fn values_of_one_length_or_instant_are_equal() {
        let equal = |left: &dyn Array, right: &dyn Array| {
            let equal = eq(&key(left).unwrap(), &key(right).unwrap()).unwrap();
            equal.value(0)
        };
        let interval = |days, hours: i64| {
            IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(0, days, hours * 3_600_000_000_000)])
        };
        assert!(equal(&interval(1, 0), &interval(0, 24)));
        assert!(!equal(&interval(1, 0), &interval(0, 25)));
        assert!(equal(&Float64Array::from(vec![-0.0]), &Float64Array::from(vec![0.0])));
        assert!(equal(&Date32Array::from(vec![1]), &TimestampNanosecondArray::from(vec![86_400_000_000_000])));
    }
}
