//! Connections to Lambda: as many as its calls need, and new ones after a pause.
//!
//! A client of the SDK has one HTTP/2 connection to a service, and Lambda accepts 128 requests on it at once; the next ones wait.
//! So there is a client for each 100 calls.

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use parking_lot::Mutex;

use crate::clients::PAUSE_MS;

/// Maximum number of calls over one connection at the same time.
pub(super) const CALLS_PER_CONNECTION: usize = 100;

/// The clients of one process.
#[derive(Debug)]
pub(super) struct Connections {
    sdk: SdkConfig,
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
}

/// A client for one call.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) client: Client,
    _call: Arc<()>,
}

impl Connections {
    /// Makes no connection yet. The first call over each opens it.
    pub(super) fn new(sdk: &SdkConfig) -> Self {
        Self { sdk: sdk.clone(), pool: Mutex::default() }
    }

    /// Returns a client for one call: the first with less than [`CALLS_PER_CONNECTION`], or a new one.
    pub(super) fn lease(&self) -> Leased {
        self.lease_at(buzz_protocol::now_ms())
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
        let connection = Connection { client: Client::new(&self.sdk), calls: Arc::new(()) };
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
        Leased { client: Client::clone(&self.client), _call: Arc::clone(&self.calls) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Connections {
        let sdk = SdkConfig::builder().behavior_version(aws_config::BehaviorVersion::latest());
        Connections::new(&sdk.region(aws_config::Region::new("us-east-2")).build())
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
}
