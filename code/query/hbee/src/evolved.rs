//! Casts maps whose value type has changed since a file was written: a field was added to the structs in a map, or
//! widened. DataFusion matches the fields of structs by name, also within lists, but casts maps by position.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray, new_null_array};
use arrow::compute::CastOptions;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::nested_struct::cast_column;
use datafusion::error::Result;

use crate::nested::{key_and_value, with_items};

/// Returns whether `file` contains a map, at any depth, that only [`evolved`] can cast to its type in `table`.
pub(crate) fn has_evolved_map(file: &DataType, table: &DataType) -> bool {
    match (file, table) {
        (DataType::Map(file, _), DataType::Map(table, _)) => {
            let (Some(file), Some(table)) = (key_and_value(file), key_and_value(table)) else { return false };
            file.iter().zip(table).any(|(file, table)| {
                file.data_type() != table.data_type() && (file.data_type().is_nested() || table.data_type().is_nested())
            })
        }
        (DataType::Struct(file), DataType::Struct(table)) => table.iter().any(|table| {
            let file = file.iter().find(|file| file.name() == table.name());
            file.is_some_and(|file| has_evolved_map(file.data_type(), table.data_type()))
        }),
        (DataType::List(file), DataType::List(table)) | (DataType::LargeList(file), DataType::LargeList(table)) => {
            has_evolved_map(file.data_type(), table.data_type())
        }
        (DataType::FixedSizeList(file, size), DataType::FixedSizeList(table, other)) => {
            size == other && has_evolved_map(file.data_type(), table.data_type())
        }
        _ => false,
    }
}

/// Casts `array` to the type `table`. Fields of structs are matched by name; missing fields are null.
///
/// # Errors
/// Fails if a value does not fit its new type, or a non-nullable field is missing.
pub(crate) fn evolved(array: &ArrayRef, table: &DataType) -> Result<ArrayRef> {
    if !has_evolved_map(array.data_type(), table) {
        return cast_column(array, table, &CastOptions { safe: false, ..CastOptions::default() });
    }
    let DataType::Struct(fields) = table else { return with_items(array, table, evolved) };
    let file = array.as_struct();
    let column = |field: &FieldRef| match file.column_by_name(field.name()) {
        Some(column) => evolved(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), file.len())),
    };
    let columns = fields.iter().map(column).collect::<Result<_>>()?;
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), file.len())?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        FixedSizeListArray, Int32Array, Int64Array, ListArray, MapBuilder, StringArray, StringBuilder, StructBuilder,
    };
    use arrow::datatypes::{Field, Fields};

    use super::*;

    fn map_of(value: Fields) -> DataType {
        let pair = [Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Struct(value), true)];
        DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair.to_vec().into()), false)), false)
    }

    #[test]
    fn struct_fields_in_map_values_are_matched_by_name() {
        let fields = Fields::from(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int32, true)]);
        let values = StructBuilder::from_fields(fields.clone(), 3);
        let mut builder = MapBuilder::new(None, StringBuilder::new(), values);
        for (key, a, b) in [("x", 1, 10), ("y", 2, 20)] {
            builder.keys().append_value(key);
            builder.values().field_builder::<arrow::array::Int32Builder>(0).unwrap().append_value(a);
            builder.values().field_builder::<arrow::array::Int32Builder>(1).unwrap().append_value(b);
            builder.values().append(true);
        }
        builder.append(true).unwrap();
        builder.append(false).unwrap();
        let map: ArrayRef = Arc::new(builder.finish());
        let first_map = Arc::clone(&map);

        // Fields reordered, widened and added, nested in a list in a struct.
        let table = Fields::from(vec![
            Field::new("new", DataType::Utf8, true),
            Field::new("b", DataType::Int64, true),
            Field::new("a", DataType::Int32, true),
        ]);
        let (old, new) = (map_of(fields), map_of(table));
        let within = |data_type: &DataType| {
            let list = DataType::List(Arc::new(Field::new("item", data_type.clone(), true)));
            DataType::Struct(vec![Field::new("more", DataType::Int32, true), Field::new("list", list, true)].into())
        };
        assert!(has_evolved_map(&within(map.data_type()), &within(&new)));
        assert!(!has_evolved_map(&within(&old), &within(&old)));

        let item = Arc::new(Field::new("item", map.data_type().clone(), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([2]);
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, map, None));
        let array: ArrayRef =
            Arc::new(StructArray::from(vec![(Arc::new(Field::new("list", list.data_type().clone(), true)), list)]));
        let array = evolved(&array, &within(&new)).unwrap();
        assert_eq!(array.data_type(), &within(&new));
        let array = array.as_struct();
        assert_eq!(array.column(0).null_count(), 1);
        let maps = array.column(1).as_list::<i32>().values().as_map().clone();
        assert_eq!((maps.len(), maps.null_count()), (2, 1));
        assert_eq!(maps.keys().as_string::<i32>(), &StringArray::from(vec!["x", "y"]));
        let values = maps.values().as_struct();
        assert_eq!(values.column(0).null_count(), 2);
        assert_eq!(values.column(1).as_primitive(), &Int64Array::from(vec![10, 20]));
        assert_eq!(values.column(2).as_primitive(), &Int32Array::from(vec![1, 2]));

        let pairs =
            |data_type: &DataType| DataType::FixedSizeList(Arc::new(Field::new("item", data_type.clone(), true)), 2);
        assert!(has_evolved_map(&pairs(&old), &pairs(&new)));
        let DataType::FixedSizeList(item, _) = pairs(&old) else { unreachable!("it is a list") };
        let two: ArrayRef = Arc::new(FixedSizeListArray::new(item, 2, first_map, None));
        let two = evolved(&two, &pairs(&new)).unwrap();
        let maps = two.as_fixed_size_list().values().as_map().clone();
        assert_eq!(maps.values().as_struct().column(1).as_primitive(), &Int64Array::from(vec![10, 20]));
    }
}
