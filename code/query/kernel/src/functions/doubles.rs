//! The function `buzz_double(x)`, which gives equal doubles one form.
//!
//! `-0.0` and `0.0` are equal, and all NaN are one value, but Arrow compares their bits: `nullif`, `CASE x WHEN` and the peers of a
//! window told them apart.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::spans::computed;

/// Returns the function `buzz_double(x)`: 0 for `-0.0`, one NaN for each NaN, and `x` otherwise, a Float32 or a Float64.
pub fn one_form() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(OneForm { signature: Signature::any(1, Volatility::Immutable) }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OneForm {
    signature: Signature,
}

impl ScalarUDFImpl for OneForm {
    fn name(&self) -> &'static str {
        "buzz_double"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [double] => Ok(double.clone()),
            _ => internal_err!("buzz_double takes one value"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [double] = args.arg_fields else { return internal_err!("buzz_double takes one value") };
        Ok(Arc::new(Field::new(self.name(), double.data_type().clone(), double.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [doubles] = args.args.as_slice() else { return internal_err!("buzz_double takes one value") };
        computed(doubles, in_one_form)
    }
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
}
