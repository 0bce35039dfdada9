//! The MCP door on standard input and output, for a client that starts the program itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use buzz_engine::Engine;
use buzz_protocol::{CatalogEntry, Options, QueryError, Result};
use rmcp::service::{ServerInitializeError, serve_server};
use rmcp::transport::stdio_pipes;

use super::McpDoor;
use crate::desk::{Bounds, Desk};
use crate::names::Names;
use crate::{RegistrySettings, STOP_WITHIN};

/// Interval at which the end of cancelled queries is checked.
const STOPPED_CHECK: Duration = Duration::from_millis(20);

/// Maximum number of characters of an error of the protocol.
const ERROR_CHARACTERS_MAX: usize = 500;

/// Settings of a server on standard input and output.
#[derive(Debug)]
pub struct McpSettings {
    /// The server's own tables and views.
    pub tables: Vec<CatalogEntry>,
    /// The registry of further names, if any.
    pub registry: Option<RegistrySettings>,
    /// Folder of the tables' relative places.
    pub base: PathBuf,
    /// Options of all queries.
    pub options: Options,
    /// Bounds of running and waiting queries.
    pub bounds: Bounds,
}

/// Serves one client on standard input and output, until it closes them or `stop` ends. Then cancels its queries, and waits up to
/// ten seconds for their end.
///
/// # Errors
/// `Invalid` if a table cannot be used or the client does not follow the protocol.
pub async fn serve_stdio(engine: Arc<dyn Engine>, settings: McpSettings, stop: impl Future<Output = ()>) -> Result<()> {
    let names = Names::new(Arc::clone(&engine), settings.base, settings.tables, settings.registry)?;
    let desk = Arc::new(Desk::new(engine, names, settings.options, settings.bounds));
    let served = tokio::select! {
        served = serve(McpDoor { desk: Arc::clone(&desk) }) => served,
        () = stop => Ok(()),
    };
    desk.stopping.cancel();
    let released = async {
        while desk.queue_counts().0 > 0 {
            tokio::time::sleep(STOPPED_CHECK).await;
        }
    };
    if tokio::time::timeout(STOP_WITHIN, released).await.is_err() {
        tracing::warn!("queries did not end after they were cancelled");
    }
    served
}

async fn serve(door: McpDoor) -> Result<()> {
    let running = match serve_server(door, stdio_pipes()).await {
        Ok(running) => running,
        // The client left before it asked.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => {
            // It may contain a message of the client, of any length.
            let error: String = error.to_string().chars().take(ERROR_CHARACTERS_MAX).collect();
            let message = format!("standard input does not follow the Model Context Protocol: {error}");
            return Err(QueryError::invalid(message));
        }
    };
    let ended = running.waiting().await;
    ended.map(drop).map_err(|error| QueryError::internal(format!("the server ended: {error}")))
}
