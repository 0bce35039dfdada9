//! Structs whose null rows have no values.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StructArray};
use arrow::compute::nullif;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// Returns `column` without the values that fields of structs have in rows in which the struct is null. The format of Arrow allows
/// such values, and a reader of a field would find them.
///
/// # Errors
/// Errors of Arrow's kernels.
pub fn without_hidden_values(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let Some(rows) = column.as_struct_opt() else { return Ok(Arc::clone(column)) };
    let nulls = rows.nulls().filter(|nulls| nulls.null_count() > 0);
    let is_null = nulls.map(|nulls| BooleanArray::new(!nulls.inner(), None));
    let part = |part: &ArrayRef| match &is_null {
        Some(is_null) if can_be_null(part.data_type()) => without_hidden_values(&nullif(part, is_null)?),
        _ => without_hidden_values(part),
    };
    let parts = rows.columns().iter().map(part).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new_with_length(rows.fields().clone(), parts, rows.nulls().cloned(), rows.len())?))
}

/// Checks if arrays of a type say which of their rows are null.
fn can_be_null(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Null | DataType::Union(..) | DataType::RunEndEncoded(..))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{Field, Fields, Int64Type};

    use super::*;

    fn nested(name: &str, part: ArrayRef, nulls: Option<Vec<bool>>) -> ArrayRef {
        let fields = Fields::from(vec![Field::new(name, part.data_type().clone(), true)]);
        Arc::new(StructArray::new(fields, vec![part], nulls.map(NullBuffer::from)))
    }

    #[test]
    fn fields_of_null_rows_are_null() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None]));
        let inner = nested("n", Arc::clone(&numbers), Some(vec![true, true, true]));
        let outer = nested("inner", inner, Some(vec![true, false, true]));
        let made = without_hidden_values(&outer).unwrap();
        assert_eq!(made.data_type(), outer.data_type());
        let inner = made.as_struct().column(0);
        assert_eq!([inner.is_null(0), inner.is_null(1), inner.is_null(2)], [false, true, false]);
        let values = inner.as_struct().column(0).as_primitive::<Int64Type>();
        assert_eq!(values.iter().collect::<Vec<_>>(), [Some(1), None, None]);
        assert_eq!(&without_hidden_values(&numbers).unwrap(), &numbers);
    }
}
