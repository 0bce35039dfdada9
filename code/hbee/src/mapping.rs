//! Reads columns as the table has them: under their physical names, where the table says `fare` and its files say
//! `col-5d9c`, also inside of structs, lists and maps; and maps that have changed since as they are now ([`evolved`]).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use buzz_protocol::ColumnMapping;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::evolved::{evolved, has_evolved_map};
use crate::nested::with_items;

/// Adapts expressions over a table's columns to files that have them otherwise.
#[derive(Debug, Clone)]
pub(crate) struct MappedColumns(pub(crate) ColumnMapping);

impl PhysicalExprAdapterFactory for MappedColumns {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        // The default adapter maps by name, so it is shown the file's columns under the names of the table.
        let named: Vec<Field> = physical.fields().iter().map(|field| shown(field, &self.0)).collect();
        // What it cannot cast it is shown as if the file had it so.
        let read_as = named.iter().map(|field| match logical.field_with_name(field.name()) {
            Ok(wanted) if has_evolved_map(field.data_type(), wanted.data_type()) => {
                field.clone().with_data_type(wanted.data_type().clone())
            }
            _ => field.clone(),
        });
        let read_as = Arc::new(Schema::new(read_as.collect::<Vec<_>>()));
        let by_name = DefaultPhysicalExprAdapterFactory.create(logical, Arc::clone(&read_as))?;
        Ok(Arc::new(MappedColumnsAdapter { by_name, physical, named: Schema::new(named), read_as }))
    }
}

#[derive(Debug)]
struct MappedColumnsAdapter {
    by_name: Arc<dyn PhysicalExprAdapter>,
    /// The columns of the file.
    physical: SchemaRef,
    /// The same with the table's names, also inside.
    named: Schema,
    /// And with the maps that the table has.
    read_as: SchemaRef,
}

impl PhysicalExprAdapter for MappedColumnsAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.by_name.rewrite(expr)?;
        // Positions are right by now; the names must be those of the file.
        expr.transform_up(|node| {
            let Some(column) = node.downcast_ref::<Column>() else {
                return Ok(Transformed::no(node));
            };
            let index = column.index();
            let physical = self.physical.field(index);
            let read: Arc<dyn PhysicalExpr> = Arc::new(Column::new(physical.name(), index));
            let (named, data_type) = (self.named.field(index).data_type(), self.read_as.field(index).data_type());
            Ok(Transformed::yes(if physical.data_type() == data_type {
                read
            } else {
                Arc::new(ReadAs { read, named: named.clone(), data_type: data_type.clone() })
            }))
        })
        .data()
    }
}

/// `field` of a file under the name that the table has for it. One that has the name of another column of the table is
/// hidden.
fn shown(field: &FieldRef, mapping: &ColumnMapping) -> Field {
    let id = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse::<i64>().ok());
    let by_id = id.and_then(|id| mapping.ids.iter().find(|(_, known)| **known == id));
    // Where columns are found by id, only a field without one is found by its name.
    let other_id = id.is_some() && !mapping.ids.is_empty();
    let by_name = || mapping.physical_names.iter().find(|(_, physical)| !other_id && *physical == field.name());
    let logical = by_id.map(|(name, _)| name).or_else(|| by_name().map(|(name, _)| name));
    let name = match logical {
        Some(name) => name.clone(),
        None if mapping.physical_names.contains_key(field.name())
            || (other_id && mapping.ids.contains_key(field.name())) =>
        {
            format!("{}\u{0}hidden", field.name())
        }
        None => field.name().clone(),
    };
    let data_type = match mapping.inside.get(&name) {
        Some(inside) => shown_type(field.data_type(), inside),
        None => field.data_type().clone(),
    };
    field.as_ref().clone().with_name(name).with_data_type(data_type)
}

/// `data_type` with the names that the table has for what is inside. What a list or a map holds has the names `element`,
/// `key` and `value` in the mapping, however a file calls it.
fn shown_type(data_type: &DataType, mapping: &ColumnMapping) -> DataType {
    let held = |field: &FieldRef, called: &str| match mapping.inside.get(called) {
        Some(inside) => Arc::new(field.as_ref().clone().with_data_type(shown_type(field.data_type(), inside))),
        None => Arc::clone(field),
    };
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| shown(field, mapping)).collect()),
        DataType::List(item) => DataType::List(held(item, "element")),
        DataType::LargeList(item) => DataType::LargeList(held(item, "element")),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(held(item, "element"), *size),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                let pair = [held(&pair[0], "key"), held(&pair[1], "value")].into_iter().collect();
                let entries = entries.as_ref().clone().with_data_type(DataType::Struct(pair));
                DataType::Map(Arc::new(entries), *sorted)
            }
            _ => data_type.clone(),
        },
        other => other.clone(),
    }
}

/// A column with other names inside, and other maps.
#[derive(Debug, Eq)]
struct ReadAs {
    read: Arc<dyn PhysicalExpr>,
    /// The type of the file with the names of the table.
    named: DataType,
    /// The type of the table as far as maps go.
    data_type: DataType,
}

// As DataFusion's own expressions do it: a derived PartialEq would move out of the Arc.
impl PartialEq for ReadAs {
    fn eq(&self, other: &Self) -> bool {
        self.read.eq(&other.read) && self.named == other.named && self.data_type == other.data_type
    }
}

impl Hash for ReadAs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.read.hash(state);
        self.named.hash(state);
        self.data_type.hash(state);
    }
}

impl fmt::Display for ReadAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read_as({}, {})", self.read, self.data_type)
    }
}

impl PhysicalExpr for ReadAs {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.read.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let array = self.read.evaluate(batch)?.into_array(batch.num_rows())?;
        let array = renamed(&array, &self.named)?;
        Ok(ColumnarValue::Array(if self.named == self.data_type { array } else { evolved(&array, &self.data_type)? }))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.read]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let read = Arc::clone(&children[0]);
        Ok(Arc::new(ReadAs { read, named: self.named.clone(), data_type: self.data_type.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read.fmt_sql(f)
    }
}

/// `array` with the names of `to`, which is of the same shape.
fn renamed(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    let DataType::Struct(fields) = to else { return with_items(array, to, renamed) };
    let columns = array.as_struct().columns().iter().zip(fields);
    let columns = columns.map(|(column, field)| renamed(column, field.data_type())).collect::<Result<_>>()?;
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{Int32Array, ListArray};
    use arrow::buffer::OffsetBuffer;

    use super::*;

    fn names(pairs: &[(&str, &str)], inside: &[(&str, ColumnMapping)]) -> ColumnMapping {
        let physical_names = pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let inside = inside.iter().map(|(name, mapping)| (name.to_string(), mapping.clone())).collect();
        ColumnMapping { physical_names, ids: BTreeMap::new(), inside }
    }

    #[test]
    fn names_inside_of_lists_and_structs_are_the_tables() {
        let pair = |name: &str| Field::new(name, DataType::Int32, true);
        let values = Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef;
        let items = StructArray::from(vec![(Arc::new(pair("col-1")), values)]);
        let item = Arc::new(Field::new("element", items.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([1, 2]);
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::new(items), None));

        let mapping = names(&[("a", "col-0")], &[("a", names(&[], &[("element", names(&[("b", "col-1")], &[]))]))]);
        let field = Arc::new(Field::new("col-0", list.data_type().clone(), true));
        let field = shown(&field, &mapping);
        assert_eq!(field.name(), "a");
        let found = renamed(&list, field.data_type()).unwrap();
        let DataType::List(item) = found.data_type() else { panic!("{}", found.data_type()) };
        assert_eq!(item.data_type(), &DataType::Struct(vec![pair("b")].into()));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn an_id_counts_more_than_a_name() {
        let mut mapping = names(&[("a", "x"), ("b", "y")], &[]);
        mapping.ids = BTreeMap::from([("a".to_string(), 7), ("b".to_string(), 8)]);
        let field = |name: &str, id: &str| {
            let metadata = [(PARQUET_FIELD_ID_META_KEY.to_string(), id.to_string())];
            Arc::new(Field::new(name, DataType::Int32, true).with_metadata(metadata.into()))
        };
        assert_eq!(shown(&field("y", "7"), &mapping).name(), "a");
        assert_eq!(shown(&field("y", "1"), &mapping).name(), "y");
        let without_id = Arc::new(Field::new("y", DataType::Int32, true));
        assert_eq!(shown(&without_id, &mapping).name(), "b");
        assert_eq!(shown(&field("a", "1"), &mapping).name(), "a\u{0}hidden");
    }
}
