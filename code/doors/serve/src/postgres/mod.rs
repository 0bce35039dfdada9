//! The PostgreSQL door: version 3 of the protocol, for psql, drivers and BI tools.
//!
//! Messages and the login are those of the crate `pgwire`. `frame` checks a message before it is decoded, `wire` reads and
//! writes them, [`connection`] serves one connection from its first byte to its last. `statement` and `copy` find the kinds of
//! statements, `session` has the settings, `params` and `arrays` the values of parameters, `casts` their types, `cursor` the rows that are sent by `rows`.
//! `types`, `value` (with its text and binary forms) and `json` decide how each Arrow type is sent.

mod arrays;
mod casts;
mod connection;
mod copy;
pub(crate) mod cursor;
pub(crate) mod error;
mod frame;
mod json;
mod params;
mod rows;
pub(crate) mod session;
mod statement;
mod templates;
pub(crate) mod types;
mod value;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use buzz_protocol::Result;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) use connection::serve;

use crate::keys::random;

/// Maximum number of connections that have not logged in yet. The next one displaces the oldest, so that clients that send
/// nothing do not keep others out.
const LOGINS_MAX: usize = 500;

/// The open connections, for requests to cancel their queries.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<i32, (i32, Arc<Current>)>>,
    last: AtomicI32,
    /// Connections before the end of their login, the oldest first.
    logins: Mutex<VecDeque<(u64, CancellationToken)>>,
    last_login: AtomicU64,
}

/// A connection before the end of its login. Dropping it removes it.
#[derive(Debug)]
struct Login {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Login {
    fn drop(&mut self) {
        self.connections.logins.lock().retain(|(number, _)| *number != self.number);
    }
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
    /// Adds a connection that begins its login. Returns it and a token that is cancelled if too many others begin later.
    fn enter(self: &Arc<Self>) -> (Login, CancellationToken) {
        let number = self.last_login.fetch_add(1, Ordering::Relaxed);
        let displaced = CancellationToken::new();
        let mut logins = self.logins.lock();
        if logins.len() >= LOGINS_MAX
            && let Some((_, oldest)) = logins.pop_front()
        {
            oldest.cancel();
        }
        logins.push_back((number, displaced.clone()));
        (Login { connections: Arc::clone(self), number }, displaced)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_logins_displace_the_oldest() {
        let connections = Arc::new(Connections::default());
        let mut logins: Vec<_> = (0..LOGINS_MAX).map(|_| connections.enter()).collect();
        let first = logins.remove(0);
        assert!(!first.1.is_cancelled());
        // A login that ends makes room.
        drop(logins.remove(0));
        let _next = connections.enter();
        assert!(!first.1.is_cancelled());
        let _last = connections.enter();
        assert!(first.1.is_cancelled() && !logins[0].1.is_cancelled());
        drop((first, logins));
        assert_eq!(connections.logins.lock().len(), 2);
    }
}
