//! Files that are one JSON array of objects: the brackets and commas between the objects are replaced by blanks, so that
//! the rest is read as one object after the other.

use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::encoding::{Pieces, peeked};

/// Replaces the brackets and commas outside of objects in `pieces`, the text of a file from its start, if it is an
/// array. Returns whether it is one.
pub(super) async fn without_brackets(pieces: Pieces) -> Result<(bool, Pieces)> {
    let mut length = 1;
    let mut pieces = pieces;
    loop {
        let (head, again) = peeked(pieces, length).await?;
        pieces = again;
        match head.trim_ascii_start().first() {
            Some(b'[') => {
                return Ok((true, objects(pieces)));
            }
            None if head.len() >= length => length = head.len() * 2,
            _ => return Ok((false, pieces)),
        }
    }
}

/// Replaces the brackets and commas of the array in `pieces`. Ends with an error if the array is never closed.
fn objects(pieces: Pieces) -> Pieces {
    let state = Some((pieces, Brackets::default()));
    let texts = futures::stream::try_unfold(state, |state| async move {
        let Some((mut pieces, mut brackets)) = state else { return Ok(None) };
        match pieces.try_next().await? {
            Some(piece) => {
                let text = brackets.removed(&piece);
                Ok(Some((text, Some((pieces, brackets)))))
            }
            None if brackets.lists == 0 => Ok(None),
            None => Err(QueryError::data("the array is never closed; the file is cut off").into_datafusion()),
        }
    });
    texts.boxed()
}

/// The place within an array at the end of the text that was read so far.
#[derive(Debug, Default)]
struct Brackets {
    /// Number of open objects and of lists within them.
    depth: usize,
    /// Number of open lists outside of objects.
    lists: usize,
    in_string: bool,
    escaped: bool,
}

impl Brackets {
    fn removed(&mut self, piece: &[u8]) -> Bytes {
        let mut text = piece.to_vec();
        for byte in &mut text {
            match *byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' => self.depth += 1,
                b'}' => self.depth = self.depth.saturating_sub(1),
                b'[' | b']' | b',' if self.depth == 0 => {
                    match *byte {
                        b'[' => self.lists += 1,
                        b']' => self.lists = self.lists.saturating_sub(1),
                        _ => {}
                    }
                    *byte = b' ';
                }
                _ => {}
            }
        }
        Bytes::from(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn array_becomes_a_sequence_of_objects() {
        for size in [1, 3, 100] {
            let read = async |text: &str| {
                let pieces = text.as_bytes().chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
                let pieces = futures::stream::iter(pieces.collect::<Vec<_>>()).boxed();
                let (is_array, pieces) = without_brackets(pieces).await.unwrap();
                let text = pieces.try_collect::<Vec<_>>().await.unwrap().concat();
                (is_array, String::from_utf8(text).unwrap())
            };
            let array = "\n [{\"a\": [1, {\"b\": \"],\\\"[\"}]},\n{\"c\": 1}]\n";
            let objects = "\n  {\"a\": [1, {\"b\": \"],\\\"[\"}]} \n{\"c\": 1} \n";
            assert_eq!(read(array).await, (true, objects.to_string()));
            assert_eq!(read("{\"a\": [1]}\n").await, (false, "{\"a\": [1]}\n".to_string()));
            assert_eq!(read(" \n").await, (false, " \n".to_string()));
        }
    }

    #[tokio::test]
    async fn array_that_is_never_closed_is_an_error() {
        let pieces: Pieces = futures::stream::iter([Ok(Bytes::from_static(b"[{\"a\": [1]},\n{\"a\": 2}"))]).boxed();
        let (_, pieces) = without_brackets(pieces).await.unwrap();
        let error = QueryError::from(pieces.try_collect::<Vec<_>>().await.unwrap_err());
        assert!(error.message.contains("the array is never closed"), "{error}");
    }
}
