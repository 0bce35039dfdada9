//! Rows of messages.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;

use crate::debezium::decode_changes;
use crate::decode::Decoded;
use crate::pushed::{decode_objects, objects};
use crate::source::{BadData, BadRow};

/// Maximum number of characters of a message in an error.
const SHOWN_MAX: usize = 200;

/// The format of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageFormat {
    /// JSON objects, or arrays of them: each object is a row.
    Json,
    /// As `Json`, of which each object is a change of a row.
    DebeziumJson,
    /// A message is a row, whose only column has its text.
    RawString,
}

/// Decodes messages, in their order.
///
/// # Errors
/// `Data`, with the message, if one does not fit and `bad_data` says so.
pub(crate) fn decode(
    messages: &[Bytes],
    schema: &SchemaRef,
    format: MessageFormat,
    bad_data: BadData,
) -> Result<Decoded> {
    let mut bad = Vec::new();
    let mut set_aside = |message: &Bytes, reason: String| {
        let text = String::from_utf8_lossy(message).into_owned();
        if bad_data == BadData::Fail {
            return Err(undecodable(&text, &reason));
        }
        bad.push(BadRow { text, reason });
        Ok(())
    };
    let mut decoded = match format {
        MessageFormat::Json => {
            let mut lines = Vec::with_capacity(messages.iter().map(|message| message.len() + 1).sum());
            for message in messages {
                match objects(message) {
                    Ok(objects) => objects.iter().for_each(|object| {
                        lines.extend_from_slice(object.as_bytes());
                        lines.push(b'\n');
                    }),
                    Err(error) => set_aside(message, error.message)?,
                }
            }
            // Each row is judged alone: what comes with it is chance.
            let decoded = match lines.is_empty() {
                true => Decoded::default(),
                false => decode_objects(lines.into(), schema, BadData::Drop)?,
            };
            if let (BadData::Fail, Some(BadRow { text, reason })) = (bad_data, decoded.bad.first()) {
                return Err(undecodable(text, reason));
            }
            decoded
        }
        MessageFormat::DebeziumJson => {
            let mut changes = Vec::with_capacity(messages.len());
            for message in messages {
                match objects(message) {
                    Ok(objects) => changes.extend(objects),
                    Err(error) => set_aside(message, error.message)?,
                }
            }
            let decoded = decode_changes(schema, changes)?;
            if let (BadData::Fail, Some(BadRow { text, reason })) = (bad_data, decoded.bad.first()) {
                return Err(undecodable(text, reason));
            }
            decoded
        }
        MessageFormat::RawString => {
            let mut texts = Vec::with_capacity(messages.len());
            for message in messages {
                match std::str::from_utf8(message) {
                    Ok(text) => texts.push(text),
                    Err(_) => set_aside(message, "it is not UTF-8".to_string())?,
                }
            }
            Decoded { batches: text_batch(&texts, schema)?.into_iter().collect(), bad: Vec::new() }
        }
    };
    decoded.bad.append(&mut bad);
    Ok(decoded)
}

fn undecodable(message: &str, reason: &str) -> QueryError {
    let shown: String = message.chars().take(SHOWN_MAX).collect();
    QueryError::data(format!(
        "message `{shown}` cannot be decoded: {reason}; set bad_data = 'drop' to leave out such messages"
    ))
}

/// Returns a batch with `texts` as the only column of `schema`.
fn text_batch(texts: &[&str], schema: &SchemaRef) -> Result<Option<RecordBatch>> {
    if texts.is_empty() {
        return Ok(None);
    }
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let column = cast(&texts, schema.field(0).data_type())?;
    Ok(Some(RecordBatch::try_new(Arc::clone(schema), vec![column])?))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    fn decoded(messages: &[&[u8]], format: MessageFormat, bad_data: BadData) -> Result<Decoded> {
        let field = match format {
            MessageFormat::Json | MessageFormat::DebeziumJson => Field::new("n", DataType::Int64, true),
            MessageFormat::RawString => Field::new("value", DataType::Utf8, true),
        };
        let messages: Vec<Bytes> = messages.iter().map(|message| Bytes::copy_from_slice(message)).collect();
        decode(&messages, &Arc::new(Schema::new(vec![field])), format, bad_data)
    }

    #[test]
    fn objects_of_messages_are_rows_and_garbage_is_bad_by_itself() {
        let messages: [&[u8]; 6] =
            [b"{\"n\":\n1}", b"[{\"n\":2},{\"n\":3}]", b"{\"n\":", b" ", b"\xff", b"{\"n\":4}\n{\"n\":5}"];
        let found = decoded(&messages, MessageFormat::Json, BadData::Drop).expect("bad ones are left out");
        let values: Vec<i64> = found
            .batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert_eq!((values, found.bad.len()), (vec![1, 2, 3, 4, 5], 2));
        let error = decoded(&messages, MessageFormat::Json, BadData::Fail).expect_err("one is bad").message;
        assert!(
            error.contains("message `{\"n\":` cannot be decoded") && error.contains("bad_data = 'drop'"),
            "{error}"
        );
    }

    #[test]
    fn text_of_a_message_is_one_row() {
        let found =
            decoded(&[b"a\nb", b"", b"\xff"], MessageFormat::RawString, BadData::Drop).expect("one is left out");
        let texts: Vec<_> = found.batches[0].column(0).as_string::<i32>().iter().collect();
        assert_eq!((texts, found.bad.len()), (vec![Some("a\nb"), Some("")], 1));
    }
}
