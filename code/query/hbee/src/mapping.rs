//! Maps the columns of files to those of the table. Columns are read by their physical names: the table's `fare` may be
//! `col-5d9c` in its files, also within structs, lists and maps. Maps are cast to their current type ([`evolved`]), and
//! casts that could change a value are checked ([`exact`](crate::exact)).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use buzz_protocol::{ColumnMapping, names_in_table};
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
use crate::exact::{exact_cast, is_lossless};
use crate::nested::{spelled, with_items};
use crate::visible::{hides_nulls, with_visible_nulls};

/// Adapts expressions over a table's columns to files with other names or types.
#[derive(Debug, Clone)]
pub(crate) struct MappedColumns(pub(crate) ColumnMapping);

impl PhysicalExprAdapterFactory for MappedColumns {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        // The default adapter matches by name, so it gets the file's columns with the table's names.
        let named: Vec<Field> = physical.fields().iter().map(|field| shown(field, &self.0)).collect();
        let names = {
            let [file, table] = [
                &named.iter().collect::<Vec<_>>(),
                &logical.fields().iter().map(|field| field.as_ref()).collect::<Vec<_>>(),
            ]
            .map(|fields| fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>());
            names_in_table(&file, &table)
        };
        let named = named.into_iter().zip(names).map(|(field, name)| match logical.field_with_name(&name) {
            Ok(wanted) => {
                let data_type = spelled(field.data_type(), wanted.data_type());
                field.with_name(name).with_data_type(data_type)
            }
            Err(_) => field.with_name(name),
        });
        let named: Vec<Field> = named.collect();
        // Columns that it cannot cast, or could change, get the table's type; `ReadAs` casts them.
        let own_cast = |file: &DataType, table: &DataType| has_evolved_map(file, table) || !is_lossless(file, table);
        let read_as = named.iter().map(|field| match logical.field_with_name(field.name()) {
            Ok(wanted) if own_cast(field.data_type(), wanted.data_type()) => {
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
    /// Schema of the file.
    physical: SchemaRef,
    /// Schema of the file with the table's names, also in nested types.
    named: Schema,
    /// The schema `named`, with the table's type for columns that `ReadAs` casts.
    read_as: SchemaRef,
}

impl PhysicalExprAdapter for MappedColumnsAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.by_name.rewrite(expr)?;
        // Column indexes are already those of the file; the names are not.
        expr.transform_up(|node| {
            let Some(column) = node.downcast_ref::<Column>() else {
                return Ok(Transformed::no(node));
            };
            let index = column.index();
            let physical = self.physical.field(index);
            let read: Arc<dyn PhysicalExpr> = Arc::new(Column::new(physical.name(), index));
            let (named, data_type) = (self.named.field(index).data_type(), self.read_as.field(index).data_type());
            let hides_nulls = hides_nulls(physical.data_type(), physical.is_nullable());
            Ok(Transformed::yes(if physical.data_type() == data_type && !hides_nulls {
                read
            } else {
                Arc::new(ReadAs { read, named: named.clone(), data_type: data_type.clone(), hides_nulls })
            }))
        })
        .data()
    }
}

/// Renames `field` of a file to its name in the table. A field that has the name of another column of the table is
/// renamed so that no column matches it.
fn shown(field: &FieldRef, mapping: &ColumnMapping) -> Field {
    let id = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse::<i64>().ok());
    let by_id = id.and_then(|id| mapping.ids.iter().find(|(_, known)| **known == id));
    // If the mapping has ids, only a field without an id is matched by name.
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

/// Renames the nested fields of `data_type` to their names in the table. In the mapping, the items of lists and maps
/// are always named `element`, `key` and `value`, whatever their names in the file.
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

/// Reads a column, makes the nulls of its structs visible in their fields, renames these, and casts it if that needs care.
#[derive(Debug, Eq)]
struct ReadAs {
    read: Arc<dyn PhysicalExpr>,
    /// The type in the file, with the table's names.
    named: DataType,
    /// The resulting type: that of the table if the column contains changed maps or the cast could change values,
    /// otherwise `named`.
    data_type: DataType,
    /// True if a struct of the column may be null and has a field that may not.
    hides_nulls: bool,
}

// Written by hand, as in DataFusion's own expressions: a derived PartialEq would move out of the Arc.
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
        let array = if self.hides_nulls { with_visible_nulls(&array)? } else { array };
        let array = renamed(&array, &self.named)?;
        let array = match &self.data_type {
            same if *same == self.named => array,
            wanted if is_lossless(&self.named, wanted) => evolved(&array, wanted)?,
            wanted => exact_cast(&array, wanted)
                .map_err(|error| error.at(format!("column {}", self.read)).into_datafusion())?,
        };
        Ok(ColumnarValue::Array(array))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.read]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let read = Arc::clone(&children[0]);
        let (named, data_type) = (self.named.clone(), self.data_type.clone());
        Ok(Arc::new(ReadAs { read, named, data_type, hides_nulls: self.hides_nulls }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read.fmt_sql(f)
    }
}

/// Renames the nested fields of `array` to the names in `to`, which has the same shape.
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
    fn fields_in_lists_and_structs_get_the_names_of_the_table() {
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
    fn field_ids_take_precedence_over_names() {
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
