//! Column mapping: the names and ids of columns in files, if they differ from those of the table.

use arrow::datatypes::{DataType, Fields};
use buzz_protocol::ColumnMapping;

const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
const COLUMN_ID: &str = "delta.columnMapping.id";

/// Returns the mapping of `fields` and of their nested fields. `by_id` is true if the table's mode is `id`.
pub(super) fn of_fields(fields: &Fields, by_id: bool) -> ColumnMapping {
    let mut mapping = ColumnMapping::default();
    for field in fields {
        let name = field.name();
        if let Some(physical) = field.metadata().get(PHYSICAL_NAME).filter(|physical| *physical != name) {
            mapping.physical_names.insert(name.clone(), physical.clone());
        }
        if by_id && let Some(id) = field.metadata().get(COLUMN_ID).and_then(|id| id.parse().ok()) {
            mapping.ids.insert(name.clone(), id);
        }
        let inside = inside_of(field.data_type(), by_id);
        if !inside.is_identity() {
            mapping.inside.insert(name.clone(), inside);
        }
    }
    mapping
}

fn inside_of(data_type: &DataType, by_id: bool) -> ColumnMapping {
    let held = |fields: &[(&str, &DataType)]| {
        let inside = fields.iter().map(|(called, data_type)| (called.to_string(), inside_of(data_type, by_id)));
        let inside = inside.filter(|(_, inside)| !inside.is_identity()).collect();
        ColumnMapping { inside, ..ColumnMapping::default() }
    };
    match data_type {
        DataType::Struct(fields) => of_fields(fields, by_id),
        DataType::List(item) | DataType::LargeList(item) => held(&[("element", item.data_type())]),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                held(&[("key", pair[0].data_type()), ("value", pair[1].data_type())])
            }
            _ => ColumnMapping::default(),
        },
        _ => ColumnMapping::default(),
    }
}
