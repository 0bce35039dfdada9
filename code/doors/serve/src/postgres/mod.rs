//! The PostgreSQL door: version 3 of the protocol, for psql, drivers and BI tools.
//!
//! `wire` has the messages, `scram` the login, [`connection`] one connection from its first byte to its last. `statement`
//! and `copy` find the kinds of statements, `session` has the settings, `params` the values of parameters, `cursor` the rows
//! that are sent. `types`, `value` and `json` decide how each Arrow type is sent.

mod connection;
mod copy;
pub(crate) mod cursor;
pub(crate) mod error;
mod json;
mod params;
mod rows;
mod scram;
pub(crate) mod session;
mod statement;
pub(crate) mod types;
mod value;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use buzz_protocol::Result;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) use connection::serve;

use crate::keys::random;

/// The open connections, for requests to cancel their queries.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<i32, (i32, Arc<Current>)>>,
    last: AtomicI32,
}

/// The statement that a connection runs.
#[derive(Debug, Default)]
struct Current(Mutex<Option<CancellationToken>>);

/// An open connection. Dropping it removes it.
#[derive(Debug)]
struct Registered {
    connections: Arc<Connections>,
    process: i32,
    secret: i32,
    current: Arc<Current>,
}

impl Connections {
    fn register(self: &Arc<Self>) -> Result<Registered> {
        let (process, secret) =
            (self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1), i32::from_be_bytes(random()?));
        let current = Arc::new(Current::default());
        self.open.lock().insert(process, (secret, Arc::clone(&current)));
        Ok(Registered { connections: Arc::clone(self), process, secret, current })
    }

    /// Cancels the query of connection `process` if `secret` is right.
    fn cancel(&self, process: i32, secret: i32) {
        let open = self.open.lock();
        let current = open.get(&process).filter(|(known, _)| *known == secret);
        if let Some((_, current)) = current
            && let Some(token) = current.0.lock().as_ref()
        {
            token.cancel();
        }
    }
}

impl Registered {
    /// Begins a statement, which requests of the client cancel until its end.
    fn begin(&self) {
        *self.current.0.lock() = Some(CancellationToken::new());
    }

    /// Returns the token of the statement that runs, which is cancelled when the client requests it.
    fn token(&self) -> CancellationToken {
        self.current.0.lock().clone().unwrap_or_default()
    }

    /// Ends a statement, when its last row was written. Later requests do not reach it.
    fn end(&self) {
        *self.current.0.lock() = None;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.process);
    }
}
