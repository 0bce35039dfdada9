//! Answers the question of asyncpg about types that it has no codec for, such as arrays of numbers: a recursive query over tables
//! that are mostly empty here. It is recognised by its first words, and answered from the table of types.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_protocol::QueryError;

use crate::pg_catalog::PG_CATALOG;
use crate::postgres::error::PgError;
use crate::postgres::types::{self, format_type};
use crate::scan::{self, Kind};

/// The columns, and those of them that are OIDs.
const COLUMNS: [&str; 14] = [
    "oid",
    "ns",
    "name",
    "kind",
    "basetype",
    "elemtype",
    "elemdelim",
    "range_subtype",
    "attrtypoids",
    "attrnames",
    "depth",
    "basetype_name",
    "elemtype_name",
    "range_subtype_name",
];
const OIDS: [&str; 4] = ["oid", "basetype", "elemtype", "range_subtype"];

/// Checks if `sql` is that question.
pub(super) fn is_asked(sql: &str) -> bool {
    let tokens = scan::tokens(sql);
    let words = ["with", "recursive", "typeinfo_tree"];
    tokens.len() > words.len() && words.iter().zip(&tokens).all(|(word, token)| token.is_word(sql, word))
}

/// Returns the columns of the answer.
pub(super) fn schema() -> SchemaRef {
    let field = |name: &&str| {
        let data_type = match *name {
            name if OIDS.contains(&name) => DataType::UInt32,
            "depth" => DataType::Int32,
            _ => DataType::Utf8,
        };
        Field::new(*name, data_type, true)
    };
    Arc::new(Schema::new(COLUMNS.iter().map(field).collect::<Vec<_>>()))
}

/// A type, and that of its elements if it is an array.
struct Known {
    oid: u32,
    name: String,
    element: Option<u32>,
    depth: i32,
}

/// Returns the types whose OIDs are in the array of `sql`, after those of their elements. Unknown ones are left out.
///
/// # Errors
/// `Internal` if the rows do not fit their columns.
pub(super) fn rows(sql: &str) -> Result<RecordBatch, PgError> {
    let asked = asked(sql);
    let mut found = Vec::new();
    for (own, array, _, name) in types::all() {
        let (is_own, is_array) = (asked.contains(&own), asked.contains(&array));
        if is_own || is_array {
            found.push(Known { oid: own, name: name.to_string(), element: None, depth: i32::from(!is_own) });
        }
        if is_array {
            found.push(Known { oid: array, name: format!("_{name}"), element: Some(own), depth: 0 });
        }
    }
    found.sort_by_key(|known| -known.depth);
    let texts = |value: &dyn Fn(&Known) -> Option<String>| -> ArrayRef {
        Arc::new(found.iter().map(value).collect::<StringArray>())
    };
    let oids = |value: &dyn Fn(&Known) -> Option<u32>| -> ArrayRef {
        Arc::new(found.iter().map(value).collect::<UInt32Array>())
    };
    let columns = COLUMNS.iter().map(|column| match *column {
        "oid" => oids(&|known| Some(known.oid)),
        "elemtype" => oids(&|known| known.element),
        "ns" => texts(&|_| Some(PG_CATALOG.to_string())),
        "name" => texts(&|known| Some(known.name.clone())),
        "kind" => texts(&|_| Some("b".to_string())),
        "elemdelim" => texts(&|known| known.element.map(|_| ",".to_string())),
        "elemtype_name" => texts(&|known| format_type(known.element?, -1)),
        "depth" => Arc::new(found.iter().map(|known| Some(known.depth)).collect::<Int32Array>()),
        other if OIDS.contains(&other) => oids(&|_| None),
        _ => texts(&|_| None),
    });
    RecordBatch::try_new(schema(), columns.collect()).map_err(|error| PgError::from(QueryError::from(error)))
}

/// Returns the numbers of the array, which is written as `'{20,25}'`.
fn asked(sql: &str) -> Vec<u32> {
    let texts = scan::tokens(sql).into_iter().filter(|token| token.kind == Kind::Text).map(|token| token.value(sql));
    let array = texts.into_iter().find_map(|text| Some(text.strip_prefix('{')?.strip_suffix('}')?.to_string()));
    array.unwrap_or_default().split(',').filter_map(|number| number.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::UInt32Type;

    use super::*;

    #[test]
    fn elements_precede_their_array() {
        let sql =
            "WITH RECURSIVE typeinfo_tree(oid) AS (SELECT 'b' FROM pg_type WHERE oid = any('{1007,7,16}'::oid[]))";
        assert!(is_asked(sql) && !is_asked("WITH RECURSIVE t AS (SELECT 1) SELECT 1") && !is_asked("WITH"));
        let rows = rows(sql).unwrap();
        let oids = rows.column(0).as_primitive::<UInt32Type>();
        assert_eq!(oids.values()[..], [23, 16, 1007]);
        let elements = rows.column(5).as_primitive::<UInt32Type>();
        assert_eq!(elements.iter().collect::<Vec<_>>(), [None, None, Some(23)]);
        assert_eq!(rows.column(12).as_string::<i32>().value(2), "integer");
    }
}
