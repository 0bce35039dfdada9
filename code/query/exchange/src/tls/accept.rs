//! Accepts connections to a comb, with or without TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::CombCertificate;

/// Maximum time of a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Maximum number of handshakes at the same time. Further connections wait in the queue of the system.
const HANDSHAKES_MAX: usize = 1024;

/// Time to wait after the system refused a connection, such as without free file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// First byte of a TLS connection: the type of a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Time after which a caller that does not use TLS gets its answer. It sends a call after the start of the connection, and an
/// error of the connection alone would not reach the caller.
const ANSWER_PLAIN_AFTER: Duration = Duration::from_millis(200);

/// Maximum bytes that are read of a caller that does not use TLS.
const PLAIN_BYTES_MAX: u64 = 64 << 10;

/// Returns the connections that callers open to `listener`. With a `certificate`, those come that complete a TLS handshake;
/// a caller that does not, or takes long, does not hinder others.
pub fn incoming(
    listener: TcpListener,
    certificate: Option<&CombCertificate>,
) -> ReceiverStream<io::Result<CombStream>> {
    let acceptor = certificate.map(|certificate| TlsAcceptor::from(certificate.config.clone()));
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(accept(listener, acceptor, sender));
    ReceiverStream::new(receiver)
}

/// Accepts connections until the receiver of `sender` is dropped.
async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, sender: mpsc::Sender<io::Result<CombStream>>) {
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = sender.closed() => return,
            Some(_ended) = handshakes.join_next() => continue,
            accepted = listener.accept(), if handshakes.len() < HANDSHAKES_MAX => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        // Without this, small responses wait 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a socket kept its settings");
        }
        match &acceptor {
            None => drop(sender.send(Ok(CombStream::Plain(stream))).await),
            Some(acceptor) => drop(handshakes.spawn(shake_hands(stream, acceptor.clone(), sender.clone()))),
        }
    }
}

/// Passes `stream` on to `sender` if it completes its handshake in time.
async fn shake_hands(stream: TcpStream, acceptor: TlsAcceptor, sender: mpsc::Sender<io::Result<CombStream>>) {
    match tokio::time::timeout(HANDSHAKE_WITHIN, secured(stream, &acceptor)).await {
        Ok(Ok(stream)) => drop(sender.send(Ok(CombStream::Tls(Box::new(stream)))).await),
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn secured(mut stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    let is_plain = stream.peek(&mut first).await? > 0 && first != [TLS_HANDSHAKE];
    if !is_plain {
        return acceptor.accept(stream).await;
    }
    tokio::time::sleep(ANSWER_PLAIN_AFTER).await;
    stream.write_all(&requires_tls()).await?;
    stream.shutdown().await?;
    // Bytes that were not read would reset the connection, and the caller would not see the answer.
    tokio::io::copy(&mut stream.take(PLAIN_BYTES_MAX), &mut tokio::io::sink()).await?;
    Err(io::Error::new(io::ErrorKind::InvalidData, "the caller does not use TLS"))
}

/// Returns what HTTP/2 tells a caller that must use TLS: the empty settings that begin a connection, and a GOAWAY frame
/// that gives the reason.
fn requires_tls() -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    const INADEQUATE_SECURITY: [u8; 4] = [0, 0, 0, 0x0c];
    const REASON: &[u8] = b"this comb requires TLS";
    let length = u8::try_from(8 + REASON.len()).expect("the reason is short");
    let head = [0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
    let no_stream_was_served = [0; 4];
    [&SETTINGS[..], &head, &no_stream_was_served, &INADEQUATE_SECURITY, REASON].concat()
}

/// A connection to a comb.
#[derive(Debug)]
pub enum CombStream {
    /// A connection that is not encrypted.
    Plain(TcpStream),
    /// A connection that has completed its TLS handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for CombStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for CombStream {
    fn poll_read(self: Pin<&mut Self>, ctx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(ctx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(ctx, buffer),
        }
    }
}

impl AsyncWrite for CombStream {
    fn poll_write(self: Pin<&mut Self>, ctx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(ctx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(ctx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(ctx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(ctx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(ctx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(ctx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(ctx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(ctx),
        }
    }
}
