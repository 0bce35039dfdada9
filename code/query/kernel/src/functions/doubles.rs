//! The functions `buzz_double(x)`, which gives equal doubles one form, and `buzz_nan(x)`, which gives it to NaN only.
//!
//! `-0.0` and `0.0` are equal, and all NaN are one value, but Arrow compares their bits: `nullif`, `CASE x WHEN` and the peers of a
//! window told them apart, and a NaN with a sign bit, which `0.0 / 0.0` is, was less than all numbers.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef, Float32Type, Float64Type};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::spans::computed;

/// Returns the function `buzz_double(x)`: 0 for `-0.0`, one NaN for each NaN, and `x` otherwise, a Float32 or a Float64.
pub fn one_form() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function("buzz_double", in_one_form));
    Arc::clone(&FUNCTION)
}

/// Returns the function `buzz_nan(x)`: one NaN, without a sign bit, for each NaN, and `x` otherwise, a Float32 or a Float64.
pub fn one_nan() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function("buzz_nan", with_one_nan));
    Arc::clone(&FUNCTION)
}

fn function(name: &'static str, form: fn(&dyn Array) -> Result<ArrayRef>) -> Arc<ScalarUDF> {
    let signature = Signature::any(1, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Formed { name, form, signature }))
}

/// A function that gives doubles a form.
#[derive(Debug)]
struct Formed {
    name: &'static str,
    form: fn(&dyn Array) -> Result<ArrayRef>,
    signature: Signature,
}

impl PartialEq for Formed {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Formed {}

impl Hash for Formed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Formed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [double] => Ok(double.clone()),
            _ => internal_err!("{} takes one value", self.name),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [double] = args.arg_fields else { return internal_err!("{} takes one value", self.name) };
        Ok(Arc::new(Field::new(self.name, double.data_type().clone(), double.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [doubles] = args.args.as_slice() else { return internal_err!("{} takes one value", self.name) };
        computed(doubles, self.form)
    }
}

/// Returns `doubles`, of type Float32 or Float64, with one NaN for each NaN, and values of other types as they are.
///
/// # Errors
/// None: the result is that of the function `buzz_nan(x)`.
pub fn with_one_nan(doubles: &dyn Array) -> Result<ArrayRef> {
    let same = || doubles.slice(0, doubles.len());
    Ok(match doubles.data_type() {
        DataType::Float64 => {
            let form = |x: f64| if x.is_nan() { f64::NAN } else { x };
            let changes = |x: &f64| x.is_nan() && x.to_bits() != f64::NAN.to_bits();
            replaced::<Float64Type>(doubles, changes, form).unwrap_or_else(same)
        }
        DataType::Float32 => {
            let form = |x: f32| if x.is_nan() { f32::NAN } else { x };
            let changes = |x: &f32| x.is_nan() && x.to_bits() != f32::NAN.to_bits();
            replaced::<Float32Type>(doubles, changes, form).unwrap_or_else(same)
        }
        _ => same(),
    })
}

/// Returns `doubles` in their `form`. `None` if it `changes` no value.
fn replaced<T: ArrowPrimitiveType>(
    doubles: &dyn Array,
    changes: impl Fn(&T::Native) -> bool,
    form: impl Fn(T::Native) -> T::Native,
) -> Option<ArrayRef> {
    let doubles = doubles.as_primitive::<T>();
    if !doubles.values().iter().any(changes) {
        return None;
    }
    let formed: PrimitiveArray<T> = doubles.unary(form);
    Some(Arc::new(formed))
}

/// Returns `doubles`, of type Float32 or Float64, in their one form, and values of other types as they are.
pub(super) fn in_one_form(doubles: &dyn Array) -> Result<ArrayRef> {
    match doubles.data_type() {
        // The sum of both zeros is 0.
        DataType::Float64 => {
            let form = |x: f64| if x.is_nan() { f64::NAN } else { x + 0.0 };
            let doubles: Float64Array = doubles.as_primitive::<Float64Type>().unary(form);
            Ok(Arc::new(doubles))
        }
        DataType::Float32 => {
            let form = |x: f32| if x.is_nan() { f32::NAN } else { x + 0.0 };
            let doubles: Float32Array = doubles.as_primitive::<Float32Type>().unary(form);
            Ok(Arc::new(doubles))
        }
        // A union can give its columns another type after the function was planned.
        _ => Ok(doubles.slice(0, doubles.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_and_nans_have_one_form() {
        let doubles = Float64Array::from(vec![Some(-0.0), Some(-f64::NAN), Some(-1.5), None]);
        let formed = in_one_form(&doubles).unwrap();
        let bits: Vec<Option<u64>> =
            formed.as_primitive::<Float64Type>().iter().map(|double| double.map(f64::to_bits)).collect();
        assert_eq!(bits, [Some(0), Some(f64::NAN.to_bits()), Some((-1.5_f64).to_bits()), None]);
    }
    #[test]
    fn nans_are_one_and_zeros_stay_two() {
        let doubles = Float64Array::from(vec![Some(-0.0), Some(-f64::NAN), Some(f64::NEG_INFINITY), None]);
        let bits = |array: &ArrayRef| -> Vec<Option<u64>> {
            array.as_primitive::<Float64Type>().iter().map(|double| double.map(f64::to_bits)).collect()
        };
        let expected = [-0.0, f64::NAN, f64::NEG_INFINITY].map(|double: f64| Some(double.to_bits()));
        assert_eq!(bits(&with_one_nan(&doubles).unwrap()), [&expected[..], &[None]].concat());
        let floats = with_one_nan(&Float32Array::from(vec![-f32::NAN, 1.0])).unwrap();
        assert_eq!(floats.as_primitive::<Float32Type>().value(0).to_bits(), f32::NAN.to_bits());
    }
}
