//! Messages of a WebSocket.

use std::time::Duration;

use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use url::Url;

use super::receiver::{Connection, Ended, MESSAGE_BYTES_MAX, Outlet};
use crate::web::{CONNECT_MAX, refused, shown};

/// Time between two pings, and time after which a server that answers none counts as stopped.
const PING_EVERY: Duration = Duration::from_secs(30);
const SILENT_MAX: Duration = Duration::from_secs(90);

/// Bytes of answers to the pings of a server that it has not read, above which further pings are not answered.
const UNSENT_MAX: usize = 1 << 20;

/// Messages of a server.
#[derive(Debug)]
pub(crate) struct WebSocket {
    pub(crate) endpoint: Url,
    pub(crate) headers: HeaderMap,
    /// Messages that are sent after each connection.
    pub(crate) subscribe: Vec<String>,
}

impl WebSocket {
    fn limits(&self) -> WebSocketConfig {
        let longest = self.subscribe.iter().map(String::len).max().unwrap_or_default();
        WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            .max_write_buffer_size(UNSENT_MAX + longest)
    }

    fn late(&self) -> QueryError {
        QueryError::unavailable(format!("{} does not answer in time", shown(&self.endpoint)))
    }

    /// Sends a message to a server that may read nothing.
    async fn send(&self, socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>, message: Message) -> Result<()> {
        let sent = timeout(CONNECT_MAX, socket.send(message)).await;
        sent.map_err(|_| self.late())?.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: Error) -> QueryError {
        match error {
            Error::Http(answer) => {
                let body = answer.body().as_deref().unwrap_or_default();
                refused(&self.endpoint, answer.status(), answer.headers(), &String::from_utf8_lossy(body))
            }
            Error::Capacity(_) => QueryError::limit(format!(
                "{} sends a message of more than {MESSAGE_BYTES_MAX} bytes; it must send smaller ones",
                shown(&self.endpoint)
            )),
            error => QueryError::unavailable(format!("{} does not answer: {error}", shown(&self.endpoint))),
        }
    }
}

#[async_trait]
impl Connection for WebSocket {
    fn place(&self) -> String {
        shown(&self.endpoint)
    }

    fn identity(&self) -> String {
        format!("websocket {} {:?}", self.endpoint, self.subscribe)
    }

    async fn receive(&self, out: &mut Outlet) -> Result<Ended> {
        let mut request = self.endpoint.as_str().into_client_request().map_err(|error| self.failed(error))?;
        request.headers_mut().extend(self.headers.clone());
        if self.endpoint.scheme() == "wss" {
            // Two libraries of cryptography are linked, so one must be chosen. An error says that it was.
            let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        }
        let connected = timeout(CONNECT_MAX, connect_async_with_config(request, Some(self.limits()), true)).await;
        let (mut socket, _) = connected.map_err(|_| self.late())?.map_err(|error| self.failed(error))?;
        for text in &self.subscribe {
            self.send(&mut socket, Message::text(text.clone())).await?;
        }
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                _ = pings.tick() => {
                    if heard.elapsed() > SILENT_MAX {
                        return Err(QueryError::unavailable(format!("{} is silent", shown(&self.endpoint))));
                    }
                    self.send(&mut socket, Message::Ping(Bytes::new())).await?;
                    continue;
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => out.send(text.into()).await?,
                Some(Ok(Message::Binary(bytes))) => out.send(bytes).await?,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) | None => return Ok(Ended::Closed),
                Some(Err(error)) => return Err(self.failed(error)),
            }
            // Time in which messages waited to be kept is not silence of the server.
            heard = Instant::now();
        }
    }
}
