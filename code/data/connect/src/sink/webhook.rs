//! Requests to a server as a sink.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use buzz_protocol::{ErrorKind, QueryError, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use reqwest::Client;
use tokio::time::sleep;
use url::Url;

use super::encode::check_format;
use super::{Sink, WriteFormat, Written, encode_lines};
use crate::web::{accepted, unreachable};

/// Maximum time of a request.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Time before another try: at first, and at most. After the last try the epoch fails, and is sent again as a whole.
const RETRY_AFTER: Duration = Duration::from_millis(250);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);
const RETRIES_MAX: usize = 8;

/// Sends rows to a server: each epoch at least once, and a row always under the same key.
#[derive(Debug)]
pub struct Webhook {
    /// The client, which follows no redirection: it could make another request of a POST.
    pub client: Client,
    /// The address of the server.
    pub endpoint: Url,
    /// Further headers.
    pub headers: HeaderMap,
    /// Rows of a request: one is an object, more are lines.
    pub rows_per_request: usize,
    /// Identifies the pipeline and its table.
    pub id: String,
}

impl Webhook {
    /// Sends a request until the server takes it.
    async fn send(&self, key: &str, body: Bytes) -> Result<()> {
        let waits = ExponentialBuilder::new().with_min_delay(RETRY_AFTER).with_max_delay(RETRY_AFTER_MAX);
        let mut waits = waits.with_max_times(RETRIES_MAX).with_jitter().build();
        loop {
            let Err(error) = self.try_send(key, body.clone()).await else { return Ok(()) };
            let wait = waits.next().filter(|_| error.kind == ErrorKind::Unavailable);
            let Some(wait) = wait else { return Err(error.at(format!("request {key}"))) };
            sleep(error.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX).max(wait)).await;
        }
    }

    async fn try_send(&self, key: &str, body: Bytes) -> Result<()> {
        let kind = if self.rows_per_request == 1 { "application/json" } else { "application/x-ndjson" };
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        headers.extend(self.headers.clone());
        let key = HeaderValue::from_str(key).map_err(|_| QueryError::internal("a key is not a header"))?;
        headers.insert("idempotency-key", key);
        let request = self.client.post(self.endpoint.clone()).headers(headers).timeout(REQUEST_MAX).body(body);
        let response = request.send().await.map_err(|error| unreachable(&self.endpoint, &error))?;
        accepted(&self.endpoint, response).await.map(|_| ())
    }
}

#[async_trait]
impl Sink for Webhook {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
        let lines = Bytes::from(encode_lines(WriteFormat::Json, true, rows)?);
        let lines: Vec<&[u8]> = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        for (index, lines) in lines.chunks(self.rows_per_request.max(1)).enumerate() {
            let key = format!("{}/{epoch}/{}", self.id, index + 1);
            self.send(&key, lines.join(&b'\n').into()).await?;
        }
        Ok(Written::Done)
    }

    fn check(&self, columns: &Schema) -> Result<()> {
        check_format(WriteFormat::Json, columns)
    }
}
