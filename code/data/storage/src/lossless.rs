//! Casts of columns that came in other types than those of their table.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field};
use buzz_protocol::{QueryError, Result, without_hidden_values};

/// Casts a column to the type of `field`. Fields of structs are found by name, and those that it lacks are null. Null structs hide
/// no values.
///
/// # Errors
/// `Data` if a value has no equal in that type: 3.9 is not an integer, 300 is not a TINYINT, a time of day is not part of a date,
/// and a number is not a time, since its unit is not known.
pub fn lossless(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let column = &without_hidden_values(column)?;
    let (from, to) = (column.data_type(), field.data_type());
    let lossy = |reason: &str| {
        QueryError::data(format!(
            "column `{}` comes as {from}, and the table has it as {to}: {reason}; declare the type in which it comes",
            field.name()
        ))
    };
    if from == to {
        return Ok(Arc::clone(column));
    }
    let inside = |error: QueryError| error.at(format!("column {}", field.name()));
    match (from, to) {
        (DataType::Null, _) => return Ok(new_null_array(to, column.len())),
        // Not all types can be cast back to these.
        (DataType::Dictionary(_, values), _) if !matches!(to, DataType::Dictionary(..)) => {
            return lossless(&cast(column, values)?, field);
        }
        (DataType::RunEndEncoded(_, values), _) if !matches!(to, DataType::RunEndEncoded(..)) => {
            return lossless(&cast(column, values.data_type())?, field);
        }
        // The number of a time with a zone is that of its instant, whatever the zone is.
        (DataType::Timestamp(unit, Some(zone)), DataType::Timestamp(..)) if zone.as_ref() != "UTC" => {
            return lossless(&cast(column, &DataType::Timestamp(*unit, Some("UTC".into())))?, field);
        }
        (DataType::Union(..), _) => return Err(lossy("no type has values of several types; leave the column out")),
        (DataType::List(_), DataType::List(item)) => {
            let lists = column.as_list::<i32>();
            let (values, offsets) = (lossless(lists.values(), item).map_err(inside)?, lists.offsets().clone());
            return Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, values, lists.nulls().cloned())?));
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let rows = column.as_struct();
            if !fields.is_empty() && fields.iter().all(|part| rows.column_by_name(part.name()).is_none()) {
                return Err(lossy("it has none of the fields"));
            }
            let parts = fields.iter().map(|part| match rows.column_by_name(part.name()) {
                Some(found) => lossless(found, part).map_err(inside),
                None => Ok(new_null_array(part.data_type(), rows.len())),
            });
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let nulls = rows.nulls().cloned();
            return Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), parts, nulls, rows.len())?));
        }
        _ if is_time(to) && from.is_numeric() => return Err(lossy("the unit of the number is not known")),
        _ => {}
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let made = cast_with_options(column, to, &strict).map_err(|error| lossy(&error.to_string()))?;
    // Intervals can only be cast to the widest of their types.
    let is_exact = is_text(from) || is_text(to) || matches!((from, to), (DataType::Interval(_), DataType::Interval(_)));
    if !is_exact && cast(&made, from).map_err(|error| lossy(&error.to_string()))?.as_ref() != column.as_ref() {
        return Err(lossy("a value would change"));
    }
    Ok(made)
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_))
}

/// Checks if values are texts, of which one type has several for a value of another: `1.0` and `1`.
fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => other.is_string() || other.is_binary(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Float64Type, Int64Type, TimeUnit};

    use super::*;

    fn list(numbers: &[f64]) -> ArrayRef {
        let numbers = numbers.iter().copied().map(Some).collect::<Vec<_>>();
        Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([Some(numbers), None]))
    }

    fn point() -> ArrayRef {
        let part = |name: &str, value: i32| {
            let values: ArrayRef = Arc::new(Int32Array::from(vec![value]));
            (Arc::new(Field::new(name, DataType::Int32, true)), values)
        };
        Arc::new(StructArray::from(vec![part("x", 1), part("y", 2)]))
    }

    fn field(data_type: DataType) -> Field {
        Field::new("c", data_type, true)
    }

    #[test]
    fn nested_values_are_found_by_name() {
        let made = lossless(&list(&[3.0, 4.0]), &field(DataType::new_list(DataType::Int64, true))).unwrap();
        let first = made.as_list::<i32>().value(0);
        assert_eq!((first.as_primitive::<Int64Type>().values().as_ref(), made.is_null(1)), ([3, 4].as_slice(), true));
        let fields = ["y", "z", "x"].map(|name| Field::new(name, DataType::Int64, true));
        let made = lossless(&point(), &field(DataType::Struct(fields.to_vec().into()))).unwrap();
        let value = |part: usize| made.as_struct().column(part).as_primitive::<Int64Type>().iter().next().flatten();
        assert_eq!([value(0), value(1), value(2)], [Some(2), None, Some(1)]);
    }

    #[test]
    fn value_that_would_change_is_an_error() {
        let numbers = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![Some(value), None])) };
        let noon: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_704_110_400_000_000]));
        let day: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_704_067_200_000_000]));
        let nanos = || DataType::Timestamp(TimeUnit::Nanosecond, None);
        for (column, to, reason) in [
            (list(&[3.9]), DataType::new_list(DataType::Int64, true), "a value would change"),
            (numbers(1_704_067_200_000), nanos(), "the unit"),
            (numbers(3_600), DataType::Time64(TimeUnit::Nanosecond), "the unit"),
            (numbers(300), DataType::Int8, "Can't cast value 300"),
            (numbers(2), DataType::Boolean, "a value would change"),
            (noon, DataType::Date32, "a value would change"),
            (point(), DataType::Struct(vec![field(DataType::Int64)].into()), "none of the fields"),
        ] {
            let error = lossless(&column, &field(to.clone())).expect_err(reason).to_string();
            assert!(error.contains(reason), "{to}: {error}");
        }
        for (column, to) in [
            (new_null_array(&DataType::Null, 1), DataType::Date32),
            (numbers(100), DataType::Int8),
            (numbers(1), DataType::Boolean),
            (numbers(1), DataType::Utf8),
            (Arc::clone(&day), DataType::Date32),
            (day, nanos()),
            (Arc::new(StringArray::from(vec!["2024-01-01"])) as ArrayRef, DataType::Date32),
            (Arc::new(StringArray::from(vec!["1.50"])) as ArrayRef, DataType::Float64),
        ] {
            assert_eq!(lossless(&column, &field(to.clone())).unwrap().data_type(), &to);
        }
    }
}
