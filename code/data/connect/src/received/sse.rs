//! Server-sent events, as the HTML standard defines them.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::Client;
use url::Url;

use super::receiver::{Connection, Ended, MESSAGE_BYTES_MAX, Outlet};
use crate::web::{accepted, shown, unreachable};

/// Event streams of a server.
#[derive(Debug)]
pub(crate) struct Sse {
    pub(crate) client: Client,
    pub(crate) endpoint: Url,
    pub(crate) headers: HeaderMap,
    /// Types of the events that are rows; all if it is empty.
    pub(crate) events: BTreeSet<String>,
}

#[async_trait]
impl Connection for Sse {
    fn place(&self) -> String {
        shown(&self.endpoint)
    }

    fn identity(&self) -> String {
        format!("sse {} {:?}", self.endpoint, self.events)
    }

    async fn receive(&self, out: &mut Outlet) -> Result<Ended> {
        let mut request = self.client.get(self.endpoint.clone()).headers(self.headers.clone());
        request = request.header(ACCEPT, "text/event-stream").header(CACHE_CONTROL, "no-cache");
        let last = out.position.as_deref().filter(|id| !id.is_empty());
        if let Some(Ok(id)) = last.map(|id| HeaderValue::from_bytes(id.as_bytes())) {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.map_err(|error| unreachable(&self.endpoint, &error))?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Ended::Finished);
        }
        let mut response = accepted(&self.endpoint, response).await?;
        let found = response.headers().get(CONTENT_TYPE).and_then(|found| found.to_str().ok()).unwrap_or_default();
        if !found.to_ascii_lowercase().starts_with("text/event-stream") {
            return Err(QueryError::data(format!(
                "{} sends `{found}` instead of text/event-stream; correct `endpoint`, or use connector = 'polling_http'",
                shown(&self.endpoint)
            )));
        }
        let mut parser = Parser::default();
        let mut events = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&self.endpoint, &error))? {
            parser.push(&chunk, &mut events).map_err(|error| error.at(shown(&self.endpoint)))?;
            for event in events.drain(..) {
                if let Some(id) = event.id {
                    out.position = Some(id);
                }
                let kind = if event.kind.is_empty() { "message" } else { event.kind.as_str() };
                if self.events.is_empty() || self.events.contains(kind) {
                    out.send(event.data).await?;
                }
            }
            out.retry = parser.retry.or(out.retry);
        }
        Ok(Ended::Closed)
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    kind: String,
    /// The position behind it, if it has one of its own.
    id: Option<String>,
    data: Bytes,
}

/// Divides a stream into events. Unknown fields and comments are left out, and so is an event that the end of the stream
/// cuts off.
#[derive(Debug, Default)]
struct Parser {
    /// A mark of the byte order may only come first.
    begun: bool,
    line: Vec<u8>,
    after_return: bool,
    kind: String,
    id: Option<String>,
    data: Vec<u8>,
    /// The time before the next connection that the server asks for.
    retry: Option<Duration>,
}

impl Parser {
    /// Adds bytes, and the events that they complete to `events`.
    ///
    /// # Errors
    /// `Limit` if an event is too large.
    fn push(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<()> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() + self.data.len() > MESSAGE_BYTES_MAX {
                return Err(QueryError::limit(format!(
                    "an event has more than {MESSAGE_BYTES_MAX} bytes; the server must send smaller ones"
                )));
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.end_line(&line, events);
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], events: &mut Vec<Event>) {
        let is_first = !std::mem::replace(&mut self.begun, true);
        let line = if is_first { line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line) } else { line };
        if line.is_empty() {
            let (kind, mut data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            // Each line of data has added a line break.
            if data.pop().is_some() {
                events.push(Event { kind, id: self.id.take(), data: data.into() });
            }
            return;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (field, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || String::from_utf8_lossy(value).into_owned();
        match field {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.kind = text(),
            b"id" if !value.contains(&0) => self.id = Some(text()),
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                self.retry = text().parse().ok().map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of `text`, as kind, id and data, if it comes in pieces of `size` bytes.
    fn events(text: &str, size: usize) -> Vec<(String, Option<String>, String)> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            parser.push(piece, &mut events).expect("the events are small");
        }
        let text = |event: Event| (event.kind, event.id, String::from_utf8(event.data.to_vec()).expect("it is text"));
        events.into_iter().map(text).collect()
    }

    #[test]
    fn events_are_those_of_the_standard() {
        let text = "\u{feff}data: a\n\n: comment\r\nevent: add\r\ndata:b\r\ndata:  c\rid: 7\r\runknown: x\ndata\n\nid: 8\n\ndata: cut";
        let event =
            |kind: &str, id: Option<&str>, data: &str| (kind.to_string(), id.map(String::from), data.to_string());
        let expected = [event("", None, "a"), event("add", Some("7"), "b\n c"), event("", None, "")];
        for size in [1, 2, 3, 1000] {
            assert_eq!(events(text, size), expected, "pieces of {size}");
        }
    }

    #[test]
    fn large_event_is_taken_and_one_without_end_is_an_error() {
        let large = "x".repeat(10 << 20);
        assert_eq!(events(&format!("data: {large}\n\n"), 65_536)[0].2.len(), large.len());
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        let piece = vec![b'x'; 1 << 20];
        let error = (0..40).find_map(|_| parser.push(&piece, &mut events).err()).expect("it has no end");
        assert!(error.message.contains("an event has more than"), "{error}");
    }
}
