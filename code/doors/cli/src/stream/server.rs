//! A client of a server's REST interface for pipelines.

use std::time::Duration;

use buzz_protocol::{ErrorKind, QueryError, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, HttpResponse, ReqwestConnector};
use serde_json::Value;

/// Time for an answer. Planning a script reads the heads of files.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Maximum bytes of an event, and of an answer.
const BYTES_MAX: usize = 64 << 20;

/// A server.
#[derive(Debug)]
pub(super) struct Client {
    url: String,
    key: String,
    http: HttpClient,
    /// For answers without an end.
    following: HttpClient,
}

/// An event of a row, or of the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: String,
    pub(super) data: String,
}

impl Client {
    /// Makes a client of the server at `url`, with the key in `BUZZ_KEY`.
    pub(super) fn new(url: &str) -> Result<Self> {
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(QueryError::invalid(format!("`{url}` is not an address; write http://127.0.0.1:8642")));
        }
        let key = std::env::var("BUZZ_KEY").map_err(|_| {
            QueryError::invalid("the server requires its key; set BUZZ_KEY to the key that it printed at its start")
        })?;
        let options = ClientOptions::new().with_allow_http(true).with_connect_timeout(Duration::from_secs(10));
        let connect = |options: ClientOptions| Ok::<_, QueryError>(ReqwestConnector::default().connect(&options)?);
        Ok(Self {
            url: url.trim_end_matches('/').to_string(),
            key,
            http: connect(options.clone().with_timeout(ANSWER_WITHIN))?,
            following: connect(options.with_timeout_disabled())?,
        })
    }

    /// Sends a request and returns the JSON of the answer.
    ///
    /// # Errors
    /// The error of the server; `Unavailable` if it cannot be reached.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let response = self.send(&self.http, method, path, body).await?;
        let bytes = self.read(response).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| self.unexpected(&error))
    }

    /// Follows the events of `path`, and gives each to `each` until it returns false.
    pub(super) async fn follow(&self, path: &str, mut each: impl FnMut(Event) -> Result<bool>) -> Result<()> {
        let response = self.send(&self.following, Method::GET, path, None).await?;
        let mut body = response.into_body().bytes_stream();
        let mut text = Vec::new();
        while let Some(part) = body.next().await {
            text.extend_from_slice(&part.map_err(|error| self.unreachable(&error))?);
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let event = event(&String::from_utf8_lossy(&text[..end]));
                text.drain(..end + 2);
                if let Some(event) = event
                    && !each(event)?
                {
                    return Ok(());
                }
            }
            if text.len() > BYTES_MAX {
                return Err(QueryError::limit(format!("the server sent an event of more than {BYTES_MAX} bytes")));
            }
        }
        Err(QueryError::unavailable(format!(
            "the server at {} has closed the connection; run the command again",
            self.url
        )))
    }

    async fn send(&self, http: &HttpClient, method: Method, path: &str, body: Option<&Value>) -> Result<HttpResponse> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header(ACCEPT, "application/json, text/event-stream");
        let request = match body {
            Some(body) => request
                .header(CONTENT_TYPE, "application/json")
                .body(HttpRequestBody::from(body.to_string().into_bytes())),
            None => request.body(HttpRequestBody::empty()),
        };
        let request = request.map_err(|error| {
            QueryError::invalid(format!(
                "the request to {} is not possible: {error}; check the address and the key",
                self.url
            ))
        })?;
        let response = http.execute(request).await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.read(response).await?;
        Err(self.failed(status, &bytes))
    }

    async fn read(&self, response: HttpResponse) -> Result<Bytes> {
        let body = response.into_body().bytes_stream();
        let read = body.try_fold(Vec::new(), async |mut bytes, part| {
            bytes.extend_from_slice(&part);
            Ok(bytes)
        });
        Ok(read.await.map_err(|error| self.unreachable(&error))?.into())
    }

    /// Returns the error that an answer has.
    fn failed(&self, status: StatusCode, bytes: &[u8]) -> QueryError {
        let json: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let message = json["error"].as_str().or_else(|| json["error"]["message"].as_str());
        let kind = match status {
            StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Unavailable,
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::Limit,
            _ => ErrorKind::Invalid,
        };
        match (status, message) {
            (StatusCode::UNAUTHORIZED, _) => {
                QueryError::invalid(format!("the server at {} does not accept the key in BUZZ_KEY", self.url))
            }
            (_, Some(message)) => QueryError::new(kind, message),
            (_, None) => QueryError::new(kind, format!("the server at {} answers {status}", self.url)),
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> QueryError {
        QueryError::unavailable(format!("the server at {} cannot be reached: {error}; is it running?", self.url))
    }

    fn unexpected(&self, error: &dyn std::error::Error) -> QueryError {
        QueryError::invalid(format!("the answer of {} is not the one of a Buzz server: {error}", self.url))
    }
}

/// Parses an event; `None` for a comment.
fn event(text: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut has_data = false;
    for line in text.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.kind = value.to_string(),
            "data" => {
                if has_data {
                    event.data.push('\n');
                }
                event.data.push_str(value);
                has_data = true;
            }
            _ => {}
        }
    }
    has_data.then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_parsed() {
        let row = event("id: 3-1\ndata: {\"a\": 1}").unwrap();
        assert_eq!(row, Event { kind: String::new(), data: "{\"a\": 1}".to_string() });
        let end = event("event: end\ndata: {}").unwrap();
        assert_eq!((end.kind.as_str(), end.data.as_str()), ("end", "{}"));
        assert_eq!(event("data: a\ndata: b").unwrap().data, "a\nb");
        assert_eq!(event(":"), None);
    }
}
