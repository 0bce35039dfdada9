//! The server: one process that answers SQL over HTTP, Arrow Flight SQL, PostgreSQL's protocol and the Model Context
//! Protocol, in front of any [`Engine`].
//!
//! ```text
//!  psql, psycopg, BI tools ─▶ postgres ─┐
//!  ADBC, JDBC, polars      ─▶ flight   ─┼─▶ desk ─▶ Engine
//!  curl, scripts           ─▶ http     ─┤    │
//!  MCP clients             ─▶ mcp      ─┘ names, queue, planner
//! ```
//!
//! Each door turns a request into a `desk::Request` and the answer's rows into its protocol. The `desk` resolves the
//! tables' `names`, waits in the `queue`, notes it in the `history`, and cancels a query whose client goes away. `planner`
//! finds the columns and parameters of a statement before it runs. `keys` decides who may ask, `listen` binds the ports.

mod codes;
mod desk;
mod flight;
mod history;
mod http;
mod kept;
mod keys;
mod listen;
mod mcp;
mod names;
mod pg_catalog;
mod planner;
mod postgres;
mod queue;
mod scan;
mod settings;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use buzz_engine::Engine;
use buzz_protocol::Result;

pub use desk::Bounds;
pub use history::HistoryFile;
pub use keys::Keys;
pub use listen::{Server, Stopped};
pub use mcp::{McpSettings, serve_stdio};
pub use names::RegistrySettings;
pub use settings::{Pipelines, Settings, Tls, read_keys};
pub use streams::StreamsSettings;

use crate::desk::Desk;
use crate::history::History;
use crate::names::Names;

/// Maximum time for connections to end after the server was stopped.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Binds the ports of `settings` and makes the server.
///
/// # Errors
/// `Invalid` if a table, an address or the certificate cannot be used.
pub async fn bind(engine: Arc<dyn Engine>, mut settings: Settings) -> Result<Server> {
    let (tables, registry) = (settings.tables.clone(), settings.registry.clone());
    let names = Names::new(Arc::clone(&engine), settings.base.clone(), tables, registry)?;
    let mut desk = Desk::new(engine, names, settings.options.clone(), settings.bounds);
    if let Some(file) = settings.history.take() {
        desk.history = History::kept_in(file)?;
    }
    let desk = Arc::new(desk);
    listen::bind(desk, settings).await
}
