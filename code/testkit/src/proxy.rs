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
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Forwards,
    /// Connections stay open, and nothing passes.
    Silent,
    /// Bytes of the client pass, and no answer does.
    HalfOpen,
    /// Connections are closed, and new ones are refused.
    Cut,
}

impl SilentProxy {
    /// Starts a proxy to `server` on a free loopback port.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn to(server: SocketAddr) -> std::io::Result<SilentProxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(watch::Sender::new(State::Forwards));
        let proxy = SilentProxy { address, state: Arc::clone(&state) };
        tokio::spawn(async move {
            let mut cut = state.subscribe();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = cut.wait_for(|state| *state == State::Cut) => return,
                };
                let Ok((client, _)) = accepted else { return };
                let Ok(server) = TcpStream::connect(server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, &[State::Silent], state.subscribe()));
                tokio::spawn(carry(from_server, to_client, &[State::Silent, State::HalfOpen], state.subscribe()));
            }
        });
        Ok(proxy)
    }

    /// Stops forwarding; connections stay open.
    pub fn fall_silent(&self) {
        self.state.send_replace(State::Silent);
    }

    /// Stops forwarding what the server sends; connections stay open, and what the client sends still passes.
    pub fn lose_answers(&self) {
        self.state.send_replace(State::HalfOpen);
    }

    /// Closes all connections, and refuses new ones.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }
}

/// Carries bytes until the proxy is cut, or until it is in one of the states in which it is `swallowing` this direction.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    swallowing: &'static [State],
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // The sockets close when both directions have ended.
            _ = state.wait_for(|state| *state == State::Cut) => return,
        };
        if swallowing.contains(&state.borrow()) {
            // Keeps both sockets open without forwarding, until they are cut or the proxy is dropped.
            _ = state.wait_for(|state| *state == State::Cut).await;
            return;
        }
        match read {
            Ok(count) if count > 0 && to.write_all(&buffer[..count]).await.is_ok() => {}
            _ => return,
        }
    }
}
