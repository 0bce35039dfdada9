//! Infers the types of columns from lines of JSON.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use buzz_protocol::{QueryError, Result};
use buzz_storage::text::{Members, Sample, float};
use serde_json::value::RawValue;

use crate::infer::{Inferred, common, whole_number};

/// The columns of a JSON file, as far as its start shows them.
#[derive(Debug, Default)]
pub(crate) struct JsonColumns {
    /// The columns in order of appearance.
    pub(crate) columns: Vec<Inferred>,
    /// For each object that has names that differ only in case: its names.
    pub(crate) apart: Vec<Vec<String>>,
    /// True if each object is on a line of its own.
    pub(crate) is_in_lines: bool,
}

/// Returns the columns of a file of JSON objects that starts with `sample`.
///
/// # Errors
/// `Data` if it is not JSON objects.
pub(crate) fn json_columns(sample: &Sample) -> Result<JsonColumns> {
    let mut rows = DataType::Struct(Fields::empty());
    let mut apart = Vec::new();
    let mut objects = serde_json::Deserializer::from_slice(&sample.text).into_iter::<&RawValue>();
    let mut is_in_lines = sample.is_plain;
    let mut end = 0;
    while let Some(object) = objects.next() {
        let start = end;
        end = objects.byte_offset();
        let row = object.and_then(|object| {
            let Members(members) = serde_json::from_str(object.get())?;
            is_in_lines &= !object.get().contains('\n');
            let mut names: Vec<String> = members.iter().map(|(name, _)| name.to_lowercase()).collect();
            names.sort_unstable();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                apart.push(members.into_iter().map(|(name, _)| name).collect());
            }
            type_of(object, DEPTH_MAX)
        });
        match row {
            Ok(row) => rows = common(&rows, &row),
            // The last object of a sample may be cut.
            Err(error) if error.is_eof() && sample.is_cut => {
                // A cut object of several lines is the only sign of a file whose first object is large.
                is_in_lines &= !sample.text[start.min(sample.text.len())..].trim_ascii().contains(&b'\n');
                break;
            }
            Err(error) => return Err(QueryError::data(format!("invalid JSON: {error}"))),
        }
    }
    let DataType::Struct(fields) = rows else { return Ok(JsonColumns::default()) };
    let column = |field: &Arc<Field>| Inferred {
        name: field.name().clone(),
        data_type: (!field.data_type().is_null()).then(|| field.data_type().clone()),
    };
    Ok(JsonColumns { columns: fields.iter().map(column).collect(), apart, is_in_lines })
}

/// Maximum nesting depth of lists and objects.
const DEPTH_MAX: usize = 64;

/// Maximum nesting depth of types, including the row. Lists and objects below are JSON text: types of more than 30 levels
/// exceed the nesting of messages that the decoder of plans allows.
const TYPE_DEPTH_MAX: usize = 24;

/// Returns the narrowest type of `value`, which may have at most `depth` levels. The type of null, and of the items of
/// an empty list, is `Null`.
fn type_of(value: &RawValue, depth: usize) -> Result<DataType, serde_json::Error> {
    let text = value.get();
    let Some(below) = depth.checked_sub(1) else {
        return Err(serde::de::Error::custom(format!("a value is nested more than {DEPTH_MAX} levels deep")));
    };
    let data_type = match text.as_bytes().first() {
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
    };
    let is_too_deep = data_type.is_nested() && DEPTH_MAX - depth >= TYPE_DEPTH_MAX;
    Ok(if is_too_deep { DataType::Utf8 } else { data_type })
}

/// Returns the type of a number. Whole numbers have an exact type, unless they have so many digits that arithmetic
/// overflows. A number that is too large for a float is text.
fn number(text: &str) -> DataType {
    let is_whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    match is_whole.then(|| whole_number(text)).flatten() {
        Some(whole) => whole,
        None if float(text).is_some() => DataType::Float64,
        None => DataType::Utf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::merged;
    use crate::spelling::Spellings;

    fn sample(text: &str) -> Sample {
        Sample { text: text.as_bytes().to_vec().into(), is_cut: false, is_plain: true }
    }

    fn types(files: &[&str]) -> Vec<String> {
        let columns = files.iter().map(|text| json_columns(&sample(text)).unwrap().columns).collect();
        let schema = merged(columns, &Spellings::default());
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
            assert!(json_columns(&sample(wrong)).is_err(), "{wrong}");
        }
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(json_columns(&sample(&deep)).is_err());
        let nested =
            |depth: usize| types(&[&format!("{{\"a\": {}1{}}}", "[".repeat(depth), "]".repeat(depth))]).concat();
        assert_eq!(nested(2), "a: List(List(Int64))");
        assert_eq!(nested(40), format!("a: {}Utf8{}", "List(".repeat(23), ")".repeat(23)));
        assert_eq!(types(&[r#"{"a": 1} {"a": {"b": 2}} {"a": [1]}"#]), ["a: Utf8"]);
        assert_eq!(types(&[r#"{"a": 9007199254740993} {"a": 1.5}"#]), ["a: Utf8"]);
    }

    #[test]
    fn objects_over_several_lines_and_cut_objects_are_noticed() {
        let lines = json_columns(&sample("{\"a\": 1}\n{\"a\": 2, \"A\": 3}\n")).unwrap();
        assert!(lines.is_in_lines && lines.apart == [["a", "A"]]);
        let cut = |text: &str| json_columns(&Sample { is_cut: true, ..sample(text) }).unwrap();
        assert!(!cut("{\"a\": 1}\n{\"a\":\n 2}\n").is_in_lines);
        assert!(!cut("{\"a\": 1,\n\"b\"").is_in_lines);
        let whole = cut("{\"a\": 1}\n{\"a\": ");
        assert!(whole.is_in_lines && whole.columns.len() == 1);
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
