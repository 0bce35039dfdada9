//! The settings of a server, and the files that they are read from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use buzz_protocol::{CatalogEntry, Options, QueryError, Result};
use buzz_streamd::Jobs;

use crate::{Bounds, HistoryFile, Keys, RegistrySettings, StreamsSettings};

/// The settings of a server.
#[derive(Debug)]
pub struct Settings {
    /// The server's own tables and views.
    pub tables: Vec<CatalogEntry>,
    /// The registry of further names, if any.
    pub registry: Option<RegistrySettings>,
    /// Folder of the tables' relative places.
    pub base: PathBuf,
    /// Options of queries that set none.
    pub options: Options,
    /// Bounds of running and waiting queries.
    pub bounds: Bounds,
    /// Address of HTTP and Flight SQL.
    pub listen: SocketAddr,
    /// Address of PostgreSQL's protocol.
    pub postgres: SocketAddr,
    /// Certificate and key. Required if an address is not loopback.
    pub tls: Option<Tls>,
    /// Names under which HTTP clients may reach the server, apart from its addresses.
    pub hosts: Vec<String>,
    /// The accepted keys.
    pub keys: Keys,
    /// The place of streams, if clients may push rows.
    pub streams: Option<StreamsSettings>,
    /// The pipelines that the server runs, if any.
    pub pipelines: Option<Pipelines>,
    /// The file in which ended queries are kept for the next server, if any.
    pub history: Option<HistoryFile>,
}

/// The pipelines of a server.
#[derive(Debug, Clone)]
pub struct Pipelines {
    /// The jobs. The server stops them when it ends.
    pub jobs: Jobs,
    /// Clients may create, change and delete pipelines, and so read and write every file that the server can.
    pub can_change: bool,
}

/// Files of a certificate and its private key, both in PEM format.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate, followed by those that signed it.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Reads `file`: a JSON object with the key of each user.
///
/// # Errors
/// `Invalid` if the file cannot be read or a key cannot be used.
pub fn read_keys(file: &Path) -> Result<Keys> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| QueryError::invalid(format!("file of keys `{}`: {error}", file.display())))?;
    let users: Result<BTreeMap<String, String>, _> = serde_json::from_str(&text);
    // The text of the error could contain a key; its place cannot.
    let users = users.map_err(|error| {
        QueryError::invalid(format!(
            "file of keys `{}`: line {}, column {} is not valid; write {{\"name\": \"key\"}}",
            file.display(),
            error.line(),
            error.column()
        ))
    })?;
    Keys::of_users(users)
}
