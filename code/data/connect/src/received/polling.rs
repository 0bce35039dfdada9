//! Answers of a server that is polled.

use std::time::Duration;

use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use reqwest::Client;
use tokio::time::{MissedTickBehavior, interval};
use url::Url;

use super::receiver::{Connection, Ended, MESSAGE_BYTES_MAX, Outlet};
use crate::web::{accepted, shown, unreachable};

/// Maximum time of a request.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// Answers of a server.
#[derive(Debug)]
pub(crate) struct Polling {
    pub(crate) client: Client,
    pub(crate) endpoint: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) method: Method,
    pub(crate) body: Option<String>,
    pub(crate) every: Duration,
    /// An answer that is the same as the one before it is left out.
    pub(crate) changed: bool,
}

impl Polling {
    async fn ask(&self) -> Result<Bytes> {
        let mut request = self.client.request(self.method.clone(), self.endpoint.clone());
        request = request.headers(self.headers.clone()).timeout(REQUEST_MAX);
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        let response = request.send().await.map_err(|error| unreachable(&self.endpoint, &error))?;
        let mut response = accepted(&self.endpoint, response).await?;
        let mut answer = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&self.endpoint, &error))? {
            if answer.len() + chunk.len() > MESSAGE_BYTES_MAX {
                return Err(QueryError::limit(format!(
                    "{} answers with more than {MESSAGE_BYTES_MAX} bytes; ask for less, as by a query in `endpoint`",
                    shown(&self.endpoint)
                )));
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer.freeze())
    }
}

#[async_trait]
impl Connection for Polling {
    fn place(&self) -> String {
        shown(&self.endpoint)
    }

    fn identity(&self) -> String {
        format!("polling_http {} {} {:?}", self.method, self.endpoint, self.body)
    }

    async fn receive(&self, out: &mut Outlet) -> Result<Ended> {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = self.ask().await?;
            let is_same = self.changed && out.last.as_ref() == Some(&answer);
            if !answer.is_empty() && !is_same {
                out.send(answer).await?;
            }
        }
    }
}
