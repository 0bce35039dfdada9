//! The function that checks a scalar subquery, `buzz_single_row(value, rows)`.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef};
use buzz_protocol::QueryError;
use datafusion::common::cast::as_int64_array;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;

/// Returns the function `buzz_single_row(value, rows)`, which returns `value` and fails with `Invalid` if `rows` exceeds
/// 1. Every session that decodes plans must have it.
pub fn single_row() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::any(2, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(SingleRow { signature }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleRow {
    signature: Signature,
}

impl ScalarUDFImpl for SingleRow {
    fn name(&self) -> &'static str {
        "buzz_single_row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [value, _] => Ok(value.clone()),
            _ => internal_err!("buzz_single_row takes a value and a number of rows"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value, rows] = args.args.as_slice() else {
            return internal_err!("buzz_single_row takes a value and a number of rows");
        };
        let several = match rows {
            ColumnarValue::Scalar(ScalarValue::Int64(rows)) => rows.is_some_and(|rows| rows > 1),
            ColumnarValue::Scalar(_) => return internal_err!("buzz_single_row counts rows as Int64"),
            ColumnarValue::Array(rows) => as_int64_array(rows.as_ref())?.iter().flatten().any(|rows| rows > 1),
        };
        if several {
            let error = QueryError::invalid(
                "a scalar subquery returned more than one row; make it an aggregate such as `max`, or add `LIMIT 1`",
            );
            return Err(error.into_datafusion());
        }
        Ok(value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_rows_are_rejected() {
        let function = single_row();
        let invoke = |rows: ScalarValue| {
            let args = ScalarFunctionArgs {
                args: vec![ColumnarValue::Scalar(ScalarValue::from(7_i32)), ColumnarValue::Scalar(rows)],
                arg_fields: Vec::new(),
                number_rows: 1,
                return_field: Arc::new(Field::new("value", DataType::Int32, true)),
                config_options: Arc::default(),
            };
            function.inner().invoke_with_args(args)
        };
        for one in [Some(0), Some(1), None] {
            let value = invoke(ScalarValue::Int64(one)).unwrap();
            assert!(matches!(value, ColumnarValue::Scalar(ScalarValue::Int32(Some(7)))), "{value:?}");
        }
        let error = QueryError::from(invoke(ScalarValue::Int64(Some(2))).unwrap_err());
        assert!(error.to_string().contains("more than one row"), "{error}");
    }
}
