//! Arithmetic that fails on overflow: `buzz_add(a, b)`, `buzz_subtract(a, b)` and `buzz_multiply(a, b)`.
//!
//! DataFusion's operators wrap integers, and keep decimals of more digits than their type has.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Datum, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Field, FieldRef, Int32Type, Int64Type};
use arrow::error::ArrowError;
use buzz_protocol::QueryError;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;

/// An operator that can overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// `a + b`
    Add,
    /// `a - b`
    Subtract,
    /// `a * b`
    Multiply,
}

impl Arithmetic {
    /// Returns the arithmetic of `operator`. `None` if it is another one.
    pub fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            _ => None,
        }
    }

    fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract => Operator::Minus,
            Self::Multiply => Operator::Multiply,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Add => "buzz_add",
            Self::Subtract => "buzz_subtract",
            Self::Multiply => "buzz_multiply",
        }
    }
}

/// Returns the function that computes `arithmetic` on two integers or two decimals, and fails with `Invalid` if the
/// result does not fit its type.
pub fn checked(arithmetic: Arithmetic) -> Arc<ScalarUDF> {
    static FUNCTIONS: LazyLock<[Arc<ScalarUDF>; 3]> = LazyLock::new(|| {
        [Arithmetic::Add, Arithmetic::Subtract, Arithmetic::Multiply].map(|arithmetic| {
            let signature = Signature::any(2, Volatility::Immutable);
            Arc::new(ScalarUDF::new_from_impl(Checked { arithmetic, signature }))
        })
    });
    let [add, subtract, multiply] = &*FUNCTIONS;
    Arc::clone(match arithmetic {
        Arithmetic::Add => add,
        Arithmetic::Subtract => subtract,
        Arithmetic::Multiply => multiply,
    })
}

/// Checks if `function` is one of [`checked`].
pub fn is_checked(function: &ScalarUDF) -> bool {
    [Arithmetic::Add, Arithmetic::Subtract, Arithmetic::Multiply].iter().any(|of| of.name() == function.name())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    arithmetic: Arithmetic,
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        self.arithmetic.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [left, right] = types else {
            return internal_err!("{} takes two numbers", self.name());
        };
        BinaryTypeCoercer::new(left, &self.arithmetic.operator(), right).get_result_type()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two numbers", self.name());
        };
        let scalar = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let result = if let Some(result) = fast(self.arithmetic, left, right)? {
            result
        } else {
            let (left, right) = (datum(left)?, datum(right)?);
            let result = match self.arithmetic {
                Arithmetic::Add => numeric::add(left.as_ref(), right.as_ref()),
                Arithmetic::Subtract => numeric::sub(left.as_ref(), right.as_ref()),
                Arithmetic::Multiply => numeric::mul(left.as_ref(), right.as_ref()),
            };
            result.map_err(|error| overflow(error, args.return_field.data_type()))?
        };
        check_digits(&result)?;
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn datum(value: &ColumnarValue) -> Result<Box<dyn Datum>> {
    Ok(match value {
        ColumnarValue::Array(array) => Box::new(Arc::clone(array)),
        ColumnarValue::Scalar(scalar) => Box::new(scalar.to_scalar()?),
    })
}

fn overflow(error: ArrowError, data_type: &DataType) -> datafusion::error::DataFusionError {
    match error {
        ArrowError::ArithmeticOverflow(what) => exceeds(&what, data_type).into_datafusion(),
        other => other.into(),
    }
}

/// Makes the error of a result that does not fit `data_type`.
pub(super) fn exceeds(what: &str, data_type: &DataType) -> QueryError {
    let what = what.strip_prefix("Overflow happened on: ").unwrap_or(what);
    let remedy = match data_type {
        DataType::Decimal128(..) | DataType::Decimal256(..) => "cast to DOUBLE or to a decimal of fewer digits",
        _ => "cast to a wider type such as DECIMAL(38, 0) or DOUBLE, or set `overflow` to `wrap`",
    };
    QueryError::invalid(format!("{what} exceeds the type {data_type}; {remedy}"))
}

/// Fails if `result` has a decimal of more digits than its type.
fn check_digits(result: &ArrayRef) -> Result<()> {
    let checked = match result.data_type() {
        DataType::Decimal128(precision, _) => {
            result.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)
        }
        DataType::Decimal256(precision, _) => {
            result.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision)
        }
        _ => return Ok(()),
    };
    checked.map_err(|_| exceeds("a decimal result", result.data_type()).into_datafusion())
}

/// Computes integers of 32 and 64 bits without a branch per row. Returns `None` for other types, and if any row
/// overflows, perhaps one that is null.
fn fast(arithmetic: Arithmetic, left: &ColumnarValue, right: &ColumnarValue) -> Result<Option<ArrayRef>> {
    macro_rules! of {
        ($type:ty, $native:ty, $variant:ident) => {{
            let side = |value: &ColumnarValue| match value {
                ColumnarValue::Array(array) => Some(Side::Array(array.as_primitive::<$type>().clone())),
                ColumnarValue::Scalar(ScalarValue::$variant(Some(value))) => Some(Side::Scalar(*value)),
                ColumnarValue::Scalar(_) => None,
            };
            let (Some(left), Some(right)) = (side(left), side(right)) else { return Ok(None) };
            match arithmetic {
                Arithmetic::Add => zipped(&left, &right, <$native>::wrapping_add, |left, right, sum| {
                    ((left ^ sum) & (right ^ sum)) < 0
                }),
                Arithmetic::Subtract => {
                    let over = |left, right, rest| ((left ^ right) & (left ^ rest)) < 0;
                    zipped(&left, &right, <$native>::wrapping_sub, over)
                }
                Arithmetic::Multiply => {
                    let over = |left: $native, right, _| left.overflowing_mul(right).1;
                    zipped(&left, &right, <$native>::wrapping_mul, over)
                }
            }
        }};
    }
    Ok(match (left.data_type(), right.data_type()) {
        (DataType::Int64, DataType::Int64) => of!(Int64Type, i64, Int64),
        (DataType::Int32, DataType::Int32) => of!(Int32Type, i32, Int32),
        _ => None,
    })
}

enum Side<T: ArrowPrimitiveType> {
    Array(PrimitiveArray<T>),
    Scalar(T::Native),
}

/// Computes all rows, then looks if any has overflowed: both loops are without a branch.
fn zipped<T: ArrowPrimitiveType>(
    left: &Side<T>,
    right: &Side<T>,
    compute: impl Fn(T::Native, T::Native) -> T::Native,
    overflows: impl Fn(T::Native, T::Native, T::Native) -> bool,
) -> Option<ArrayRef> {
    let (values, overflowed, nulls): (Vec<T::Native>, bool, Option<NullBuffer>) = match (left, right) {
        (Side::Array(left), Side::Array(right)) if left.len() == right.len() => {
            let rows = || left.values().iter().zip(right.values());
            let values: Vec<T::Native> = rows().map(|(left, right)| compute(*left, *right)).collect();
            let over = rows().zip(&values).fold(false, |over, ((l, r), value)| over | overflows(*l, *r, *value));
            (values, over, NullBuffer::union(left.nulls(), right.nulls()))
        }
        (Side::Array(left), Side::Scalar(right)) => {
            let values: Vec<T::Native> = left.values().iter().map(|left| compute(*left, *right)).collect();
            let rows = left.values().iter().zip(&values);
            let over = rows.fold(false, |over, (left, value)| over | overflows(*left, *right, *value));
            (values, over, left.nulls().cloned())
        }
        (Side::Scalar(left), Side::Array(right)) => {
            let values: Vec<T::Native> = right.values().iter().map(|right| compute(*left, *right)).collect();
            let rows = right.values().iter().zip(&values);
            let over = rows.fold(false, |over, (right, value)| over | overflows(*left, *right, *value));
            (values, over, right.nulls().cloned())
        }
        _ => return None,
    };
    (!overflowed).then(|| Arc::new(PrimitiveArray::<T>::new(values.into(), nulls)) as ArrayRef)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Int64Array};
    use datafusion::config::ConfigOptions;

    use super::*;

    fn computed(arithmetic: Arithmetic, left: ColumnarValue, right: ColumnarValue) -> Result<ColumnarValue> {
        let function = checked(arithmetic);
        let types = [left.data_type(), right.data_type()];
        let field = |data_type: &DataType| Arc::new(Field::new("n", data_type.clone(), true));
        let args = ScalarFunctionArgs {
            arg_fields: types.iter().map(field).collect(),
            number_rows: 3,
            return_field: field(&function.return_type(&types)?),
            args: vec![left, right],
            config_options: Arc::new(ConfigOptions::default()),
        };
        function.inner().invoke_with_args(args)
    }

    #[test]
    fn overflow_is_an_error_and_of_a_null_is_not() {
        let column = |values: Vec<Option<i64>>| ColumnarValue::Array(Arc::new(Int64Array::from(values)));
        let one = || ColumnarValue::Scalar(ScalarValue::Int64(Some(1)));
        let sum = computed(Arithmetic::Add, column(vec![Some(1), None, Some(i64::MAX - 1)]), one()).unwrap();
        let ColumnarValue::Array(sum) = sum else { panic!("{sum:?}") };
        assert_eq!(sum.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(2), None, Some(i64::MAX)]));
        let error = computed(Arithmetic::Add, column(vec![Some(1), Some(i64::MAX)]), one()).unwrap_err();
        assert!(QueryError::from(error).to_string().starts_with("9223372036854775807 + 1 exceeds the type Int64"));
        assert!(computed(Arithmetic::Subtract, column(vec![Some(i64::MIN)]), one()).is_err());
        assert!(computed(Arithmetic::Multiply, column(vec![Some(i64::MIN)]), column(vec![Some(-1)])).is_err());
        let hidden = Int64Array::new(vec![i64::MAX, 3].into(), Some(vec![false, true].into()));
        let sum = computed(Arithmetic::Add, ColumnarValue::Array(Arc::new(hidden)), one()).unwrap();
        let ColumnarValue::Array(sum) = sum else { panic!("{sum:?}") };
        assert_eq!(sum.as_primitive::<Int64Type>(), &Int64Array::from(vec![None, Some(4)]));
        assert!(computed(Arithmetic::Add, ColumnarValue::Scalar(ScalarValue::Int64(Some(i64::MAX))), one()).is_err());
    }

    #[test]
    fn decimal_of_39_digits_is_an_error() {
        let most = 10_i128.pow(38) - 1;
        let column = |values: Vec<i128>| {
            let values = Decimal128Array::from(values).with_precision_and_scale(38, 0).unwrap();
            ColumnarValue::Array(Arc::new(values))
        };
        computed(Arithmetic::Add, column(vec![most - 1]), column(vec![1])).unwrap();
        let error = computed(Arithmetic::Add, column(vec![1, most]), column(vec![1, 1])).unwrap_err();
        assert!(QueryError::from(error).to_string().contains("Decimal128(38, 0)"));
    }
}
