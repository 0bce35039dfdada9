//! Reads the start of a file, from which its columns are inferred.

use std::sync::Arc;

use buzz_protocol::{Compression, FileFormat, Result};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, ObjectMeta, ObjectStore};
use serde_json::value::RawValue;

use super::csv::{first_record_end, without_separator_line};
use super::encoding::{Pieces, peeked};
use super::json_array::without_brackets;
use super::open::{first_bytes, has_records, text_of};

/// The start of a file's text.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The text in UTF-8. The start of a CSV file ends with a record, that of an array is a sequence of objects.
    pub text: Bytes,
    /// True if the file goes on.
    pub is_cut: bool,
    /// True if a part of the file is a part of the text: the file is not compressed, not in another encoding, and not an
    /// array.
    pub is_plain: bool,
}

/// Bytes of text after which the sample of a file ends, even if its first records are longer.
const BYTES_MAX: usize = 256 << 20;

/// Reads the first `bytes` bytes of the text in `file`. If the header and the first record, or the first object, are longer,
/// they are read up to their end.
///
/// # Errors
/// `Data` if the file does not exist or has another compression or encoding than `format`, `Unavailable` if the store
/// does not respond.
pub async fn sample(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    format: &FileFormat,
    bytes: usize,
) -> Result<Sample> {
    if file.size == 0 {
        return Ok(Sample { text: Bytes::new(), is_cut: false, is_plain: true });
    }
    let path = file.location.as_ref();
    let mut length = bytes;
    loop {
        let (stored, is_whole) = match format.compression(path) {
            // Requests no more than needed.
            Compression::None if (length as u64) < file.size => {
                let head = first_bytes(store.as_ref(), file, length as u64).await?;
                (futures::stream::iter([Ok(head)]).boxed(), false)
            }
            _ => {
                let all = store.get_opts(&file.location, GetOptions::default()).await?.into_stream();
                (all.map_err(DataFusionError::from).boxed(), true)
            }
        };
        let text = text_of(stored, format, path).await?;
        let is_cut = !is_whole;
        let (is_array, text, is_plain) = match format {
            FileFormat::Json(_) => {
                let (is_array, pieces) = without_brackets(text.text).await?;
                (is_array, pieces, text.is_plain)
            }
            _ => (false, without_separator_line(text.text).await?.1, text.is_plain),
        };
        let (head, is_longer) = start(text, length, is_cut).await?;
        let is_cut = is_cut || is_longer;
        let is_plain = is_plain && !is_array;
        let is_enough = match format {
            FileFormat::Csv(csv) => has_records(csv, &head, 1 + usize::from(csv.header)),
            _ => has_object(&head),
        };
        if is_cut && !is_enough && length < BYTES_MAX {
            length = length.saturating_mul(4);
            continue;
        }
        let FileFormat::Csv(csv) = format else { return Ok(Sample { text: head, is_cut, is_plain }) };
        let mut end = 0;
        while is_cut && let Some(more) = first_record_end(csv, &head[end..]) {
            end += more;
        }
        let text = if end > 0 { head.slice(..end) } else { head };
        return Ok(Sample { text, is_cut, is_plain });
    }
}

/// Returns whether `text` begins with a whole JSON value, or with none.
fn has_object(text: &[u8]) -> bool {
    let first = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>().next();
    first.is_some_and(|value| !value.is_err_and(|error| error.is_eof()))
}

/// Returns the first `length` bytes of `text` at least, and whether it goes on. If the stored bytes are cut, so that the
/// text ends with an error of the decompression or within a character, returns the text before.
async fn start(text: Pieces, length: usize, is_cut: bool) -> Result<(Bytes, bool)> {
    let text = match is_cut {
        false => text,
        true => text.take_while(|piece| futures::future::ready(piece.is_ok())).boxed(),
    };
    let (head, mut text) = peeked(text, length + 1).await?;
    let whole_characters = match std::str::from_utf8(&head) {
        Err(error) if is_cut && error.error_len().is_none() => error.valid_up_to(),
        _ => head.len(),
    };
    // The first piece is the head itself.
    text.try_next().await?;
    let is_longer = head.len() > length && text.try_next().await?.is_some_and(|more| !more.is_empty());
    Ok((head.slice(..whole_characters), is_longer))
}
