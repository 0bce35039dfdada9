//! The HTTP client of stores: keeps what the errors of `object_store` lose, and waits as long as the store requires.

use std::time::Duration;

use ::http::header::{LOCATION, RETRY_AFTER};
use ::http::{HeaderMap, StatusCode};
use async_trait::async_trait;
use buzz_protocol::{StoreAnswer, StoreSilent};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use url::Url;

/// Maximum wait before a retry that a store can require.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// Creates clients whose failures carry a [`StoreAnswer`] or a [`StoreSilent`].
#[derive(Debug, Default)]
pub(crate) struct StoreConnector(ReqwestConnector);

impl HttpConnector for StoreConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(StoreHttp(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct StoreHttp(HttpClient);

#[async_trait]
impl HttpService for StoreHttp {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Some(place) = place(&request) else {
            return self.0.execute(request).await;
        };
        let silent =
            |error: HttpError| HttpError::new(error.kind(), StoreSilent { place: place.clone(), source: error.into() });
        let response = self.0.execute(request).await.map_err(silent)?;
        let status = response.status();
        if !is_error(status, response.headers()) {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let wait = retry_after(&parts.headers);
        let body = body.bytes().await.map_err(silent)?;
        let answer = StoreAnswer::new(status.as_u16(), place.clone(), &String::from_utf8_lossy(&body), wait);
        if status.is_redirection() {
            // The client would drop the body. It does not retry this kind.
            return Err(HttpError::new(HttpErrorKind::Unknown, answer));
        }
        if let Some(wait) = wait
            && (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS)
        {
            // The client retries these, but after a pause of its own.
            tokio::time::sleep(wait.min(RETRY_AFTER_MAX)).await;
        }
        Ok(HttpResponse::from_parts(parts, answer.to_body().into()))
    }
}

/// Returns the URL of `request` without its query.
fn place(request: &HttpRequest) -> Option<Url> {
    let mut url = Url::parse(&request.uri().to_string()).ok()?;
    url.set_query(None);
    Some(url)
}

fn is_error(status: StatusCode, headers: &HeaderMap) -> bool {
    let redirect = status.is_redirection() && status != StatusCode::NOT_MODIFIED && !headers.contains_key(LOCATION);
    redirect || status.is_client_error() || status.is_server_error()
}

/// Returns the time in the header `Retry-After`. Dates, which no store sends, are ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use buzz_protocol::{ErrorKind, QueryError};
    use object_store::aws::AmazonS3Builder;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt, RetryConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A store that answers each request with the next of `answers`, each a status line with headers, and a body.
    async fn store(answers: Vec<(&'static str, &'static str)>, max_retries: usize) -> impl ObjectStore {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for (head, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4096];
                _ = stream.read(&mut asked).await.unwrap();
                let length = body.len();
                let text = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        let retry = RetryConfig { max_retries, ..RetryConfig::default() };
        let builder = AmazonS3Builder::new().with_bucket_name("lake").with_region("us-east-2").with_endpoint(url);
        let builder = builder.with_skip_signature(true).with_allow_http(true).with_retry(retry);
        builder.with_http_connector(StoreConnector::default()).build().unwrap()
    }

    async fn failure(answers: Vec<(&'static str, &'static str)>) -> QueryError {
        store(answers, 0).await.get(&Path::from("a.parquet")).await.unwrap_err().into()
    }

    #[tokio::test]
    async fn each_status_has_its_kind_and_code() {
        let cases = [
            ("400 Bad Request", "<Code>ExpiredToken</Code>", ErrorKind::Data, "status 400 (ExpiredToken; check"),
            ("403 Forbidden", "<Code>AccessDenied</Code>", ErrorKind::Data, "to read `a.parquet` (AccessDenied)"),
            ("404 Not Found", "<Code>NoSuchKey</Code>", ErrorKind::Data, "object `a.parquet` does not exist"),
            ("404 Not Found", "<Code>NoSuchBucket</Code>", ErrorKind::Data, "the bucket does not exist"),
            ("301 Moved", "", ErrorKind::Data, "in another region"),
            ("503 Slow Down", "<Code>SlowDown</Code>", ErrorKind::Unavailable, "with status 503 (SlowDown)"),
        ];
        for (head, body, kind, text) in cases {
            let error = failure(vec![(head, body)]).await;
            assert!(error.kind == kind && error.message.contains(text), "{error:?}");
        }
    }

    #[tokio::test]
    async fn store_without_answer_is_unavailable() {
        let error = failure(vec![]).await;
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains("S3 at http://127.0.0.1:"), "{error}");
    }

    #[tokio::test]
    async fn retry_after_is_waited_for_and_reported() {
        let busy = ("503 Slow Down\r\nretry-after: 1", "<Code>SlowDown</Code>");
        let found = ("200 OK\r\nlast-modified: Thu, 01 Jan 1970 00:00:00 GMT\r\netag: \"x\"", "hi");
        let started = Instant::now();
        let read = store(vec![busy, found], 1).await.get(&Path::from("a")).await.unwrap();
        assert_eq!(read.bytes().await.unwrap().as_ref(), b"hi");
        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(failure(vec![busy]).await.retry_after, Some(Duration::from_secs(1)));
    }
}
