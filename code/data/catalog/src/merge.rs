//! Merges the schemas of a table's Parquet files.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields, Schema, TimeUnit};
use buzz_protocol::{QueryError, Result, names_in_table};

use crate::spelling::Spellings;

/// Merges the columns for which `is_read` returns true, and the fields of their structs. Columns and fields that a file
/// lacks are null in that file. Types that differ are merged to one that holds the values of both ([`wider`]), columns
/// whose names differ only in case to one of their spellings, which are returned as well.
///
/// # Errors
/// `Data` if a file has two columns of the same name, or the types of a column cannot be merged.
pub(crate) fn merge(schemas: &[(String, &Schema)], is_read: impl Fn(&str) -> bool) -> Result<(Schema, Spellings)> {
    let names = |schema: &&Schema| -> Vec<String> {
        schema.fields().iter().map(|field| field.name().clone()).filter(|name| is_read(name)).collect()
    };
    let names: Vec<Vec<String>> = schemas.iter().map(|(_, schema)| names(schema)).collect();
    let spellings = Spellings::of(names.iter().map(|file| file.iter().map(String::as_str)));
    let mut merged: Vec<(FieldRef, &str)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (path, schema) in schemas {
        for (index, field) in schema.fields().iter().enumerate().filter(|(_, field)| is_read(field.name())) {
            if schema.fields()[..index].iter().any(|earlier| earlier.name() == field.name()) {
                return Err(QueryError::data(format!("`{path}` has two columns called `{}`", field.name())));
            }
            let name = spellings.name(field.name());
            let Some(place) = places.get(name) else {
                places.insert(name.to_string(), merged.len());
                merged.push((Arc::new(field.as_ref().clone().with_name(name)), path));
                continue;
            };
            let (known, first) = &mut merged[*place];
            let Some(both) = joined(known.data_type(), field.data_type(), true) else {
                return Err(QueryError::data(format!(
                    "column `{}` has type {} in `{first}` but {} in `{path}`; make them two tables, or set `schema` in the \
                     catalog entry to the type that holds both",
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
    Ok((Schema::new(merged.into_iter().map(|(field, _)| field).collect::<Vec<_>>()), spellings))
}

/// Returns the type that holds the values of both types; `None` if there is none. The name of list items and the storage
/// of text do not matter. Only a column itself (`is_column`), not a value within it, can get a type that holds most
/// values of both.
fn joined(a: &DataType, b: &DataType, is_column: bool) -> Option<DataType> {
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
            let names = names_in_table(&names_of(b), &names_of(a));
            let of_a = a.iter().map(|field| match names.iter().position(|name| name == field.name()) {
                Some(place) => joined_field(field, &b[place]),
                None => Some(nullable(field)),
            });
            let of_b = b.iter().zip(&names).filter(|(_, name)| a.find(name).is_none());
            let of_b = of_b.map(|(field, _)| Some(nullable(field)));
            Some(DataType::Struct(of_a.chain(of_b).collect::<Option<Vec<_>>>()?.into()))
        }
        (x, y) if x == y => Some(a.clone()),
        (x, y) => stored_alike(x, y).or_else(|| wider(x, y, is_column)),
    }
}

fn names_of(fields: &Fields) -> Vec<&str> {
    fields.iter().map(|field| field.name().as_str()).collect()
}

/// Adds to `found` each field within `file`, the type of the column or field `path`, whose name differs just in case from
/// that in `table`: its path in the table, and its name in the file.
pub(crate) fn other_spellings(path: &str, file: &DataType, table: &DataType, found: &mut BTreeSet<(String, String)>) {
    let (Some(fields), Some(wanted)) = (fields_within(file), fields_within(table)) else { return };
    let is_struct = matches!(file, DataType::Struct(_));
    for (place, (field, name)) in fields.iter().zip(names_in_table(&names_of(&fields), &names_of(&wanted))).enumerate()
    {
        // The items of a list, and the keys and values of a map, are found by their position.
        let Some(inner) = (if is_struct { wanted.find(&name).map(|(_, inner)| inner) } else { wanted.get(place) })
        else {
            continue;
        };
        let path = if is_struct { format!("{path}.{name}") } else { path.to_string() };
        if is_struct && *field.name() != name {
            found.insert((path.clone(), field.name().clone()));
        }
        other_spellings(&path, field.data_type(), inner.data_type(), found);
    }
}

/// Returns the fields of a struct, the item of a list, or the key and the value of a map.
fn fields_within(data_type: &DataType) -> Option<Fields> {
    match data_type {
        DataType::Struct(fields) => Some(fields.clone()),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(Fields::from(vec![Arc::clone(item)]))
        }
        DataType::Map(entries, _) => fields_within(entries.data_type()),
        _ => None,
    }
}

/// Returns the type that holds the numbers or times of both types:
/// - of integers, the larger one; of a signed and an unsigned one, a signed one that holds both, at most a decimal;
/// - of floats, the larger one; of integers of up to 32 bits and floats, `Float64`; also of larger integers in a column,
///   whose reader rejects integers that `Float64` cannot hold;
/// - of decimals and integers, a decimal with the digits of both on each side of the point;
/// - of times and timestamps, the finer unit; of a date and a timestamp without a zone, the timestamp.
fn wider(a: &DataType, b: &DataType, is_column: bool) -> Option<DataType> {
    use DataType::{Date32, Decimal128, Decimal256, Float64, Int8, Int16, Int32, Int64, Time32, Time64, Timestamp};
    match (a, b) {
        (a, b) if a.is_integer() && b.is_integer() => Some({
            let (a_bits, b_bits) = (bits(a), bits(b));
            match (a.is_signed_integer(), b.is_signed_integer()) {
                (x, y) if x == y => {
                    if a_bits >= b_bits {
                        a.clone()
                    } else {
                        b.clone()
                    }
                }
                (a_signed, _) => {
                    let (signed, unsigned) = if a_signed { (a_bits, b_bits) } else { (b_bits, a_bits) };
                    match signed.max(unsigned * 2) {
                        8 => Int8,
                        16 => Int16,
                        32 => Int32,
                        64 => Int64,
                        _ => Decimal128(20, 0),
                    }
                }
            }
        }),
        (a, b) if a.is_floating() && b.is_floating() => Some(if bits(a) >= bits(b) { a.clone() } else { b.clone() }),
        (whole, float) | (float, whole) if whole.is_integer() && float.is_floating() => {
            (is_column || bits(whole) <= 32).then_some(Float64)
        }
        (a, b) if digits(a).is_some() && digits(b).is_some() => {
            let ((whole_a, scale_a), (whole_b, scale_b)) = (digits(a)?, digits(b)?);
            let scale = scale_a.max(scale_b);
            match u8::try_from(whole_a.max(whole_b) + i16::from(scale)).ok()? {
                precision @ 0..=38 => Some(Decimal128(precision, scale)),
                precision @ 39..=76 => Some(Decimal256(precision, scale)),
                _ => None,
            }
        }
        (Timestamp(x, zone), Timestamp(y, other)) if zone.is_some() == other.is_some() => {
            Some(Timestamp(*[x, y].into_iter().max_by_key(|unit| fineness(unit))?, zone.clone()))
        }
        (Date32, time @ Timestamp(_, None)) | (time @ Timestamp(_, None), Date32) => Some(time.clone()),
        (Time32(_), time @ Time64(_)) | (time @ Time64(_), Time32(_)) => Some(time.clone()),
        (Time32(x), Time32(y)) => Some(Time32(*[x, y].into_iter().max_by_key(|unit| fineness(unit))?)),
        (Time64(x), Time64(y)) => Some(Time64(*[x, y].into_iter().max_by_key(|unit| fineness(unit))?)),
        _ => None,
    }
}

fn bits(data_type: &DataType) -> usize {
    data_type.primitive_width().unwrap_or_default() * 8
}

fn fineness(unit: &TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
}

/// Returns the digits before the point, and the scale, of a decimal or an integer.
fn digits(data_type: &DataType) -> Option<(i16, i8)> {
    use DataType::{
        Decimal32, Decimal64, Decimal128, Decimal256, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64,
    };
    match data_type {
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            Some((i16::from(*p) - i16::from(*s), *s))
        }
        Int8 | UInt8 => Some((3, 0)),
        Int16 | UInt16 => Some((5, 0)),
        Int32 | UInt32 => Some((10, 0)),
        Int64 => Some((19, 0)),
        UInt64 => Some((20, 0)),
        _ => None,
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
    let data_type = joined(a.data_type(), b.data_type(), false)?;
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

    fn of_columns(a: &DataType, b: &DataType) -> Option<DataType> {
        assert_eq!(joined(a, b, true).is_some(), joined(b, a, true).is_some(), "{a} and {b}");
        joined(a, b, true)
    }

    #[test]
    fn types_with_different_storage_are_merged() {
        let list = |name: &str, item: DataType| DataType::List(Arc::new(Field::new(name, item, true)));
        let texts = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let known = list("item", texts);
        assert_eq!(of_columns(&known, &list("element", DataType::LargeUtf8)), Some(known));
        assert_eq!(of_columns(&DataType::Utf8, &DataType::Binary), None);
        assert_eq!(of_columns(&DataType::Null, &DataType::Int64), Some(DataType::Int64));
        let large = DataType::LargeList(Arc::new(Field::new("item", DataType::Int64, true)));
        assert_eq!(of_columns(&list("item", DataType::Int64), &large), Some(large));
        let decimals = (DataType::Decimal32(5, 2), DataType::Decimal128(5, 2));
        assert_eq!(of_columns(&decimals.0, &decimals.1), Some(decimals.1));
    }

    #[test]
    fn types_of_numbers_and_times_are_widened() {
        use DataType::{
            Date32, Decimal128, Decimal256, Float32, Float64, Int8, Int16, Int32, Int64, Time32, Time64, Timestamp,
            UInt8, UInt32, UInt64, Utf8,
        };
        let time = |unit, zone: Option<&str>| Timestamp(unit, zone.map(Into::into));
        let (ms, us, ns) = (TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond);
        for (a, b, both) in [
            (Int32, Int64, Int64),
            (UInt8, Int8, Int16),
            (UInt32, Int64, Int64),
            (UInt64, Int8, Decimal128(20, 0)),
            (Float32, Float64, Float64),
            (Int32, Float32, Float64),
            (Int64, Float64, Float64),
            (Decimal128(10, 2), Decimal128(12, 4), Decimal128(12, 4)),
            (Decimal128(38, 0), Decimal128(10, 4), Decimal256(42, 4)),
            (Int32, Decimal128(5, 2), Decimal128(12, 2)),
            (time(ms, None), time(ns, None), time(ns, None)),
            (time(us, Some("UTC")), time(ms, Some("UTC")), time(us, Some("UTC"))),
            (Date32, time(us, None), time(us, None)),
            (Time32(ms), Time64(us), Time64(us)),
        ] {
            assert_eq!(of_columns(&a, &b), Some(both), "{a} and {b}");
        }
        for (a, b) in
            [(Int64, Utf8), (time(ms, None), time(ms, Some("UTC"))), (Float64, Decimal128(5, 2)), (Int8, Date32)]
        {
            assert_eq!(of_columns(&a, &b), None, "{a} and {b}");
        }
        let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
        assert_eq!(of_columns(&list(Int64), &list(Int32)), Some(list(Int64)));
        assert_eq!(of_columns(&list(Int64), &list(Float64)), None);
    }

    #[test]
    fn duplicate_columns_are_rejected_unless_they_are_partition_columns() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let twice = Schema::new(vec![field("a", DataType::Int64), field("a", DataType::Int64)]);
        let error = merge(&[("x.parquet".to_string(), &twice)], |_| true).unwrap_err().to_string();
        assert_eq!(error, "`x.parquet` has two columns called `a`");
        let other = Schema::new(vec![field("a", DataType::Utf8), field("b", DataType::Utf8)]);
        let files = [("x.parquet".to_string(), &twice), ("y.parquet".to_string(), &other)];
        assert_eq!(merge(&files, |name| name != "a").unwrap().0.fields().len(), 1);
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
        assert_eq!(of_columns(&map(old.clone()), &map(new)), Some(map(both)));
        let (lower, upper) =
            (fields(&[field("a", true), field("b", true)]), fields(&[field("B", true), field("A", true)]));
        assert_eq!(of_columns(&lower, &upper), Some(lower.clone()));
        let mut found = BTreeSet::new();
        other_spellings("s", &map(upper.clone()), &map(lower.clone()), &mut found);
        assert_eq!(found, BTreeSet::from([("s.a", "A"), ("s.b", "B")].map(|(a, b)| (a.to_string(), b.to_string()))));
        let apart = fields(&[field("A", true), field("a", true)]);
        assert_eq!(of_columns(&apart, &fields(&[field("a", true)])), Some(apart));
        let other = fields(&[Field::new("a", DataType::Utf8, true)]);
        assert_eq!(of_columns(&map(old), &map(other)), None);
    }
}
