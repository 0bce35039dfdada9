//! Connections to the endpoint, which can die while the process at their other end is frozen, as on Lambda.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Fate of the connections of an instance while it is frozen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Freeze {
    /// They live.
    #[default]
    Keep,
    /// The services close them. The instance notices once it runs again.
    Close,
    /// They carry nothing more, without a notice: requests over them get no answer.
    Silence,
}

const LIVES: u8 = 0;
const CLOSED: u8 = 1;
const SILENT: u8 = 2;

/// Pause after a failure to accept a connection, such as a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The open connections, by the port of the client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<HashMap<u16, Arc<Fate>>>>);

/// State of a connection.
#[derive(Debug, Default)]
struct Fate {
    state: AtomicU8,
    reader: AtomicWaker,
}

impl Connections {
    /// Ends the connections of clients at `ports` as `freeze` says.
    pub(crate) fn end(&self, ports: &[u16], freeze: Freeze) {
        let state = match freeze {
            Freeze::Keep => return,
            Freeze::Close => CLOSED,
            Freeze::Silence => SILENT,
        };
        let open = self.0.lock();
        for fate in ports.iter().filter_map(|port| open.get(port)) {
            fate.state.store(state, Ordering::SeqCst);
            fate.reader.wake();
        }
    }
}

/// Accepts connections and enters them in a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) listener: TcpListener,
    pub(crate) connections: Connections,
}

impl Listener for Listed {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, client)) => {
                    // Without it small responses are delayed by 40 ms.
                    let _still_works = stream.set_nodelay(true);
                    let (port, fate) = (client.port(), Arc::<Fate>::default());
                    self.connections.0.lock().insert(port, Arc::clone(&fate));
                    return (Connection { stream, port, fate, connections: self.connections.clone() }, client);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that can die.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    port: u16,
    fate: Arc<Fate>,
    connections: Connections,
}

impl Connection {
    fn state(&self) -> u8 {
        self.fate.state.load(Ordering::SeqCst)
    }

    fn broken() -> io::Error {
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fate.reader.register(context.waker());
        match self.state() {
            LIVES => Pin::new(&mut self.stream).poll_read(context, buffer),
            CLOSED => Poll::Ready(Err(Self::broken())),
            // Bytes that arrive are lost, but the end of the client is noticed.
            _ => loop {
                let mut lost = [0; 4096];
                let mut lost = ReadBuf::new(&mut lost);
                match Pin::new(&mut self.stream).poll_read(context, &mut lost) {
                    Poll::Ready(Ok(())) if !lost.filled().is_empty() => {}
                    ended => return ended,
                }
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.state() {
            LIVES => Pin::new(&mut self.stream).poll_write(context, bytes),
            CLOSED => Poll::Ready(Err(Self::broken())),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.connections.0.lock();
        // The port may belong to another connection by now.
        if open.get(&self.port).is_some_and(|fate| Arc::ptr_eq(fate, &self.fate)) {
            open.remove(&self.port);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> (Connections, TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::default();
        let mut listed = Listed { listener, connections: connections.clone() };
        let (client, (connection, _)) = tokio::join!(TcpStream::connect(address), listed.accept());
        (connections, client.unwrap(), connection)
    }

    #[tokio::test]
    async fn closed_connection_fails_at_both_ends() {
        let (connections, mut client, mut connection) = pair().await;
        client.write_all(b"ab").await.unwrap();
        let mut two = [0; 2];
        connection.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
        connections.end(&[client.local_addr().unwrap().port()], Freeze::Close);
        assert_eq!(connection.read(&mut two).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(connection.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(connection);
        assert_eq!(client.read(&mut two).await.unwrap(), 0);
        assert!(connections.0.lock().is_empty());
    }

    #[tokio::test]
    async fn silent_connection_loses_bytes_until_its_client_ends() {
        let (connections, mut client, mut connection) = pair().await;
        connections.end(&[client.local_addr().unwrap().port()], Freeze::Silence);
        client.write_all(b"lost").await.unwrap();
        connection.write_all(b"lost too").await.unwrap();
        client.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"");
        drop(connection);
        client.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"");
    }

    #[tokio::test]
    async fn other_connections_live() {
        let (connections, mut client, mut connection) = pair().await;
        let other = client.local_addr().unwrap().port().wrapping_add(1);
        connections.end(&[other], Freeze::Close);
        connections.end(&[client.local_addr().unwrap().port()], Freeze::Keep);
        connection.write_all(b"ab").await.unwrap();
        let mut two = [0; 2];
        client.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
    }
}
