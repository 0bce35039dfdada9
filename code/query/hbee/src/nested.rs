//! Replaces the items of lists and maps, and the names of fields.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, LargeListArray, ListArray, MapArray, StructArray};
use arrow::datatypes::{DataType, FieldRef, Fields};
use buzz_protocol::names_in_table;
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

/// Returns the type `file` with the names that its nested fields have in the type `table`. A name that differs just in
/// case stands for a field, like the name of a column ([`names_in_table`]).
pub(crate) fn spelled(file: &DataType, table: &DataType) -> DataType {
    use DataType::{FixedSizeList, LargeList, List, Map, Struct};
    let as_in = |field: &FieldRef, table: &FieldRef| {
        Arc::new(field.as_ref().clone().with_data_type(spelled(field.data_type(), table.data_type())))
    };
    match (file, table) {
        (Struct(file), Struct(table)) => {
            let names = names_in_table(&names(file), &names(table));
            let fields = file.iter().zip(names).map(|(field, name)| {
                let field = table.find(&name).map_or_else(|| Arc::clone(field), |(_, wanted)| as_in(field, wanted));
                Arc::new(field.as_ref().clone().with_name(name))
            });
            Struct(fields.collect())
        }
        (List(item), List(table) | LargeList(table) | FixedSizeList(table, _)) => List(as_in(item, table)),
        (LargeList(item), List(table) | LargeList(table) | FixedSizeList(table, _)) => LargeList(as_in(item, table)),
        (FixedSizeList(item, size), List(table) | LargeList(table) | FixedSizeList(table, _)) => {
            FixedSizeList(as_in(item, table), *size)
        }
        (Map(entries, sorted), Map(table, _)) => match (key_and_value(entries), key_and_value(table)) {
            (Some(pair), Some(wanted)) => {
                let pair = pair.iter().zip(wanted).map(|(field, table)| as_in(field, table)).collect();
                Map(Arc::new(entries.as_ref().clone().with_data_type(Struct(pair))), *sorted)
            }
            _ => file.clone(),
        },
        _ => file.clone(),
    }
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.iter().map(|field| field.name().as_str()).collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn nested_names_in_another_case_become_those_of_the_table() {
        let number = |name: &str| Field::new(name, DataType::Int32, true);
        let structure = |fields: &[Field]| DataType::Struct(fields.to_vec().into());
        let list = |item: DataType| DataType::List(Arc::new(Field::new("item", item, true)));
        let map = |value: DataType| {
            let pair = structure(&[Field::new("key", DataType::Utf8, false), Field::new("value", value, true)]);
            DataType::Map(Arc::new(Field::new("entries", pair, false)), false)
        };
        let (file, table) =
            (structure(&[number("ID"), number("Y"), number("z")]), structure(&[number("id"), number("Y")]));
        let expected = structure(&[number("id"), number("Y"), number("z")]);
        assert_eq!(spelled(&file, &table), expected);
        assert_eq!(spelled(&list(file.clone()), &list(table.clone())), list(expected.clone()));
        assert_eq!(spelled(&map(list(file.clone())), &map(list(table.clone()))), map(list(expected.clone())));
        let within = |inner: DataType, name: &str| structure(&[Field::new(name, inner, true)]);
        assert_eq!(spelled(&within(file.clone(), "S"), &within(table.clone(), "s")), within(expected, "s"));
        let both = structure(&[number("id"), number("ID")]);
        assert_eq!(spelled(&both, &table), both);
        assert_eq!(spelled(&file, &DataType::Utf8), file);
    }
}
