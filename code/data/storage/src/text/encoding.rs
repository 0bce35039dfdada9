//! Decodes text to UTF-8: in the encoding that the catalog entry names, or that a byte order mark tells.

use buzz_protocol::{QueryError, Result};
use bytes::{Bytes, BytesMut};
use datafusion::error::Result as DataFusionResult;
use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

/// Bytes of a file or of a text, in pieces.
pub(super) type Pieces = BoxStream<'static, DataFusionResult<Bytes>>;

/// Returns the encoding called `label` in the WHATWG encoding standard, such as `utf-16le` or `latin1`. UTF-8 is `None`.
///
/// # Errors
/// `Invalid` if there is none.
pub fn encoding(label: &str) -> Result<Option<&'static Encoding>> {
    match Encoding::for_label(label.as_bytes()) {
        Some(encoding) if encoding == UTF_8 => Ok(None),
        Some(encoding) => Ok(Some(encoding)),
        None => Err(QueryError::invalid(format!(
            "encoding `{label}` is unknown; use for example `utf-8`, `utf-16le`, `utf-16be` or `windows-1252` (Latin-1)"
        ))),
    }
}

/// Reads at least `length` bytes of `pieces`, unless it ends before. Returns them and a stream of all bytes.
pub(super) async fn peeked(mut pieces: Pieces, length: usize) -> Result<(Bytes, Pieces)> {
    let mut head = pieces.try_next().await?.unwrap_or_default();
    if head.len() < length {
        let mut longer = BytesMut::from(head.as_ref());
        while longer.len() < length
            && let Some(more) = pieces.try_next().await?
        {
            longer.extend_from_slice(&more);
        }
        head = longer.freeze();
    }
    let again = futures::stream::iter([Ok(head.clone())]).chain(pieces).boxed();
    Ok((head, again))
}

/// Bytes of the longest byte order mark.
const MARK_BYTES: usize = 3;

/// Decodes `pieces`, the bytes of a text from its start, to UTF-8 without a byte order mark. A mark takes precedence
/// over `given`. Returns whether the bytes were in another encoding.
pub(super) async fn as_utf8(pieces: Pieces, given: Option<&'static Encoding>) -> Result<(bool, Pieces)> {
    let (head, mut pieces) = peeked(pieces, MARK_BYTES).await?;
    let (encoding, mark) = match Encoding::for_bom(&head) {
        Some((encoding, mark)) => (Some(encoding), mark),
        None => (given, 0),
    };
    if mark > 0 {
        let rest = head.slice(mark..);
        // The head is the first piece.
        pieces = futures::stream::iter([Ok(rest)]).chain(pieces.skip(1)).boxed();
    }
    let Some(encoding) = encoding.filter(|encoding| *encoding != UTF_8) else {
        return Ok((false, pieces));
    };
    let end = futures::stream::iter([None]);
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut position = mark as u64;
    let decoded = pieces.map(Some).chain(end).map(move |piece| {
        let piece = piece.transpose()?;
        decoded(&mut decoder, encoding, piece.as_deref(), &mut position).map_err(QueryError::into_datafusion)
    });
    Ok((true, decoded.boxed()))
}

/// Decodes the next `piece` of a text; `None` is its end. Adds its bytes to `position`.
fn decoded(
    decoder: &mut Decoder,
    encoding: &'static Encoding,
    piece: Option<&[u8]>,
    position: &mut u64,
) -> Result<Bytes> {
    let (bytes, is_last) = (piece.unwrap_or_default(), piece.is_none());
    let length = decoder.max_utf8_buffer_length_without_replacement(bytes.len());
    let mut text = vec![0; length.unwrap_or(bytes.len() * 4 + 16)];
    let (result, read, written) = decoder.decode_to_utf8_without_replacement(bytes, &mut text, is_last);
    *position += read as u64;
    match result {
        DecoderResult::InputEmpty => {
            text.truncate(written);
            Ok(Bytes::from(text))
        }
        _ => Err(QueryError::data(format!(
            "the text is not {} before byte {position}; set `encoding` in the catalog entry",
            encoding.name()
        ))),
    }
}

/// Returns the message for text that is not UTF-8 from the line after `lines` lines on.
pub(super) fn not_utf8(lines: usize) -> QueryError {
    QueryError::data(format!(
        "line {} is not UTF-8; set `encoding` in the catalog entry, for example to `windows-1252` (Latin-1) or `utf-16le`",
        lines + 1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(bytes: &[u8], label: &str) -> Result<String, String> {
        let mut whole = None;
        for size in [1, 2, 3, 5, 100] {
            let pieces = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>();
            let decoded = match as_utf8(futures::stream::iter(pieces).boxed(), encoding(label).unwrap()).await {
                Ok((_, pieces)) => {
                    pieces.try_collect::<Vec<_>>().await.map_err(|error| QueryError::from(error).message)
                }
                Err(error) => Err(error.message),
            };
            let decoded = decoded.map(|pieces| String::from_utf8(pieces.concat()).unwrap());
            assert_eq!(whole.get_or_insert_with(|| decoded.clone()), &decoded, "in pieces of {size}");
        }
        whole.unwrap()
    }

    #[tokio::test]
    async fn text_is_decoded_by_its_mark_or_by_the_given_encoding() {
        let utf16 = |text: &str, mark: bool| {
            let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
            units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
        };
        assert_eq!(text(&utf16("ä,€,😀\n", true), "utf-8").await.unwrap(), "ä,€,😀\n");
        assert_eq!(text(&utf16("ä,€,😀\n", true), "latin1").await.unwrap(), "ä,€,😀\n");
        assert_eq!(text(&utf16("ä,€", false), "utf-16le").await.unwrap(), "ä,€");
        assert_eq!(text(b"\xfe\xff\x00a\x00\xe4", "utf-8").await.unwrap(), "aä");
        assert_eq!(text(b"M\xfcller", "iso-8859-1").await.unwrap(), "Müller");
        assert_eq!(text("\u{feff}a,b".as_bytes(), "utf-8").await.unwrap(), "a,b");
        assert_eq!(text(b"", "utf-16").await.unwrap(), "");
        let cut = text(b"\xff\xfea\x00\x00\xd8", "utf-8").await.unwrap_err();
        assert!(cut.contains("is not UTF-16LE before byte 6"), "{cut}");
        assert!(encoding("utf-17").unwrap_err().message.contains("`utf-17` is unknown"));
    }
}
