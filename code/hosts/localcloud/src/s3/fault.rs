//! Faults of reads that tests can inject.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use parking_lot::Mutex;

/// A fault of one read of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFault {
    /// The read is refused with an HTTP status and an error code of S3, such as 503 and `SlowDown`.
    Refuse(u16, &'static str),
    /// The response comes after a delay.
    Slow(Duration),
    /// The connection breaks after half of the response.
    Truncated,
}

/// The faults that have not occurred yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Option<Next>>>);

#[derive(Debug)]
struct Next {
    word: String,
    fault: ReadFault,
    left: usize,
}

impl Faults {
    pub(super) fn set(&self, word: &str, fault: ReadFault, left: usize) {
        *self.0.lock() = Some(Next { word: word.to_string(), fault, left });
    }

    pub(super) fn left(&self) -> usize {
        self.0.lock().as_ref().map_or(0, |next| next.left)
    }

    /// Returns the fault of `request`, if it has one, and counts it.
    pub(super) fn next(&self, request: &Request<Body>) -> Option<ReadFault> {
        let mut next = self.0.lock();
        let next = next.as_mut().filter(|next| next.left > 0)?;
        if request.method() != Method::GET || !request.uri().path().contains(&next.word) {
            return None;
        }
        next.left -= 1;
        Some(next.fault)
    }
}

/// Returns the response that refuses a read.
pub(super) fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// Returns `response` with the first half of its body. Its headers still have the whole length.
pub(super) async fn first_half(response: Response<Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let half = bytes.slice(..bytes.len() / 2);
    let broken = Err(std::io::Error::other("the connection breaks"));
    let body = futures::stream::iter([Ok::<Bytes, std::io::Error>(half), broken]);
    Response::from_parts(parts, Body::from_stream(body))
}
