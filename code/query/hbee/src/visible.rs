//! Makes the nulls of structs visible in their fields.
//!
//! A field that is required in a struct that is optional has a value also where the struct is null: whatever the reader
//! filled in. DataFusion reads the field without looking at the struct.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use datafusion::error::Result;

use crate::nested::with_items;

/// Returns whether `data_type` contains a struct that may be null and has a field that may not, at any depth. `nullable` is
/// true if a value of the type itself may be null.
pub(crate) fn hides_nulls(data_type: &DataType, nullable: bool) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().any(|field| {
            (nullable && !field.is_nullable()) || hides_nulls(field.data_type(), nullable || field.is_nullable())
        }),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            hides_nulls(item.data_type(), item.is_nullable())
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) => pair.iter().any(|field| hides_nulls(field.data_type(), field.is_nullable())),
            _ => false,
        },
        _ => false,
    }
}

/// Makes the fields of structs null where the struct is null. The type stays the same.
///
/// # Errors
/// Fails if `array` is inconsistent.
pub(crate) fn with_visible_nulls(array: &ArrayRef) -> Result<ArrayRef> {
    let DataType::Struct(fields) = array.data_type() else {
        return with_items(array, array.data_type(), |items, _| with_visible_nulls(items));
    };
    let (nulls, columns) = (array.nulls(), array.as_struct().columns());
    let columns = columns.iter().map(|column| with_visible_nulls(&masked(column, nulls)?)).collect::<Result<_>>()?;
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls.cloned(), array.len())?))
}

/// Makes `array` null where `nulls` says so.
fn masked(array: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<ArrayRef> {
    if nulls.is_none() || array.data_type().is_null() {
        return Ok(Arc::clone(array));
    }
    let nulls = NullBuffer::union(array.nulls(), nulls);
    Ok(make_array(array.to_data().into_builder().nulls(nulls).build()?))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Fields, Int64Type};

    use super::*;

    #[test]
    fn required_field_of_a_null_struct_is_null() {
        let leaf = |nullable| Fields::from(vec![Field::new("x", DataType::Int64, nullable)]);
        let inner = |nullable| DataType::Struct(leaf(nullable));
        assert!(
            hides_nulls(&inner(false), true) && !hides_nulls(&inner(false), false) && !hides_nulls(&inner(true), true)
        );
        let outer = Fields::from(vec![Field::new("s", inner(false), false)]);
        assert!(hides_nulls(&DataType::Struct(outer.clone()), true));

        let values: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let array: ArrayRef = Arc::new(StructArray::new(leaf(false), vec![values], None));
        let array: ArrayRef = Arc::new(StructArray::new(outer, vec![array], Some(vec![true, false, true].into())));
        let visible = with_visible_nulls(&array).unwrap();
        assert_eq!(visible.data_type(), array.data_type());
        let leaf = visible.as_struct().column(0).as_struct().column(0).as_primitive::<Int64Type>().clone();
        assert_eq!(leaf, Int64Array::from(vec![Some(1), None, Some(3)]));
    }
}
