//! Decompresses whole files, and detects the compression of files whose names do not tell it.

use std::io;

use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use buzz_protocol::{Compression, QueryError, Result};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::{ReaderStream, StreamReader};

use super::encoding::Pieces;

/// Bytes from which a compression can be detected.
pub(super) const MAGIC_BYTES: usize = 6;

/// Returns the compression of a file that starts with `head`.
pub(super) fn compression_of(head: &[u8]) -> Compression {
    let magics: [(&[u8], Compression); 4] = [
        (b"\x1f\x8b", Compression::Gzip),
        (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        (b"BZh", Compression::Bzip2),
        (b"\xfd7zXZ\x00", Compression::Xz),
    ];
    magics.iter().find(|(magic, _)| head.starts_with(magic)).map_or(Compression::None, |(_, found)| *found)
}

/// Checks that `head`, the start of a file whose name or catalog entry says `compression`, is not that of something else. Files of zstd
/// may begin with frames to skip.
///
/// # Errors
/// `Data`, with the ways to say what the file is.
pub(super) fn check_start(compression: Compression, head: &[u8]) -> Result<()> {
    let found = compression_of(head);
    if head.len() < MAGIC_BYTES || found == compression || compression == Compression::Zstd {
        return Ok(());
    }
    let begins = match found {
        Compression::None => "is not compressed".to_string(),
        other => format!("is compressed with {other}"),
    };
    Err(QueryError::data(format!(
        "not readable {compression}: the file {begins}; give it the ending of what it is, or set `compression` in the catalog entry"
    )))
}

/// Returns the text of a whole file, which is decompressed if its first bytes are those of gzip, zstd, bzip2 or xz.
///
/// # Errors
/// `Data` if the file is damaged.
pub async fn plain_text(bytes: Bytes) -> Result<Bytes> {
    let compression = match compression_of(&bytes) {
        // A text may begin with the letters of bzip2.
        Compression::Bzip2 if bytes.get(4..10) != Some(b"1AY&SY") => Compression::None,
        found => found,
    };
    if compression == Compression::None {
        return Ok(bytes);
    }
    let pieces = decompressed(compression, futures::stream::iter([Ok(bytes)]).boxed());
    let pieces: Vec<Bytes> = pieces.try_collect().await?;
    Ok(pieces.concat().into())
}

/// Decompresses `bytes`. A file may consist of several concatenated compressed streams, as parallel compressors write
/// them.
pub(super) fn decompressed(compression: Compression, bytes: Pieces) -> Pieces {
    macro_rules! all_streams {
        ($decoder:ident) => {{
            let mut decoder = $decoder::new(StreamReader::new(bytes.map_err(io::Error::from)));
            decoder.multiple_members(true);
            let text = ReaderStream::with_capacity(decoder, TEXT_BYTES_AT_ONCE);
            text.map_err(move |error| not_decompressed(compression, error)).boxed()
        }};
    }
    match compression {
        Compression::None => bytes,
        Compression::Gzip => all_streams!(GzipDecoder),
        Compression::Zstd => all_streams!(ZstdDecoder),
        Compression::Bzip2 => all_streams!(BzDecoder),
        Compression::Xz => all_streams!(XzDecoder),
    }
}

/// Converts an error of decompression: the store's own error, or an error in the compressed bytes.
fn not_decompressed(compression: Compression, error: io::Error) -> DataFusionError {
    if error.get_ref().is_some_and(|inner| inner.is::<DataFusionError>()) {
        return DataFusionError::from(error);
    }
    let why = match error.to_string() {
        // The xz decoder reports a truncated file as "out of memory".
        text if text == "out of memory" => "the file is truncated".to_string(),
        text => text,
    };
    QueryError::data(format!("not readable {compression}: {why}")).into_datafusion()
}

/// Buffer size of the decompression, in bytes of text.
const TEXT_BYTES_AT_ONCE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::{BzEncoder, GzipEncoder, XzEncoder, ZstdEncoder};
    use buzz_protocol::ErrorKind;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn all_streams_of_a_compressed_file_are_read() {
        macro_rules! twice {
            ($encoder:ident) => {{
                let mut file = Vec::new();
                for text in ["a\n", "b\n"] {
                    let mut encoder = $encoder::new(Vec::new());
                    encoder.write_all(text.as_bytes()).await.unwrap();
                    encoder.shutdown().await.unwrap();
                    file.extend(encoder.into_inner());
                }
                file
            }};
        }
        for (compression, file) in [
            (Compression::Gzip, twice!(GzipEncoder)),
            (Compression::Zstd, twice!(ZstdEncoder)),
            (Compression::Bzip2, twice!(BzEncoder)),
            (Compression::Xz, twice!(XzEncoder)),
        ] {
            let bytes =
                futures::stream::iter(file.chunks(7).map(|part| Ok(Bytes::copy_from_slice(part))).collect::<Vec<_>>());
            let text: Vec<Bytes> = decompressed(compression, bytes.boxed()).try_collect().await.unwrap();
            assert_eq!(text.concat(), b"a\nb\n", "{compression:?}");
            assert_eq!(compression_of(&file), compression);
            check_start(compression, &file).unwrap();
            let other = check_start(compression, b"id,name\n1,a\n");
            assert_eq!(other.is_err(), compression != Compression::Zstd, "{other:?}");
            assert_eq!(plain_text(file.clone().into()).await.unwrap().as_ref(), b"a\nb\n", "{compression:?}");
            let cut = futures::stream::iter([Ok(Bytes::copy_from_slice(&file[..file.len() - 9]))]);
            let error = decompressed(compression, cut.boxed()).try_collect::<Vec<_>>().await.unwrap_err();
            let error = QueryError::from(error);
            assert_eq!(error.kind, ErrorKind::Data, "{error}");
            assert!(error.message.starts_with(&format!("not readable {compression}: ")), "{error}");
            assert!(!error.message.contains("out of memory"), "{error}");
        }
        for text in ["", "n\n1\n", "BZhours,n\n1,2\n"] {
            assert_eq!(plain_text(Bytes::from(text)).await.unwrap(), text);
        }
    }
}
