//! Writes nested values as JSON: structs as objects, lists as arrays, maps as objects if their keys are texts and as arrays of
//! keys with values otherwise. Numbers keep all their digits; other plain values are texts, written as PostgreSQL does.

use arrow::array::timezone::Tz;
use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;

use crate::postgres::value::{Misfit, Scalar, elements, scalar, scalar_text};

/// Writes the value at `row` of `array`, which may be null.
pub(super) fn write(array: &dyn Array, row: usize, zone: Tz, out: &mut String) -> Result<(), Misfit> {
    if array.is_null(row) || array.data_type().is_null() {
        out.push_str("null");
        return Ok(());
    }
    if let Some(value) = scalar(array, row)? {
        plain(&value, zone, out);
        return Ok(());
    }
    match array.data_type() {
        DataType::Struct(fields) => {
            let columns = array.as_struct();
            let members = fields.iter().zip(columns.columns());
            object(members.map(|(field, column)| (field.name().as_str(), column.as_ref())), row, zone, out)
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let elements = elements(array, row);
            separated(elements.len(), ('[', ']'), out, |index, out| write(elements.as_ref(), index, zone, out))
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let is_text = matches!(keys.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            if is_text {
                return separated(entries.len(), ('{', '}'), out, |index, out| {
                    write(keys.as_ref(), index, zone, out)?;
                    out.push(':');
                    write(values.as_ref(), index, zone, out)
                });
            }
            separated(entries.len(), ('[', ']'), out, |index, out| {
                object([("key", keys.as_ref()), ("value", values.as_ref())].into_iter(), index, zone, out)
            })
        }
        other => Err(format!("values of type {other} cannot be sent; cast them to text or select their parts")),
    }
}

fn object<'a>(
    members: impl Iterator<Item = (&'a str, &'a dyn Array)>,
    row: usize,
    zone: Tz,
    out: &mut String,
) -> Result<(), Misfit> {
    let members: Vec<(&str, &dyn Array)> = members.collect();
    separated(members.len(), ('{', '}'), out, |index, out| {
        quoted(members[index].0, out);
        out.push(':');
        write(members[index].1, row, zone, out)
    })
}

fn separated(
    count: usize,
    (open, close): (char, char),
    out: &mut String,
    mut one: impl FnMut(usize, &mut String) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    out.push(open);
    for index in 0..count {
        if index > 0 {
            out.push(',');
        }
        one(index, out)?;
    }
    out.push(close);
    Ok(())
}

fn plain(value: &Scalar<'_>, zone: Tz, out: &mut String) {
    let mut text = String::new();
    scalar_text(value, zone, &mut text);
    match value {
        Scalar::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Scalar::Int2(_) | Scalar::Int4(_) | Scalar::Int8(_) | Scalar::Numeric(_) => out.push_str(&text),
        Scalar::Float4(value) if value.is_finite() => out.push_str(&text),
        Scalar::Float8(value) if value.is_finite() => out.push_str(&text),
        _ => quoted(&text, out),
    }
}

fn quoted(text: &str, out: &mut String) {
    // A text always has a JSON form.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int32Builder, MapBuilder, StringBuilder, StructArray};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn nested_values_keep_digits_and_nulls() {
        let price = Decimal128Array::from(vec![12_345_678_901_234_567_890_123_456_i128, 0]);
        let price: ArrayRef = Arc::new(price.with_precision_and_scale(38, 4).unwrap());
        let ratio: ArrayRef = Arc::new(Float64Array::from(vec![Some(f64::NAN), None]));
        let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
        let both =
            StructArray::from(vec![(field("a\"b", &price), price.clone()), (field("ratio", &ratio), ratio.clone())]);
        let text = |array: &dyn Array, row| {
            let mut out = String::new();
            write(array, row, "+00:00".parse().unwrap(), &mut out).unwrap();
            out
        };
        assert_eq!(text(&both, 0), r#"{"a\"b":1234567890123456789012.3456,"ratio":"NaN"}"#);
        assert_eq!(text(&both, 1), r#"{"a\"b":0.0000,"ratio":null}"#);
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        map.keys().append_value("k");
        map.values().append_null();
        map.append(true).unwrap();
        assert_eq!(text(&map.finish(), 0), r#"{"k":null}"#);
    }
}
