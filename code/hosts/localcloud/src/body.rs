//! Bodies of bounded size.

use axum::body::{Body, Bytes};
use futures::StreamExt;

/// The whole body, or nothing if it has more than `bytes_max`. What is too much is read and dropped: the sender would
/// see a broken connection otherwise, and not the answer.
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
