//! A TCP proxy that can stop forwarding without closing connections, as when a host or a network fails.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A TCP proxy to one server.
#[derive(Debug, Clone)]
pub struct SilentProxy {
    /// Address on which the proxy listens.
    pub address: SocketAddr,
    silent: Arc<watch::Sender<bool>>,
}

impl SilentProxy {
    /// Starts a proxy to `server` on a free loopback port.
    ///
    /// # Errors
    /// When no socket can be bound.
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

    /// Stops forwarding; connections stay open.
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
            // Keeps both sockets open without forwarding, until the proxy is dropped.
            while silent.changed().await.is_ok() {}
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
