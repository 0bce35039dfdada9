//! A way to a server that can fall silent, as when a host or a network vanishes: nothing is refused, nothing arrives.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A TCP proxy to one server.
#[derive(Debug, Clone)]
pub struct SilentProxy {
    /// Where it listens.
    pub address: SocketAddr,
    silent: Arc<watch::Sender<bool>>,
}

impl SilentProxy {
    /// A proxy on a loopback port that leads to `server`.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn to(server: SocketAddr) -> std::io::Result<SilentProxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let silent = Arc::new(watch::Sender::new(false));
        let proxy = SilentProxy { address, silent: Arc::clone(&silent) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, silent.subscribe()));
                tokio::spawn(carry(from_server, to_client, silent.subscribe()));
            }
        });
        Ok(proxy)
    }

    /// From now on nothing gets through, and nobody is told.
    pub fn fall_silent(&self) {
        self.silent.send_replace(true);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        if *silent.borrow_and_update() {
            // Holds both sockets open and says nothing more, until the proxy is gone.
            while silent.changed().await.is_ok() {}
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
