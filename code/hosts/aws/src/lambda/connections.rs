//! Connections to Lambda: as many as its calls need, and new ones after a pause.
//!
//! A client of the SDK has one HTTP/2 connection to a service, and Lambda accepts 128 requests on it at once; the next ones wait.
//! So there is a client for each 100 calls. Calls that begin before it knows that a connection can be shared open one each, so the
//! first call over each client is one that runs nothing, and the others wait for it.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::types::InvocationType;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::clients::PAUSE_MS;

/// Maximum number of calls over one connection at the same time.
pub(super) const CALLS_PER_CONNECTION: usize = 100;

/// Maximum time for which calls wait until their connection is open.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// The clients of one process.
#[derive(Debug)]
pub(super) struct Connections {
    sdk: SdkConfig,
    /// Calls that can share one connection.
    shared_by: usize,
    pool: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    connections: Vec<Connection>,
    /// Time of the last call, in milliseconds since 1970.
    used_ms: u64,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    /// Has a clone for each call.
    calls: Arc<()>,
    /// Set once the connection is open.
    opened: Arc<OnceCell<()>>,
}

/// A client for one call.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) client: Client,
    _call: Arc<()>,
    opened: Arc<OnceCell<()>>,
}

impl Leased {
    /// Opens the connection, by a call of `function` that runs nothing, unless another call does so. A failure is only logged: the
    /// call for which it was opened reports it.
    async fn open(&self, function: &str) {
        let open = || async {
            let call = self.client.invoke().function_name(function).invocation_type(InvocationType::DryRun);
            match tokio::time::timeout(OPENED_WITHIN, call.send()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(function, %error, "the function cannot be invoked yet"),
                Err(_) => tracing::warn!(function, "Lambda does not answer; calls no longer wait for its first answer"),
            }
        };
        self.opened.get_or_init(open).await;
    }
}

impl Connections {
    /// Makes no connection yet. The first call over each opens it, if it can be `shared_by` several calls.
    pub(super) fn new(sdk: &SdkConfig, shared_by: usize) -> Self {
        Self { sdk: sdk.clone(), shared_by, pool: Mutex::default() }
    }

    /// Returns a client for one call of `function`: the first with less than [`CALLS_PER_CONNECTION`], or a new one. Its connection
    /// is open, if calls share it.
    pub(super) async fn lease(&self, function: &str) -> Leased {
        let leased = self.lease_at(buzz_protocol::now_ms());
        if self.shared_by > 1 {
            leased.open(function).await;
        }
        leased
    }

    /// Opens the first connection.
    pub(super) async fn connect(&self, function: &str) {
        self.lease_at(buzz_protocol::now_ms()).open(function).await;
    }

    fn lease_at(&self, now_ms: u64) -> Leased {
        let mut pool = self.pool.lock();
        if now_ms.saturating_sub(pool.used_ms) > PAUSE_MS {
            // Calls that still run keep their clients.
            pool.connections.clear();
        }
        pool.used_ms = now_ms;
        let free = |connection: &&Connection| Arc::strong_count(&connection.calls) <= CALLS_PER_CONNECTION;
        if let Some(connection) = pool.connections.iter().find(free) {
            return connection.lease();
        }
        let connection = Connection { client: Client::new(&self.sdk), calls: Arc::default(), opened: Arc::default() };
        let leased = connection.lease();
        pool.connections.push(connection);
        leased
    }

    #[cfg(test)]
    fn open(&self) -> Vec<usize> {
        let pool = self.pool.lock();
        pool.connections.iter().map(|connection| Arc::strong_count(&connection.calls) - 1).collect()
    }
}

impl Connection {
    fn lease(&self) -> Leased {
        let (client, opened) = (Client::clone(&self.client), Arc::clone(&self.opened));
        Leased { client, _call: Arc::clone(&self.calls), opened }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::clients;

    fn connections() -> Connections {
        let sdk = SdkConfig::builder().behavior_version(aws_config::BehaviorVersion::latest());
        Connections::new(&sdk.region(aws_config::Region::new("us-east-2")).build(), CALLS_PER_CONNECTION)
    }

    #[tokio::test]
    async fn calls_are_divided_among_connections_of_100() {
        let connections = connections();
        let mut calls: Vec<Leased> = (0..250).map(|_| connections.lease_at(1000)).collect();
        assert_eq!(connections.open(), [100, 100, 50]);
        // The ends of calls of the first connection make room there.
        calls.drain(..30);
        assert_eq!(connections.open(), [70, 100, 50]);
        calls.push(connections.lease_at(1000));
        assert_eq!(connections.open(), [71, 100, 50]);
    }

    #[tokio::test]
    async fn connections_are_new_after_a_pause() {
        let connections = connections();
        let running = connections.lease_at(1000);
        drop(connections.lease_at(1000 + PAUSE_MS));
        assert_eq!(connections.open(), [1]);
        let _next = connections.lease_at(1001 + 2 * PAUSE_MS);
        assert_eq!(connections.open(), [1], "the call that still runs has a connection that gets no others");
        drop(running);
        assert_eq!(connections.open(), [1]);
    }

    /// Answers all requests on `socket`. A connection from before `died` stays open but answers no more once that is true.
    async fn answer(mut socket: TcpStream, died: Arc<AtomicBool>) {
        let old = !died.load(Ordering::SeqCst);
        let mut request = vec![0; 64 << 10];
        while socket.read(&mut request).await.is_ok_and(|read| read > 0) {
            if old && died.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            _ = socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    }

    /// Starts a server that answers until `died`. Returns its URL and the number of connections that it has accepted.
    async fn server(died: Arc<AtomicBool>) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(socket, Arc::clone(&died)));
            }
        });
        (url, accepted)
    }

    /// Returns the configuration of clients of `url`. A call over a dead connection fails after the time for an answer.
    async fn sdk(url: &str) -> SdkConfig {
        let sdk = clients::sdk(Duration::from_secs(20), Some(url)).await.into_builder();
        let keys = aws_sdk_lambda::config::Credentials::new("AK", "SK", None, None, "test");
        let keys = aws_sdk_lambda::config::SharedCredentialsProvider::new(keys);
        sdk.credentials_provider(keys).region(aws_config::Region::new("us-east-2")).build()
    }

    #[tokio::test]
    async fn connections_that_died_in_a_pause_are_not_used() {
        let (listener, died) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(AtomicBool::new(false)));
        let url = format!("http://{}", listener.local_addr().unwrap());
        let of_server = Arc::clone(&died);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, Arc::clone(&of_server)));
            }
        });
        let connections = Connections::new(&sdk(&url).await, 1);
        let call = async |now_ms| {
            let leased = connections.lease_at(now_ms);
            let call = leased.client.invoke().function_name("hbee").invocation_type(InvocationType::DryRun);
            call.send().await.map(|_| ())
        };
        call(1000).await.unwrap();
        call(1000 + PAUSE_MS).await.unwrap();
        died.store(true, Ordering::SeqCst);
        call(1001 + 2 * PAUSE_MS).await.unwrap();
    }

    #[tokio::test]
    async fn calls_that_begin_together_open_one_connection() {
        for (shared_by, wanted) in [(CALLS_PER_CONNECTION, 1), (1, 0)] {
            let (url, accepted) = server(Arc::default()).await;
            let connections = Connections::new(&sdk(&url).await, shared_by);
            let leased = futures::future::join_all((0..10).map(|_| connections.lease("hbee"))).await;
            assert_eq!((leased.len(), accepted.load(Ordering::SeqCst)), (10, wanted));
        }
    }

    #[tokio::test]
    async fn connection_is_opened_by_one_call_that_runs_nothing() {
        let (url, accepted) = server(Arc::default()).await;
        let connections = Connections::new(&sdk(&url).await, 1);
        let leased: Vec<Leased> = (0..10).map(|_| connections.lease_at(1000)).collect();
        futures::future::join_all(leased.iter().map(|leased| leased.open("hbee"))).await;
        assert_eq!((connections.open(), accepted.load(Ordering::SeqCst)), (vec![10], 1));
    }
}
