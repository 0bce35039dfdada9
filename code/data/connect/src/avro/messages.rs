//! Messages with the id of their schema, as clients of a schema registry write them: a byte that is zero, the id in four
//! bytes, and a row.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_avro::codec::Tz;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;

use super::{guarded, plain};
use crate::decode::{Decoded, fitted};
use crate::source::{BadData, BadRow};

/// Bytes before a row.
const FRAME_BYTES: usize = 5;

/// Maximum number of bytes of a message in an error.
const SHOWN_MAX: usize = 100;

/// Schemas by their id, and the reasons why some do not exist.
pub(crate) type Schemas = BTreeMap<u32, Result<String, String>>;

/// Returns the id of the schema of a message; `None` if it has none.
pub(crate) fn schema_id(message: &[u8]) -> Option<u32> {
    match message.get(..FRAME_BYTES)? {
        [0, id @ ..] => Some(u32::from_be_bytes(id.try_into().ok()?)),
        _ => None,
    }
}

/// Decodes messages, in their order.
///
/// # Errors
/// `Data`, with the start of the message, if one does not fit and `bad_data` says so; `Internal` if `schemas` lacks one.
pub(crate) fn decode(messages: &[Bytes], schema: &SchemaRef, schemas: &Schemas, bad_data: BadData) -> Result<Decoded> {
    let mut decoded = Decoded::default();
    for run in messages.chunk_by(|one, next| schema_id(one) == schema_id(next)) {
        let Some(id) = run.first().and_then(|message| schema_id(message)) else {
            let reason = "it does not begin with a zero byte and the id of its schema in four bytes";
            all_bad(run, reason, &mut decoded.bad);
            continue;
        };
        match schemas.get(&id) {
            None => return Err(QueryError::internal(format!("schema {id} was not read"))),
            Some(Err(reason)) => all_bad(run, reason, &mut decoded.bad),
            Some(Ok(written)) => sift(run, schema, (id, written), &mut decoded),
        }
    }
    match decoded.bad.first() {
        Some(BadRow { text, reason }) if bad_data == BadData::Fail => Err(QueryError::data(format!(
            "message `{text}` cannot be decoded: {reason}; set bad_data = 'drop' to leave out such messages"
        ))),
        _ => Ok(decoded),
    }
}

fn all_bad(messages: &[Bytes], reason: &str, bad: &mut Vec<BadRow>) {
    bad.extend(messages.iter().map(|message| BadRow { text: shown(message), reason: reason.to_string() }));
}

/// Decodes the good ones of `messages`, which have one schema, and notes the reasons of the others.
fn sift(messages: &[Bytes], schema: &SchemaRef, written: (u32, &str), decoded: &mut Decoded) {
    match (rows(messages, schema, written), messages) {
        (Ok(batch), _) => decoded.batches.extend(batch),
        (Err(_), []) => {}
        (Err(error), [message]) => decoded.bad.push(BadRow { text: shown(message), reason: error.message }),
        (Err(_), _) => {
            let (first, second) = messages.split_at(messages.len() / 2);
            sift(first, schema, written, decoded);
            sift(second, schema, written, decoded);
        }
    }
}

/// Decodes messages with schema `id`, whose text is `written`.
fn rows(messages: &[Bytes], schema: &SchemaRef, (id, written): (u32, &str)) -> Result<Option<RecordBatch>> {
    let batch = guarded("the message", || {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(id), AvroSchema::new(written.to_string()))?;
        let builder = ReaderBuilder::new().with_batch_size(messages.len().saturating_add(1)).with_tz(Tz::Utc);
        let mut decoder = builder.with_writer_schema_store(store).build_decoder()?;
        for message in messages {
            let room = decoder.capacity();
            let taken = decoder.decode(message)?;
            if taken != message.len() || decoder.capacity().saturating_add(1) != room {
                return Err(ArrowError::ParseError(format!("its bytes are not one row of schema {id}")));
            }
        }
        decoder.flush()?.map(|batch| plain(&batch)).transpose()
    })?;
    batch.map(|batch| fitted(&batch, schema)).transpose()
}

/// Returns the start of a message in hexadecimal digits.
fn shown(message: &[u8]) -> String {
    let digits: String = message.iter().take(SHOWN_MAX).map(|byte| format!("{byte:02x}")).collect();
    if message.len() > SHOWN_MAX { format!("{digits}…") } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::tests::{WIDE, WIDE_SHOWN, declared, encoded, shown as values, text, wide};

    const NARROW: &str = r#"{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "int"}]}"#;

    fn message(id: u32, row: &[u8]) -> Bytes {
        [&[0], id.to_be_bytes().as_slice(), row].concat().into()
    }

    fn schemas() -> Schemas {
        let unknown = Err("schema 9 is unknown".to_string());
        BTreeMap::from([(3, Ok(WIDE.to_string())), (4, Ok(NARROW.to_string())), (9, unknown)])
    }

    fn names(decoded: &Decoded) -> Vec<[String; 2]> {
        let rows = decoded.batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| values(batch, row)));
        rows.map(|row| [row[0].clone(), row[1].clone()]).collect()
    }

    #[test]
    fn each_message_has_the_schema_of_its_id() {
        let messages = [
            message(3, &wide(5, Some("a"))),
            message(3, &wide(5, None)),
            message(4, &encoded(7)),
            message(3, &wide(8, Some("d"))),
        ];
        let decoded = decode(&messages, &declared(), &schemas(), BadData::Fail).expect("all are good");
        assert_eq!(names(&decoded), [["a", "5"], ["NULL", "5"], ["NULL", "7"], ["d", "8"]]);
        assert_eq!(values(&decoded.batches[0], 0)[1..], WIDE_SHOWN);
    }

    #[test]
    fn message_that_is_not_one_row_is_bad_by_itself() {
        let good = message(4, &encoded(1));
        let twice = message(4, &[encoded(1), vec![0, 0, 0, 0, 4], encoded(2)].concat());
        let bad: [(Bytes, &str); 7] = [
            (Bytes::from_static(b"{\"id\": 1}"), "does not begin with a zero byte"),
            (Bytes::from_static(b"\0\0\0"), "does not begin with a zero byte"),
            (Bytes::new(), "does not begin with a zero byte"),
            (message(9, &encoded(1)), "schema 9 is unknown"),
            (message(4, &[]), "not one row of schema 4"),
            (message(4, &[encoded(1), encoded(2)].concat()), "Avro"),
            (twice, "not one row of schema 4"),
        ];
        let mut messages = vec![good.clone()];
        messages.extend(bad.iter().flat_map(|(message, _)| [message.clone(), good.clone()]));
        let decoded = decode(&messages, &declared(), &schemas(), BadData::Drop).expect("bad ones are left out");
        assert_eq!(names(&decoded).len(), 8);
        assert!(names(&decoded).iter().all(|row| row[1] == "1"));
        let reasons: Vec<&str> = decoded.bad.iter().map(|row| row.reason.as_str()).collect();
        assert_eq!(reasons.len(), bad.len(), "{reasons:?}");
        for ((_, expected), reason) in bad.iter().zip(&reasons) {
            assert!(reason.contains(expected), "{reason}");
        }
        let error = decode(&messages, &declared(), &schemas(), BadData::Fail).expect_err("some are bad").message;
        assert!(error.contains("cannot be decoded") && error.contains("bad_data = 'drop'"), "{error}");
    }

    #[test]
    fn schema_without_a_column_of_the_table_is_bad() {
        let other = r#"{"type": "record", "name": "O", "fields": [{"name": "other", "type": "string"}]}"#;
        let schemas = BTreeMap::from([(1, Ok(other.to_string())), (2, Ok("{".to_string()))]);
        let messages = [message(1, &text("x")), message(2, &text("x"))];
        let decoded = decode(&messages, &declared(), &schemas, BadData::Drop).expect("bad ones are left out");
        assert_eq!((decoded.batches.len(), decoded.bad.len()), (0, 2));
        assert!(decoded.bad[0].reason.contains("none of the table's columns"), "{}", decoded.bad[0].reason);
    }
}
