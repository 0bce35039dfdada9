//! `round` of doubles without an intermediate result that is infinite.
//!
//! DataFusion multiplies by a power of ten, rounds and divides: `round(1e300, 10)` was infinite. A number that is too large to be
//! multiplied has no digits behind the point.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, FieldRef, Float32Type, Float64Type};
use datafusion::error::Result;
use datafusion::functions::math;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::scalar::ScalarValue;

/// Returns `round`, whose result is finite if its argument is. It replaces the function of this name in every session.
pub(crate) fn finite_round() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(Finite(math::round()))));
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Finite(Arc<ScalarUDF>);

impl ScalarUDFImpl for Finite {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn is_strict(&self) -> bool {
        self.0.inner().is_strict()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.inner().return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let number = args.args.first().cloned();
        let to_zero =
            matches!(args.args.get(1), Some(ColumnarValue::Scalar(ScalarValue::Int32(Some(places)))) if *places < 0);
        let rounded = self.0.inner().invoke_with_args(args)?;
        match (number, rounded) {
            (Some(ColumnarValue::Array(numbers)), ColumnarValue::Array(rounded)) => {
                Ok(ColumnarValue::Array(finite(&numbers, rounded, to_zero)))
            }
            (Some(ColumnarValue::Scalar(number)), ColumnarValue::Scalar(rounded)) => {
                let rounded = finite(&number.to_array()?, rounded.to_array()?, to_zero);
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&rounded, 0)?))
            }
            (Some(ColumnarValue::Scalar(number)), ColumnarValue::Array(rounded)) => {
                Ok(ColumnarValue::Array(finite(&number.to_array_of_size(rounded.len())?, rounded, to_zero)))
            }
            (_, rounded) => Ok(rounded),
        }
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.0.inner().output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.inner().documentation()
    }
}

/// Returns `rounded` with the number itself where that is finite and the result is not, or zero where the result is NaN and
/// digits before the point are rounded (`to_zero`): the power of ten was zero. Other types than doubles stay.
fn finite(numbers: &ArrayRef, rounded: ArrayRef, to_zero: bool) -> ArrayRef {
    match (numbers.data_type(), rounded.data_type()) {
        (DataType::Float64, DataType::Float64) => of::<Float64Type>(numbers, &rounded, f64::is_finite, to_zero),
        (DataType::Float32, DataType::Float32) => of::<Float32Type>(numbers, &rounded, f32::is_finite, to_zero),
        _ => rounded,
    }
}

fn of<T: ArrowPrimitiveType>(
    numbers: &ArrayRef,
    rounded: &ArrayRef,
    is_finite: fn(T::Native) -> bool,
    to_zero: bool,
) -> ArrayRef {
    let rounded = rounded.as_primitive::<T>();
    if rounded.values().iter().all(|value| is_finite(*value)) {
        return Arc::new(rounded.clone());
    }
    let both = numbers.as_primitive::<T>().iter().zip(rounded.iter());
    let values: PrimitiveArray<T> = both
        .map(|(number, rounded)| match (number, rounded) {
            (Some(number), Some(rounded)) if is_finite(number) && !is_finite(rounded) => {
                let is_nan = rounded.partial_cmp(&rounded).is_none();
                Some(if to_zero && is_nan { T::default_value() } else { number })
            }
            (_, rounded) => rounded,
        })
        .collect();
    Arc::new(values)
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    #[test]
    fn results_of_finite_numbers_are_finite() {
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![Some(1e300), Some(f64::INFINITY), None, Some(1.25)]));
        let rounded: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(f64::INFINITY), Some(f64::INFINITY), None, Some(1.3)]));
        let expected: ArrayRef = Arc::new(Float64Array::from(vec![Some(1e300), Some(f64::INFINITY), None, Some(1.3)]));
        assert_eq!(&finite(&numbers, rounded, false), &expected);
        let (five, nan): (ArrayRef, ArrayRef) =
            (Arc::new(Float64Array::from(vec![5.0])), Arc::new(Float64Array::from(vec![f64::NAN])));
        let zero: ArrayRef = Arc::new(Float64Array::from(vec![0.0]));
        assert_eq!(&finite(&five, nan, true), &zero);
    }
}
