//! Infers the types of columns from lines of JSON.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use buzz_protocol::{QueryError, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::infer::{DIGITS_MAX, Inferred, WHOLE, common};

/// Returns the columns of a file of JSON lines that starts with `head`, in order of appearance.
///
/// # Errors
/// `Data` if `head` is not JSON lines.
pub(crate) fn json_columns(head: &[u8]) -> Result<Vec<Inferred>> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    if head.trim_ascii_start().starts_with(b"[") {
        return Err(QueryError::data("the file is a JSON array; convert it to one JSON object per line"));
    }
    let mut rows = DataType::Struct(Fields::empty());
    for line in serde_json::Deserializer::from_slice(head).into_iter::<&RawValue>() {
        let row = line.and_then(|line| {
            serde_json::from_str::<Members<'_>>(line.get())?;
            type_of(line, DEPTH_MAX)
        });
        let row = row.map_err(|error| QueryError::data(format!("invalid JSON lines: {error}")))?;
        rows = common(&rows, &row);
    }
    let DataType::Struct(fields) = rows else { return Ok(Vec::new()) };
    let column = |field: &Arc<Field>| Inferred {
        name: field.name().clone(),
        data_type: (!field.data_type().is_null()).then(|| field.data_type().clone()),
    };
    Ok(fields.iter().map(column).collect())
}

/// Maximum nesting depth of lists and objects.
const DEPTH_MAX: usize = 64;

/// Returns the narrowest type of `value`, which may have at most `depth` levels. The type of null, and of the items of
/// an empty list, is `Null`.
fn type_of(value: &RawValue, depth: usize) -> Result<DataType, serde_json::Error> {
    let text = value.get();
    let Some(below) = depth.checked_sub(1) else {
        return Err(serde::de::Error::custom(format!("a value is nested more than {DEPTH_MAX} levels deep")));
    };
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(text)?;
            let mut fields: Vec<Field> = Vec::with_capacity(members.len());
            let mut known: HashMap<String, usize> = HashMap::with_capacity(members.len());
            for (name, value) in members {
                let field = Field::new(&name, type_of(value, below)?, true);
                // If a name is repeated, the last member wins.
                match known.entry(name) {
                    Entry::Occupied(place) => fields[*place.get()] = field,
                    Entry::Vacant(place) => {
                        place.insert(fields.len());
                        fields.push(field);
                    }
                }
            }
            DataType::Struct(fields.into())
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            let mut known = DataType::Null;
            for item in items {
                known = common(&known, &type_of(item, below)?);
            }
            DataType::List(Arc::new(Field::new_list_field(known, true)))
        }
        Some(b'"') => DataType::Utf8,
        Some(b't' | b'f') => DataType::Boolean,
        Some(b'n') | None => DataType::Null,
        Some(_) => number(text),
    })
}

/// Returns the type of a number. Whole numbers have an exact type, unless they have so many digits that arithmetic
/// overflows.
fn number(text: &str) -> DataType {
    let digits = text.trim_start_matches('-');
    match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true if text.parse::<i64>().is_ok() => DataType::Int64,
        true if digits.len() <= DIGITS_MAX => WHOLE,
        _ => DataType::Float64,
    }
}

/// The members of an object, in their order and unparsed.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::merged;

    fn types(files: &[&str]) -> Vec<String> {
        let schema = merged(files.iter().map(|text| json_columns(text.as_bytes()).unwrap()).collect());
        schema.fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect()
    }

    #[test]
    fn nested_types_are_merged() {
        let lines = "{\"a\": 1, \"s\": {\"x\": null}}\n\n{\"a\": 2.5, \"s\": {\"y\": [1]}}\n";
        assert_eq!(types(&[lines]), ["a: Float64", "s: Struct(\"x\": Utf8, \"y\": List(Int64))"]);
        let nulls = r#"{"a": [null]} {"a": [{"b": 1}, null]} {"a": []} {"a": null}"#;
        assert_eq!(types(&[nulls]), ["a: List(Struct(\"b\": Int64))"]);
        assert_eq!(types(&[r#"{"a": [null]}"#, r#"{"a": [9]}"#]), ["a: List(Int64)"]);
        assert_eq!(types(&[r#"{"a": 1, "a": "x", "b": true}"#]), ["a: Utf8", "b: Boolean"]);
        for wrong in ["[{}]", "1", "{\"a\": 1", "{\"a\": 1}\nnull"] {
            assert!(json_columns(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(json_columns(deep.as_bytes()).is_err());
        assert!(json_columns(b" [{}]").unwrap_err().message.contains("JSON array"));
    }

    #[test]
    fn whole_numbers_are_exact_up_to_23_digits() {
        let line = r#"{"a": 18446744073709551616, "s": {"x": [1, -9223372036854775809], "y": 1e3}, "f": 2.0, "i": 1}"#;
        let expected = [
            "a: Decimal128(38, 0)",
            "s: Struct(\"x\": List(Decimal128(38, 0)), \"y\": Float64)",
            "f: Float64",
            "i: Int64",
        ];
        assert_eq!(types(&[line]), expected);
        assert_eq!(types(&[r#"{"a": 123456789012345678901234}"#]), ["a: Float64"]);
    }
}
