//! Messages of PostgreSQL's protocol, version 3: parses those of a client, and writes those of the server.
//!
//! A message is parsed when all its bytes have arrived. Its length is checked first, so that a client cannot make the server
//! allocate more than it sends.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum bytes of a message before and after the client has logged in.
const STARTUP_BYTES_MAX: usize = 10_000;
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes of rows that are gathered before they are sent.
const SEND_BYTES: usize = 64 << 10;

/// Maximum time in which a client takes no byte of what is sent to it.
const WRITE_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of the next messages that are read while a query runs.
const AHEAD_BYTES_MAX: usize = 1 << 20;

/// A failure of a connection, which ends it.
#[derive(Debug)]
pub(super) enum WireError {
    /// The client closed the connection or is unreachable.
    Gone,
    /// A message is not as the protocol requires.
    Protocol(String),
    /// A message is too long.
    TooLong(usize),
}

impl From<io::Error> for WireError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The first message of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Startup {
    /// The client asks for TLS.
    Tls,
    /// The client asks for encryption by GSSAPI.
    Gss,
    /// The client cancels the query of another connection.
    Cancel { process: i32, secret: i32 },
    /// The client logs in.
    Start { minor: u16, parameters: BTreeMap<String, String> },
}

/// The thing that Describe and Close name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// A message of a client.
#[derive(Debug)]
pub(super) enum Message {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Named, String),
    Execute {
        portal: String,
        rows_max: usize,
    },
    Close(Named, String),
    Sync,
    Flush,
    Terminate,
    /// An answer to a request for a password.
    Password(Bytes),
    /// Data of a COPY that the server does not take.
    Copy,
    FunctionCall,
}

/// Values for the parameters of a statement.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) portal: String,
    pub(super) statement: String,
    pub(super) formats: Vec<i16>,
    pub(super) values: Vec<Option<Bytes>>,
    pub(super) result_formats: Vec<i16>,
}

/// Reads fields of one message, and never beyond it.
struct Fields(Bytes);

impl Fields {
    fn need(&self, count: usize) -> Result<(), WireError> {
        if self.0.remaining() >= count {
            return Ok(());
        }
        Err(WireError::Protocol("a message ends before its last field".to_string()))
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn short(&mut self) -> Result<i16, WireError> {
        self.need(2)?;
        Ok(self.0.get_i16())
    }

    fn int(&mut self) -> Result<i32, WireError> {
        self.need(4)?;
        Ok(self.0.get_i32())
    }

    /// Returns a number of fields that follow, each of at least `bytes` bytes. Counts are unsigned.
    fn count(&mut self, bytes: usize) -> Result<usize, WireError> {
        self.need(2)?;
        let count = usize::from(self.0.get_u16());
        self.need(count * bytes)?;
        Ok(count)
    }

    fn shorts(&mut self) -> Result<Vec<i16>, WireError> {
        (0..self.count(2)?).map(|_| self.short()).collect()
    }

    fn text(&mut self) -> Result<String, WireError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| WireError::Protocol("a text of a message has no end".to_string()))?;
        let bytes = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Protocol("a text is not valid UTF-8".to_string()))
    }

    fn named(&mut self) -> Result<Named, WireError> {
        match self.byte()? {
            b'S' => Ok(Named::Statement),
            b'P' => Ok(Named::Portal),
            other => Err(WireError::Protocol(format!("`{}` names no statement and no portal", other.escape_ascii()))),
        }
    }

    fn value(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.int()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length)
                    .map_err(|_| WireError::Protocol("the length of a value is negative".to_string()))?;
                self.need(length)?;
                Ok(Some(self.0.split_to(length)))
            }
        }
    }
}

/// A connection, with the bytes that were read but not parsed, and those that were written but not sent.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Returns the stream, if nothing was read beyond the messages that were parsed.
    pub(super) fn into_stream(self) -> Result<S, WireError> {
        if self.input.is_empty() {
            return Ok(self.stream);
        }
        Err(WireError::Protocol("data follows the request for TLS without encryption".to_string()))
    }

    async fn read(&mut self) -> Result<(), WireError> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(WireError::Gone),
            _ => Ok(()),
        }
    }

    /// Waits until the client goes away. Meanwhile reads its next messages, up to 1 MiB.
    pub(super) async fn gone(&mut self) -> WireError {
        while self.input.len() < AHEAD_BYTES_MAX {
            if let Err(error) = self.read().await {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Reads the first message.
    pub(super) async fn startup(&mut self) -> Result<Startup, WireError> {
        let body = self.body(0, STARTUP_BYTES_MAX).await?;
        parse_startup(Fields(body))
    }

    /// Reads the next message of a client that has logged in, or not yet.
    pub(super) async fn message(&mut self, is_in: bool) -> Result<Message, WireError> {
        while self.input.is_empty() {
            self.read().await?;
        }
        let kind = self.input[0];
        let body = self.body(1, if is_in { MESSAGE_BYTES_MAX } else { STARTUP_BYTES_MAX }).await?;
        parse(kind, Fields(body))
    }

    /// Reads a message whose length is after `offset` bytes. Returns it without both.
    async fn body(&mut self, offset: usize, bytes_max: usize) -> Result<Bytes, WireError> {
        while self.input.len() < offset + 4 {
            self.read().await?;
        }
        let length = (&self.input[offset..]).get_u32() as usize;
        if length < 4 {
            return Err(WireError::Protocol(format!("a message has the length {length}")));
        }
        if length > bytes_max {
            return Err(WireError::TooLong(bytes_max));
        }
        while self.input.len() < offset + length {
            self.read().await?;
        }
        let mut message = self.input.split_to(offset + length);
        message.advance(offset + 4);
        Ok(message.freeze())
    }

    /// Adds a message of `kind` whose fields `write` writes.
    pub(super) fn put(&mut self, kind: u8, write: impl FnOnce(&mut BytesMut)) {
        self.output.put_u8(kind);
        let start = self.output.len();
        self.output.put_i32(0);
        write(&mut self.output);
        let length = u32::try_from(self.output.len() - start).unwrap_or(u32::MAX);
        self.output[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Adds one byte that is not a message: the answer to a request for encryption.
    pub(super) fn put_byte(&mut self, byte: u8) {
        self.output.put_u8(byte);
    }

    /// Returns the bytes that wait to be sent, to write a message in parts.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Sends what was added. A client that takes no byte for a minute is taken for gone.
    pub(super) async fn send(&mut self) -> Result<(), WireError> {
        let mut sent = 0;
        while sent < self.output.len() {
            let written = tokio::time::timeout(WRITE_WITHIN, self.stream.write(&self.output[sent..])).await;
            match written.map_err(|_| WireError::Gone)?? {
                0 => return Err(WireError::Gone),
                count => sent += count,
            }
        }
        self.output.clear();
        tokio::time::timeout(WRITE_WITHIN, self.stream.flush()).await.map_err(|_| WireError::Gone)??;
        Ok(())
    }

    /// Sends what was added if it is more than 64 KiB. Returns true if it was.
    pub(super) async fn send_if_full(&mut self) -> Result<bool, WireError> {
        if self.output.len() < SEND_BYTES {
            return Ok(false);
        }
        self.send().await?;
        Ok(true)
    }

    /// Closes the connection.
    pub(super) async fn close(&mut self) {
        // The client may have closed it already.
        drop(self.stream.shutdown().await);
    }
}

/// Adds `text` and a zero byte.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn parse_startup(mut fields: Fields) -> Result<Startup, WireError> {
    let code = fields.int()?;
    match code {
        80_877_103 => Ok(Startup::Tls),
        80_877_104 => Ok(Startup::Gss),
        80_877_102 => Ok(Startup::Cancel { process: fields.int()?, secret: fields.int()? }),
        _ if code >> 16 == 3 => {
            let mut parameters = BTreeMap::new();
            loop {
                let name = fields.text()?;
                if name.is_empty() {
                    break;
                }
                parameters.insert(name, fields.text()?);
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the lower half is the minor version"
            )]
            Ok(Startup::Start { minor: code as u16, parameters })
        }
        _ => Err(WireError::Protocol(format!(
            "protocol version {}.{} is not supported; use version 3.0",
            code >> 16,
            code & 0xffff
        ))),
    }
}

fn parse(kind: u8, mut fields: Fields) -> Result<Message, WireError> {
    Ok(match kind {
        b'Q' => Message::Query(fields.text()?),
        b'P' => {
            let (name, sql) = (fields.text()?, fields.text()?);
            let types = (0..fields.count(4)?).map(|_| fields.int().map(i32::cast_unsigned));
            Message::Parse { name, sql, types: types.collect::<Result<_, _>>()? }
        }
        b'B' => Message::Bind(Bind {
            portal: fields.text()?,
            statement: fields.text()?,
            formats: fields.shorts()?,
            values: (0..fields.count(4)?).map(|_| fields.value()).collect::<Result<_, _>>()?,
            result_formats: fields.shorts()?,
        }),
        b'D' => Message::Describe(fields.named()?, fields.text()?),
        b'C' => Message::Close(fields.named()?, fields.text()?),
        // No rows, or a negative number of rows, means all.
        b'E' => {
            let portal = fields.text()?;
            let rows_max = usize::try_from(fields.int()?).ok().filter(|rows| *rows > 0);
            Message::Execute { portal, rows_max: rows_max.unwrap_or(usize::MAX) }
        }
        b'S' => Message::Sync,
        b'H' => Message::Flush,
        b'X' => Message::Terminate,
        b'p' => Message::Password(fields.0),
        b'd' | b'c' | b'f' => Message::Copy,
        b'F' => Message::FunctionCall,
        other => return Err(WireError::Protocol(format!("message `{}` does not exist", other.escape_ascii()))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Message, WireError> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(bytes).await.unwrap();
        drop(client);
        Wire::new(server).message(true).await
    }

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[tokio::test]
    async fn messages_that_end_early_are_errors() {
        let bind: &[u8] = b"p\0s\0\0\x01\0\x01\0\x01\0\0\0\x03abc\0\x01\0\x01";
        assert!(matches!(read(&framed(b'B', bind)).await, Ok(Message::Bind(Bind { values, .. })) if values.len() == 1));
        for length in 0..bind.len() {
            let outcome = read(&framed(b'B', &bind[..length])).await;
            assert!(matches!(outcome, Err(WireError::Protocol(_))), "{length}: {outcome:?}");
        }
        for (kind, body) in
            [(b'Q', b"SELECT 1".as_slice()), (b'Q', b"\xff\0"), (b'P', b"\0\0\xff\xff"), (b'D', b"X\0"), (b'!', b"")]
        {
            assert!(matches!(read(&framed(kind, body)).await, Err(WireError::Protocol(_))), "{kind}");
        }
    }

    #[tokio::test]
    async fn bytes_are_sent_in_parts() {
        let (mut client, server) = tokio::io::duplex(1000);
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).await.map(|_| bytes)
        });
        let mut wire = Wire::new(server);
        wire.put(b'd', |out| out.put_slice(&[7; 100]));
        assert!(!wire.send_if_full().await.unwrap());
        wire.put(b'd', |out| out.put_slice(&vec![7; SEND_BYTES]));
        assert!(wire.send_if_full().await.unwrap() && wire.output().is_empty());
        drop(wire);
        let bytes = reading.await.unwrap().unwrap();
        assert_eq!(bytes.len(), 105 + 5 + SEND_BYTES);
    }

    #[tokio::test]
    async fn impossible_lengths_are_refused_before_they_are_read() {
        assert!(matches!(read(b"Q\x40\0\0\0").await, Err(WireError::TooLong(_))));
        assert!(matches!(read(b"Q\xff\xff\xff\xff").await, Err(WireError::TooLong(_))));
        assert!(matches!(read(b"Q\0\0\0\x03").await, Err(WireError::Protocol(_))));
        assert!(matches!(read(b"Q\0\0\0\x08ab").await, Err(WireError::Gone)));
        assert!(matches!(read(b"").await, Err(WireError::Gone)));
    }
}
