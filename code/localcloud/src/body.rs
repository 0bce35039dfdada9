//! Reads HTTP bodies of limited size.

use axum::body::{Body, Bytes};
use futures::StreamExt;

/// Reads a whole body. Returns `None` if it has more than `bytes_max` bytes.
///
/// The rest of a larger body is read and dropped. Otherwise the sender would get a broken connection instead of the
/// response.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn read_bounded(body: Body, bytes_max: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut bytes = Vec::new();
    let mut frames = body.into_data_stream();
    let mut fits = true;
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        fits &= bytes.len() + frame.len() <= bytes_max;
        if fits {
            bytes.extend_from_slice(&frame);
        }
    }
    Ok(fits.then(|| bytes.into()))
}
