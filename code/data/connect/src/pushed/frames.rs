//! Checks the frames of an Arrow IPC stream that a client sent, before the decoder trusts them: it would reserve memory for
//! as many bytes and rows as they say.

use arrow::ipc::root_as_message;
use buzz_protocol::{QueryError, Result};

/// Rows that a stream may have whatever its bytes are.
const ROWS_MIN: u64 = 1 << 20;

/// Checks that the messages of `stream` are complete and not compressed, and that they have at most a row per byte.
///
/// # Errors
/// `Data`, with the reason and what to send instead.
pub(super) fn check_frames(stream: &[u8]) -> Result<()> {
    if stream.starts_with(b"ARROW1") {
        return Err(refused("it is an Arrow file; send the stream format, without the magic `ARROW1`"));
    }
    if stream.is_empty() {
        return Err(refused("it is empty; send at least its schema"));
    }
    let rows_max = ROWS_MIN.max(stream.len() as u64);
    let (mut rest, mut rows) = (stream, 0_u64);
    while let Some((metadata, after)) = message(rest)? {
        let message = root_as_message(metadata).map_err(|error| refused(&format!("a message is damaged: {error}")))?;
        let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
        for batch in message.header_as_record_batch().into_iter().chain(dictionary) {
            if batch.compression().is_some() {
                return Err(refused("its buffers are compressed; write it without compression"));
            }
            rows = rows.saturating_add(u64::try_from(batch.length()).unwrap_or(u64::MAX));
        }
        if rows > rows_max {
            return Err(refused(&format!(
                "it has {rows} rows, and at most {rows_max} are allowed; send fewer per request"
            )));
        }
        let body = usize::try_from(message.bodyLength()).ok();
        rest = body.and_then(|body| after.get(body..)).ok_or_else(cut_off)?;
    }
    Ok(())
}

/// Returns the metadata of the first message of `stream`, and what follows them; `None` at the end.
fn message(stream: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    if stream.is_empty() {
        return Ok(None);
    }
    let (first, after) = stream.split_first_chunk::<4>().ok_or_else(cut_off)?;
    // Old writers leave out the marker of continuation.
    let (length, after) = match *first {
        [0xff, 0xff, 0xff, 0xff] => after.split_first_chunk::<4>().ok_or_else(cut_off)?,
        _ => (first, after),
    };
    let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| refused("a message has no valid length"))?;
    if length == 0 {
        return Ok(None);
    }
    after.split_at_checked(length).map(Some).ok_or_else(cut_off)
}

fn refused(reason: &str) -> QueryError {
    QueryError::data(format!("the Arrow IPC stream cannot be read: {reason}"))
}

fn cut_off() -> QueryError {
    refused("it is cut off; send all of it")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

    use super::*;

    fn stream(compression: Option<CompressionType>) -> Vec<u8> {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).expect("the columns fit");
        let options = IpcWriteOptions::default().try_with_compression(compression).expect("it is supported");
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new_with_options(&mut bytes, &batch.schema(), options).expect("memory");
        writer.write(&batch).expect("memory");
        writer.finish().expect("memory");
        drop(writer);
        bytes
    }

    #[test]
    fn whole_streams_pass_and_others_say_why() {
        let whole = stream(None);
        check_frames(&whole).expect("it is whole");
        // Without its end mark, all rows are there.
        check_frames(&whole[..whole.len() - 8]).expect("the rows are whole");
        for length in [1, 5, 20, whole.len() - 100] {
            let error = check_frames(&whole[..length]).expect_err("it is cut");
            assert!(error.message.contains("cut off"), "{length}: {error}");
        }
        let packed = check_frames(&stream(Some(CompressionType::LZ4_FRAME))).expect_err("it is compressed");
        assert!(packed.message.contains("without compression"), "{packed}");
        assert!(check_frames(b"ARROW1\0\0").expect_err("it is a file").message.contains("stream format"));
        check_frames(b"{\"id\":1}").expect_err("it is JSON");
    }
}
