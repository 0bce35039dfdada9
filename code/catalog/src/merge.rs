//! Merges the schemas of a table's Parquet files.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema};
use buzz_protocol::{QueryError, Result};

/// Merges the columns for which `is_read` returns true, and the fields of their structs. Columns and fields that a file
/// lacks are null in that file.
///
/// # Errors
/// `Data` if a file has two columns of the same name, or the types of a column cannot be merged.
pub(crate) fn merge(schemas: &[(String, &Schema)], is_read: impl Fn(&str) -> bool) -> Result<Schema> {
    let mut merged: Vec<(FieldRef, &str)> = Vec::new();
    for (path, schema) in schemas {
        for (index, field) in schema.fields().iter().enumerate().filter(|(_, field)| is_read(field.name())) {
            if schema.fields()[..index].iter().any(|earlier| earlier.name() == field.name()) {
                return Err(QueryError::data(format!("`{path}` has two columns called `{}`", field.name())));
            }
            let Some((known, first)) = merged.iter_mut().find(|(known, _)| known.name() == field.name()) else {
                merged.push((Arc::clone(field), path));
                continue;
            };
            let Some(both) = joined(known.data_type(), field.data_type()) else {
                return Err(QueryError::data(format!(
                    "column `{}` has type {} in `{first}` but {} in `{path}`",
                    field.name(),
                    known.data_type(),
                    field.data_type()
                )));
            };
            if both != *known.data_type() {
                *known = Arc::new(known.as_ref().clone().with_data_type(both));
            }
        }
    }
    Ok(Schema::new(merged.into_iter().map(|(field, _)| field).collect::<Vec<_>>()))
}

/// Returns the type that holds the values of both types; `None` if they differ in more than missing struct fields and
/// physical encoding. The name of list items and the storage of text do not matter.
fn joined(a: &DataType, b: &DataType) -> Option<DataType> {
    match (as_read(a), as_read(b)) {
        // A column that contains only nulls, as written by pandas.
        (DataType::Null, _) => Some(b.clone()),
        (_, DataType::Null) => Some(a.clone()),
        (DataType::List(a), DataType::List(b)) => joined_field(a, b).map(DataType::List),
        (DataType::LargeList(a), DataType::LargeList(b)) => joined_field(a, b).map(DataType::LargeList),
        (DataType::Map(a, sorted), DataType::Map(b, _)) => {
            let (DataType::Struct(x), DataType::Struct(y)) = (a.data_type(), b.data_type()) else { return None };
            let pair = x.iter().zip(y).map(|(x, y)| joined_field(x, y)).collect::<Option<Vec<_>>>()?;
            let entries = a.as_ref().clone().with_data_type(DataType::Struct(pair.into()));
            Some(DataType::Map(Arc::new(entries), *sorted))
        }
        (DataType::Struct(a), DataType::Struct(b)) => {
            let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
            let of_a = a.iter().map(|field| match b.find(field.name()) {
                Some((_, other)) => joined_field(field, other),
                None => Some(nullable(field)),
            });
            let of_b = b.iter().filter(|field| a.find(field.name()).is_none()).map(|field| Some(nullable(field)));
            Some(DataType::Struct(of_a.chain(of_b).collect::<Option<Vec<_>>>()?.into()))
        }
        (x, y) if x == y => Some(a.clone()),
        (x, y) => stored_alike(x, y),
    }
}

/// Returns the type as which both types are read, if they are different Arrow representations of the same Parquet type.
fn stored_alike(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Decimal32, Decimal64, Decimal128, FixedSizeList, LargeList, LargeListView, List, ListView};
    let item = |data_type: &DataType| match data_type {
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) | FixedSizeList(item, _) => {
            Some(Arc::clone(item))
        }
        _ => None,
    };
    let is_large = |data_type: &DataType| matches!(data_type, LargeList(_) | LargeListView(_));
    match (item(a), item(b)) {
        // The reader matches struct fields by name only if both lists are of the same kind, so here items must be
        // equal.
        (Some(x), Some(y)) if as_read(x.data_type()) == as_read(y.data_type()) => {
            let item = Arc::new(x.as_ref().clone().with_nullable(x.is_nullable() || y.is_nullable()));
            Some(if is_large(a) || is_large(b) { LargeList(item) } else { List(item) })
        }
        (None, None) => match (a, b) {
            (
                Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s),
                Decimal32(q, t) | Decimal64(q, t) | Decimal128(q, t),
            ) if (p, s) == (q, t) => Some(Decimal128(*p, *s)),
            _ => None,
        },
        _ => None,
    }
}

fn joined_field(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    let data_type = joined(a.data_type(), b.data_type())?;
    Some(Arc::new(a.as_ref().clone().with_data_type(data_type).with_nullable(a.is_nullable() || b.is_nullable())))
}

/// Returns the type as which values of `data_type` are read.
fn as_read(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => as_read(values),
        DataType::Utf8 | DataType::LargeUtf8 => &DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => &DataType::BinaryView,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn types_with_different_storage_are_merged() {
        let list = |name: &str, item: DataType| DataType::List(Arc::new(Field::new(name, item, true)));
        let texts = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let known = list("item", texts);
        assert_eq!(joined(&known, &list("element", DataType::LargeUtf8)), Some(known));
        assert_eq!(joined(&list("item", DataType::Int64), &list("item", DataType::Int32)), None);
        assert_eq!(joined(&DataType::Utf8, &DataType::Binary), None);
        assert_eq!(joined(&DataType::Null, &DataType::Int64), Some(DataType::Int64));
        let large = DataType::LargeList(Arc::new(Field::new("item", DataType::Int64, true)));
        assert_eq!(joined(&list("item", DataType::Int64), &large), Some(large));
        let decimals = (DataType::Decimal32(5, 2), DataType::Decimal128(5, 2));
        assert_eq!(joined(&decimals.0, &decimals.1), Some(decimals.1));
        assert_eq!(joined(&decimals.0, &DataType::Decimal128(5, 1)), None);
    }

    #[test]
    fn duplicate_columns_are_rejected_unless_they_are_partition_columns() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let twice = Schema::new(vec![field("a", DataType::Int64), field("a", DataType::Int64)]);
        let error = merge(&[("x.parquet".to_string(), &twice)], |_| true).unwrap_err().to_string();
        assert_eq!(error, "`x.parquet` has two columns called `a`");
        let other = Schema::new(vec![field("a", DataType::Utf8), field("b", DataType::Utf8)]);
        let files = [("x.parquet".to_string(), &twice), ("y.parquet".to_string(), &other)];
        assert_eq!(merge(&files, |name| name != "a").unwrap().fields().len(), 1);
    }

    #[test]
    fn merged_structs_have_the_fields_of_all_files() {
        let field = |name: &str, nullable: bool| Field::new(name, DataType::Int64, nullable);
        let fields = |fields: &[Field]| DataType::Struct(fields.to_vec().into());
        let map = |value: DataType| {
            let pair = [Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
            DataType::Map(Arc::new(Field::new("entries", fields(&pair), false)), false)
        };
        let (old, new) =
            (fields(&[field("a", false), field("b", false)]), fields(&[field("c", false), field("a", true)]));
        let both = fields(&[field("a", true), field("b", true), field("c", true)]);
        assert_eq!(joined(&map(old.clone()), &map(new)), Some(map(both)));
        let other = fields(&[Field::new("a", DataType::Utf8, true)]);
        assert_eq!(joined(&map(old), &map(other)), None);
    }
}
