//! Replaces the items of lists and maps.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, LargeListArray, ListArray, MapArray, StructArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result;

/// Converts the list or map `array` to type `to`. `change` converts its items, or its keys and values, to the given
/// type and must keep their number. Arrays of other types are returned unchanged.
///
/// # Errors
/// Fails if `change` fails, or if its result does not fit `to`.
pub(crate) fn with_items(
    array: &ArrayRef,
    to: &DataType,
    change: impl Fn(&ArrayRef, &DataType) -> Result<ArrayRef>,
) -> Result<ArrayRef> {
    let nulls = array.nulls().cloned();
    Ok(match to {
        DataType::List(item) => {
            let list = array.as_list::<i32>();
            let values = change(list.values(), item.data_type())?;
            Arc::new(ListArray::try_new(Arc::clone(item), list.offsets().clone(), values, nulls)?)
        }
        DataType::LargeList(item) => {
            let list = array.as_list::<i64>();
            let values = change(list.values(), item.data_type())?;
            Arc::new(LargeListArray::try_new(Arc::clone(item), list.offsets().clone(), values, nulls)?)
        }
        DataType::FixedSizeList(item, size) => {
            let values = change(array.as_fixed_size_list().values(), item.data_type())?;
            Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *size, values, nulls)?)
        }
        DataType::Map(entries, sorted) => {
            let map = array.as_map();
            let pair = key_and_value(entries).unwrap_or_default();
            let columns = map.entries().columns().iter().zip(pair);
            let columns = columns.map(|(column, field)| change(column, field.data_type())).collect::<Result<_>>()?;
            let pairs = StructArray::try_new(pair.into(), columns, None)?;
            Arc::new(MapArray::try_new(Arc::clone(entries), map.offsets().clone(), pairs, nulls, *sorted)?)
        }
        _ => Arc::clone(array),
    })
}

/// Returns the key field and the value field of a map's entries.
pub(crate) fn key_and_value(entries: &FieldRef) -> Option<&[FieldRef]> {
    match entries.data_type() {
        DataType::Struct(pair) if pair.len() == 2 => Some(pair),
        _ => None,
    }
}
