//! Rows that change, as Debezium writes them: JSON objects with `before`, `after` and `op`, alone or in the `payload` of an
//! envelope.
//!
//! Each change becomes one or two rows with the columns of the table and their [`PLACE`]: the row before it, which is taken
//! away, and the row after it. The rows are judged one by one, so a row that does not fit is left out both when it comes and
//! when it is taken away.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_protocol::{CHANGES, QueryError, Result};
use buzz_storage::text::foreign_row;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::decode::{Decoded, Format, decode_json, row_fault};
use crate::records::records;
use crate::source::BadRow;

/// The last column of rows that change: twice the number of the change among those that are decoded together, and one more for
/// the row after it.
pub(crate) const PLACE: &str = "__buzz_place";

/// Format of the rows before and after a change.
const ROWS: Format = Format::Json { unstructured: false };

/// A change. Other keys, such as `source` and `ts_ms`, are left out.
#[derive(Debug, Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    op: Option<String>,
    /// The change itself, in an envelope with its schema.
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// A row before or after a change.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    text: &'a str,
    place: i64,
}

/// Returns the columns of rows that change: `columns`, marked, and with their [`PLACE`].
pub(crate) fn changing(columns: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = columns.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(PLACE, DataType::Int64, true)));
    Arc::new(Schema::new(fields).with_metadata([(CHANGES.to_string(), "true".to_string())].into()))
}

/// Decodes the changes in the records of a text. What cannot be decoded is returned as bad.
///
/// # Errors
/// `Internal` if `schema` is not that of rows that change.
pub(crate) fn decode_records(schema: &SchemaRef, text: &[u8]) -> Result<Decoded> {
    let (mut changes, mut bad) = (Vec::new(), Vec::new());
    for record in records(&Format::DebeziumJson, text) {
        let values = serde_json::Deserializer::from_slice(record.text).into_iter::<&RawValue>();
        let values: Result<Vec<&str>, _> = values.map(|value| value.map(RawValue::get)).collect();
        match (values, record.fault) {
            (Ok(values), None) => changes.extend(values),
            (Ok(_), Some(fault)) => bad.push(BadRow { text: record.row(), reason: fault.to_string() }),
            (Err(error), _) => bad.push(BadRow { text: record.row(), reason: format!("it is not JSON: {error}") }),
        }
    }
    let mut decoded = decode_changes(schema, changes)?;
    decoded.bad.append(&mut bad);
    Ok(decoded)
}

/// Decodes changes, of which each is the text of a JSON value. What cannot be decoded is returned as bad.
///
/// # Errors
/// `Internal` if `schema` is not that of rows that change.
pub(crate) fn decode_changes<'a>(schema: &SchemaRef, changes: impl IntoIterator<Item = &'a str>) -> Result<Decoded> {
    let own: Vec<usize> = (0..schema.fields().len().saturating_sub(1)).collect();
    let columns: SchemaRef = Arc::new(schema.project(&own)?);
    let (mut rows, mut decoded) = (Vec::new(), Decoded::default());
    for (number, text) in (0_i64..).zip(changes) {
        match rows_of(text) {
            Err(reason) => decoded.bad.push(BadRow { text: text.to_string(), reason }),
            Ok(found) => {
                for (row, place) in found.into_iter().zip([2 * number, 2 * number + 1]) {
                    let Some(text) = row else { continue };
                    match foreign_row(&columns, text.as_bytes()) {
                        Some(reason) => decoded.bad.push(BadRow { text: text.to_string(), reason }),
                        None => rows.push(Row { text, place }),
                    }
                }
            }
        }
    }
    let (mut batches, mut places) = (Vec::new(), Vec::with_capacity(rows.len()));
    sift(&columns, &rows, (&mut batches, &mut places), &mut decoded.bad);
    if !places.is_empty() {
        let all = concat_batches(&columns, &batches)?;
        let mut arrays = all.columns().to_vec();
        arrays.push(Arc::new(Int64Array::from(places)) as ArrayRef);
        decoded.batches.push(RecordBatch::try_new(Arc::clone(schema), arrays)?);
    }
    Ok(decoded)
}

/// Decodes the good ones of `rows`, with their places, and notes the reasons of the others.
fn sift(columns: &SchemaRef, rows: &[Row<'_>], good: (&mut Vec<RecordBatch>, &mut Vec<i64>), bad: &mut Vec<BadRow>) {
    let (batches, places) = good;
    if rows.is_empty() {
        return;
    }
    let mut text = String::with_capacity(rows.iter().map(|row| row.text.len() + 1).sum());
    for row in rows {
        text.push_str(row.text);
        text.push('\n');
    }
    let count = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    match (decode_json(columns, text.as_bytes()), rows) {
        (Ok(decoded), _) if count(&decoded) == rows.len() => {
            batches.extend(decoded);
            places.extend(rows.iter().map(|row| row.place));
        }
        (decoded, [row]) => {
            let reason = match decoded {
                Ok(_) => "it is not one row".to_string(),
                Err(error) => row_fault(&ROWS, columns, row.text.as_bytes(), &error),
            };
            bad.push(BadRow { text: row.text.to_string(), reason });
        }
        _ => {
            let (first, second) = rows.split_at(rows.len() / 2);
            sift(columns, first, (&mut *batches, &mut *places), bad);
            sift(columns, second, (batches, places), bad);
        }
    }
}

/// Returns the rows before and after a change.
///
/// # Errors
/// The reason why the change cannot be followed.
fn rows_of(text: &str) -> Result<[Option<&str>; 2], String> {
    let parse = |text| serde_json::from_str::<Change<'_>>(text).map_err(|error| format!("it is no change: {error}"));
    let mut change = parse(text)?;
    if let (None, Some(payload)) = (&change.op, change.payload) {
        change = parse(payload.get())?;
    }
    let row = |name: &str, row: Option<&'_ RawValue>| match row.map(RawValue::get) {
        Some(text) if !text.starts_with('{') => Err(format!("its `{name}` is no object")),
        _ => Ok(()),
    };
    row("before", change.before)?;
    row("after", change.after)?;
    let (before, after) = (change.before.map(RawValue::get), change.after.map(RawValue::get));
    match (change.op.as_deref(), before, after) {
        (Some("c" | "r"), None, Some(_)) | (Some("u"), Some(_), Some(_)) => Ok([before, after]),
        (Some("d"), Some(_), _) => Ok([before, None]),
        (Some("u" | "d"), None, _) => {
            Err("it has no row `before`, so what it changes is not known; let the database send \
                                           whole rows (of PostgreSQL: ALTER TABLE … REPLICA IDENTITY FULL)"
                .to_string())
        }
        (Some("c" | "r" | "u"), _, None) => Err("it has no row `after`".to_string()),
        (Some("c" | "r"), Some(_), _) => Err("it is a new row, and has a row `before`".to_string()),
        (Some("t"), ..) => {
            Err("op `t` empties the table, which cannot be followed; start the pipeline under another name \
                                after a new snapshot"
                .to_string())
        }
        (Some(op), ..) => Err(format!("its op is `{op}`; known are c, r, u and d")),
        (None, ..) => {
            Err("it has no `op`; each row must be a change, as {\"before\": …, \"after\": …, \"op\": \"c\"}"
                .to_string())
        }
    }
}

/// Fails if a text that decoding set aside may not be left out.
///
/// # Errors
/// `Data`, with the text and the reason.
pub(crate) fn all_good(decoded: Decoded) -> Result<Decoded> {
    match decoded.bad.first() {
        None => Ok(decoded),
        Some(BadRow { text, reason }) => {
            let text: String = text.chars().take(200).collect();
            Err(QueryError::data(format!(
                "change `{text}` cannot be decoded: {reason}; repair it, or set bad_data = 'drop'"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int64Type, TimeUnit, TimestampNanosecondType};

    use super::*;

    fn schema() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let fields = [("id", DataType::Int64), ("name", DataType::Utf8), ("at", time)];
        changing(&Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
    }

    /// The place, the id and the name of each row of a text.
    fn rows(decoded: &Decoded) -> Vec<(i64, Option<i64>, Option<String>)> {
        let mut rows = Vec::new();
        for batch in &decoded.batches {
            let (ids, names) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
            let places = batch.column(3).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let name = names.is_valid(row).then(|| names.value(row).to_string());
                rows.push((places.value(row), ids.is_valid(row).then(|| ids.value(row)), name));
            }
        }
        rows
    }

    fn named(place: i64, id: i64, name: &str) -> (i64, Option<i64>, Option<String>) {
        (place, Some(id), Some(name.to_string()))
    }

    #[test]
    fn changes_are_the_rows_before_and_after_them() {
        let text = r#"{"before":null,"after":{"id":1,"name":"a","at":"2024-01-01T00:00:00"},"op":"c","ts_ms":5,"source":{"lsn":1}}
{"schema":{"type":"struct"},"payload":{"before":null,"after":{"id":2,"name":"x"},"op":"r"}}
{"payload":{"before":{"id":1,"name":"a"},"after":{
  "id":1,"name":"b"},"op":"u","transaction":null}}
{"op":"d","before":{"id":2,"name":"x"},"after":null}{"op":"c","after":{"id":3}}
"#;
        let decoded = decode_records(&schema(), text.as_bytes()).expect("the schema is one of changes");
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
        let expected = [
            named(1, 1, "a"),
            named(3, 2, "x"),
            named(4, 1, "a"),
            named(5, 1, "b"),
            named(6, 2, "x"),
            (9, Some(3), None),
        ];
        assert_eq!(rows(&decoded), expected);
        let times = decoded.batches[0].column(2).as_primitive::<TimestampNanosecondType>();
        assert_eq!((times.value(0), times.null_count()), (1_704_067_200_000_000_000, 5));
        assert!(decoded.batches[0].schema().metadata().contains_key(CHANGES));
    }

    #[test]
    fn change_that_cannot_be_followed_is_bad_with_its_reason() {
        let cases = [
            (r#"{"id":1,"name":"a"}"#, "it has no `op`"),
            (r#"{"before":null,"after":null,"op":"t"}"#, "op `t` empties the table"),
            (r#"{"op":"m","message":{}}"#, "its op is `m`; known are c, r, u and d"),
            (r#"{"before":null,"after":{"id":1},"op":"u"}"#, "REPLICA IDENTITY FULL"),
            (r#"{"before":null,"op":"d"}"#, "REPLICA IDENTITY FULL"),
            (r#"{"before":{"id":1},"op":"u"}"#, "it has no row `after`"),
            (r#"{"before":{"id":1},"after":{"id":1},"op":"c"}"#, "has a row `before`"),
            (r#"{"after":[1],"op":"c"}"#, "its `after` is no object"),
            (r#"{"after":{"ID":1},"op":"c"}"#, "`ID`"),
            (r#"{"after":{"other":1},"op":"c"}"#, "none of the table's columns; it has `other`"),
            (r#"{"after":{"id":1.5},"op":"c"}"#, "1.5"),
            (r#"{"after":{"id":1,"at":1704067200000},"op":"c"}"#, "AS to_timestamp_millis(at)"),
            ("nonsense", "it is not JSON"),
            ("7", "it is no change"),
        ];
        for (text, reason) in cases {
            let lines = format!("{{\"op\":\"c\",\"after\":{{\"id\":8,\"name\":\"n\"}}}}\n{text}\n");
            let decoded = decode_records(&schema(), lines.as_bytes()).expect("the schema is one of changes");
            assert_eq!(rows(&decoded), [named(1, 8, "n")], "{text}");
            assert_eq!(decoded.bad.len(), 1, "{text}");
            assert!(decoded.bad[0].reason.contains(reason), "{text}: {}", decoded.bad[0].reason);
            let error = all_good(decoded).expect_err("one is bad").message;
            assert!(error.contains(reason) && error.contains("bad_data = 'drop'"), "{error}");
        }
    }

    #[test]
    fn row_that_does_not_fit_is_left_out_when_it_comes_and_when_it_goes() {
        let text = r#"{"op":"u","before":{"id":1},"after":{"id":"many"}}
{"op":"u","before":{"id":"many"},"after":{"id":2}}
"#;
        let decoded = decode_records(&schema(), text.as_bytes()).expect("the schema is one of changes");
        assert_eq!(rows(&decoded), [(0, Some(1), None), (3, Some(2), None)]);
        assert_eq!(decoded.bad.len(), 2);
    }
}
