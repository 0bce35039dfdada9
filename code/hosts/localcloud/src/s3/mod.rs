//! Emulates S3 on a folder, with one subfolder per bucket.
//!
//! `s3s` implements the protocol and checks signatures; `s3s-fs` stores objects as files. [`Store`] wraps
//! `s3s-fs` and adds the missing semantics: atomic conditional writes, conditional reads, and folders that are not
//! objects.
//!
//! Differences from the service: a key cannot be both an object and the prefix of other keys; file names limit keys to
//! about 160 bytes; there are no versions, no lifecycle rules and no access rules: every key may do everything.

mod bandwidth;
mod fault;
mod locks;
mod preconditions;
mod shape;
mod store;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use s3s::service::{S3Service, S3ServiceBuilder};

pub use bandwidth::Bandwidth;
use bandwidth::Meter;
use fault::Faults;
pub use fault::ReadFault;
use shape::Metered;
pub use shape::Shape;
use store::Store;

use crate::Keys;
use crate::keys::Refusal;

/// An S3 server over one folder.
#[derive(Clone)]
pub struct S3 {
    service: S3Service,
    faults: Faults,
    shape: Arc<Mutex<Shape>>,
    keys: Keys,
    meter: Arc<Mutex<Meter>>,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3").finish_non_exhaustive()
    }
}

impl S3 {
    /// Opens a server over `folder` and creates missing `buckets`. Requests must be signed with the lasting key pair or
    /// with temporary ones of `keys`.
    ///
    /// # Errors
    /// When the folder cannot be created or read.
    pub(crate) fn open(folder: &Path, buckets: &[String], region: &str, keys: &Keys) -> io::Result<S3> {
        for bucket in buckets {
            fs::create_dir_all(folder.join(bucket))?;
        }
        let store = Store::open(folder, region)?;
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(keys.clone());
        let service = builder.build();
        Ok(S3 { service, faults: Faults::default(), shape: Arc::default(), keys: keys.clone(), meter: Arc::default() })
    }

    /// Injects `fault` into the next `count` reads of objects whose path contains `word`. Earlier ones that have not
    /// occurred yet are taken back.
    pub fn fail_reads(&self, word: &str, fault: ReadFault, count: usize) {
        self.faults.set(word, fault, count);
    }

    /// Returns the number of faults of [`fail_reads`](Self::fail_reads) that have not occurred yet.
    pub fn faults_left(&self) -> usize {
        self.faults.left()
    }

    /// Sets the times of all responses from now on.
    pub fn set_shape(&self, shape: Shape) {
        *self.shape.lock() = shape;
    }

    /// Handles one request.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let function = match self.keys.judge(request.headers(), request.uri()) {
            Ok(function) => function,
            Err(Refusal::Expired) => return fault::refusal(400, "ExpiredToken"),
            Err(Refusal::Invalid) => return fault::refusal(400, "InvalidToken"),
        };
        let metered = Metered { meter: Arc::clone(&self.meter), function };
        match self.faults.next(&request) {
            None if self.shape.lock().refuses() => fault::refusal(503, "SlowDown"),
            None => self.serve(request, metered).await,
            Some(ReadFault::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                self.serve(request, metered).await
            }
            Some(ReadFault::Refuse(status, code)) => fault::refusal(status, code),
            Some(ReadFault::Truncated) => fault::first_half(self.serve(request, metered).await).await,
        }
    }

    async fn serve(&self, request: Request<Body>, metered: Metered) -> Response<Body> {
        let shape = *self.shape.lock();
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        metered.pass(length.unwrap_or(0), shape).await;
        match self.service.call(request.map(s3s::Body::http_body_unsync)).await {
            Ok(response) => shape.applied(response.map(Body::new), metered).await,
            Err(error) => {
                tracing::warn!(?error, "S3 request failed");
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }
}
