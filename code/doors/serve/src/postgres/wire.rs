//! A connection of PostgreSQL's protocol, version 3: reads and writes the messages of the crate `pgwire`.
//!
//! A message is decoded when all its bytes have arrived. Its length is checked first, so that a client cannot make the server
//! allocate more than it sends.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pgwire::error::PgWireError;
use pgwire::messages::{DecodeContext, Message, PgWireFrontendMessage, ProtocolVersion, SslNegotiationMetaMessage};
use pgwire::tokio::server::MaybeTls;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use crate::postgres::error::PgError;
use crate::postgres::frame::{self, Phase};

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

impl From<PgWireError> for WireError {
    fn from(error: PgWireError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// A connection, with the bytes that were read but not decoded, and those that were written but not sent.
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

    /// Returns the stream, if nothing was read beyond the messages that were decoded.
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

    /// Reads the first message.
    pub(super) async fn startup(&mut self) -> Result<PgWireFrontendMessage, WireError> {
        let mut frame = self.frame(0, STARTUP_BYTES_MAX).await?;
        frame::check_startup(&frame[4..]).map_err(WireError::Protocol)?;
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        match decoded(&mut frame, &context)? {
            // It is not a request for encryption.
            PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::None) => {
                context.awaiting_frontend_ssl = false;
                decoded(&mut frame, &context)
            }
            message => Ok(message),
        }
    }

    /// Reads the next message.
    pub(super) async fn message(&mut self, phase: Phase) -> Result<PgWireFrontendMessage, WireError> {
        let bytes_max = if phase == Phase::Ready { MESSAGE_BYTES_MAX } else { STARTUP_BYTES_MAX };
        let mut frame = self.frame(1, bytes_max).await?;
        frame::check(frame[0], phase, &frame[5..]).map_err(WireError::Protocol)?;
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        (context.awaiting_frontend_ssl, context.awaiting_frontend_startup) = (false, false);
        decoded(&mut frame, &context)
    }

    /// Reads the bytes of a message whose length is after `offset` bytes.
    async fn frame(&mut self, offset: usize, bytes_max: usize) -> Result<BytesMut, WireError> {
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
        Ok(self.input.split_to(offset + length))
    }

    /// Adds a message.
    ///
    /// # Errors
    /// If it is longer than the protocol allows. Nothing of it is sent then.
    pub(super) fn put(&mut self, message: &impl Message) -> Result<(), PgError> {
        let start = self.output.len();
        message.encode(&mut self.output).map_err(|error| {
            self.output.truncate(start);
            PgError::new("54000", format!("a part of the answer is too long for PostgreSQL's protocol: {error}"))
        })
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

impl Wire<MaybeTls> {
    /// Waits until the client goes away. Meanwhile reads its next messages, up to 1 MiB.
    pub(super) async fn gone(&mut self) -> WireError {
        while self.input.len() < AHEAD_BYTES_MAX {
            if let Err(error) = self.read().await {
                return error;
            }
        }
        let socket = match &self.stream {
            MaybeTls::Plain(socket) => socket,
            MaybeTls::Tls(stream) => stream.get_ref().0,
            _ => return std::future::pending().await,
        };
        match closed(socket).await {
            Ok(()) => WireError::Gone,
            // Without a second handle, such as without free descriptors, the query ends by itself or is cancelled.
            Err(error) => {
                tracing::debug!(%error, "a socket is not watched");
                std::future::pending().await
            }
        }
    }
}

/// Waits until the other end of `socket` is closed, although unread data are before its end.
async fn closed(socket: &TcpStream) -> io::Result<()> {
    // Another handle: to wait again, the state of this one is reset, which must not make a reader wait for what is there.
    let handle: std::net::TcpStream = SockRef::from(socket).try_clone()?.into();
    let handle = TcpStream::from_std(handle)?;
    while !handle.ready(Interest::READABLE).await?.is_read_closed() {
        let again = handle.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        again.or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

fn decoded(frame: &mut BytesMut, context: &DecodeContext) -> Result<PgWireFrontendMessage, WireError> {
    let incomplete = || WireError::Protocol("a message ends before its last field".to_string());
    PgWireFrontendMessage::decode(frame, context)?.ok_or_else(incomplete)
}

#[cfg(test)]
mod tests {
    use pgwire::messages::copy::CopyData;
    use pgwire::messages::startup::ParameterStatus;

    use super::*;

    async fn read(bytes: &[u8]) -> Result<PgWireFrontendMessage, WireError> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(bytes).await.unwrap();
        drop(client);
        Wire::new(server).message(Phase::Ready).await
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
        let whole = read(&framed(b'B', bind)).await;
        assert!(matches!(whole, Ok(PgWireFrontendMessage::Bind(bind)) if bind.parameters.len() == 1));
        for length in 0..bind.len() {
            // The next message must not be read as the rest of this one.
            let outcome = read(&[framed(b'B', &bind[..length]), framed(b'Q', b"SELECT 1\0")].concat()).await;
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
        wire.put(&CopyData::new(vec![7; 100].into())).unwrap();
        assert!(!wire.send_if_full().await.unwrap());
        wire.put(&CopyData::new(vec![7; SEND_BYTES].into())).unwrap();
        assert!(wire.send_if_full().await.unwrap() && wire.output.is_empty());
        drop(wire);
        let bytes = reading.await.unwrap().unwrap();
        assert_eq!(bytes.len(), 105 + 5 + SEND_BYTES);
    }

    #[tokio::test]
    async fn nothing_of_a_message_that_is_too_long_is_sent() {
        let mut wire = Wire::new(tokio::io::duplex(1000).1);
        wire.put(&CopyData::new(vec![7; 100].into())).unwrap();
        let error = wire.put(&ParameterStatus::new("a".to_string(), "x".repeat(40_000))).unwrap_err();
        assert_eq!((error.code, wire.output.len()), ("54000", 105));
    }

    #[tokio::test]
    async fn impossible_lengths_are_refused_before_they_are_read() {
        assert!(matches!(read(b"Q\x40\0\0\0").await, Err(WireError::TooLong(_))));
        assert!(matches!(read(b"Q\xff\xff\xff\xff").await, Err(WireError::TooLong(_))));
        assert!(matches!(read(b"Q\0\0\0\x03").await, Err(WireError::Protocol(_))));
        assert!(matches!(read(b"Q\0\0\0\x08ab").await, Err(WireError::Gone)));
        assert!(matches!(read(b"").await, Err(WireError::Gone)));
    }

    #[tokio::test]
    async fn client_that_dies_behind_unread_data_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut wire = Wire::new(MaybeTls::Plain(listener.accept().await.unwrap().0));
        let query = framed(b'Q', &[vec![b' '; 1000], vec![0]].concat());
        client.write_all(&query).await.unwrap();
        wire.input.resize(AHEAD_BYTES_MAX, b' ');
        let writing = async {
            tokio::task::yield_now().await;
            drop(client);
        };
        assert!(matches!(tokio::join!(wire.gone(), writing).0, WireError::Gone));
        // Bytes that were sent before are still read.
        wire.input.clear();
        assert!(matches!(wire.message(Phase::Ready).await, Ok(PgWireFrontendMessage::Query(_))));
    }
}
