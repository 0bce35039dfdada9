//! `buzz serve`: puts a server together and runs it until it is stopped.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use buzz_engine::Engine;
use buzz_protocol::{CatalogEntry, Options, QueryError, Result};
use buzz_serve::{Bounds, Keys, Pipelines, RegistrySettings, Server, Settings, Stopped, Tls, read_keys};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{StackArguments, assignment, table_uri};
use crate::terminal::{note, warn};
use crate::{kept, names, question};

/// Queries that run at the same time: in this process, where they share its memory, and on a stack.
pub(crate) const RUNNING_LOCAL: usize = 2;
pub(crate) const RUNNING_STACK: usize = 8;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8642);
const POSTGRES: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5642);

/// Arguments of `buzz serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Serve the table at this uri under a name; can be repeated. Hides a table of this name in the file of tables.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    tables: Vec<(String, String)>,

    /// File of names, which `buzz tables add` writes [default: buzz.json, if it exists].
    #[arg(long = "tables", value_name = "FILE")]
    tables_file: Option<PathBuf>,

    /// Address of HTTP and Arrow Flight SQL. Any other than a loopback address requires TLS.
    #[arg(long, value_name = "ADDRESS", default_value_t = LISTEN)]
    listen: SocketAddr,

    /// Address of PostgreSQL's protocol. Any other than a loopback address requires TLS.
    #[arg(long, value_name = "ADDRESS", default_value_t = POSTGRES)]
    postgres: SocketAddr,

    /// Number of queries that run at the same time [default: 2, or 8 on a stack].
    #[arg(long, value_name = "N")]
    running: Option<usize>,

    /// Number of queries that wait until another one ends; further ones are refused.
    #[arg(long, value_name = "N", default_value_t = 64)]
    waiting: usize,

    /// Let clients create and drop names with SQL, or not. A client that may can read every file and bucket that this
    /// process can [default: change on loopback addresses, otherwise read].
    #[arg(long, value_name = "POLICY", value_enum)]
    names: Option<NamesPolicy>,

    /// JSON file with the key of each user, such as {"ann": "KEY"}. Without it, BUZZ_KEY or a new key is for every user.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,

    /// PEM file with the certificate of TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,

    /// PEM file with the private key of TLS.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,

    /// Accept HTTP requests to this host name; can be repeated.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// Take rows of streams by HTTP and keep them in this folder or below this s3:// uri. Without it, none are taken.
    #[arg(long, value_name = "PLACE")]
    streams: Option<String>,

    /// Keep pipelines in this folder or s3:// uri, and run those that no other server runs. Clients may create and change
    /// them if they may change names (--names): a script can read and write every file and bucket that this process can.
    #[arg(long, value_name = "URI")]
    state: Option<String>,

    /// Keep the ended queries of the console's history in this file, without rows and parameters [default: one for the working
    /// directory, in the folder for the state of programs].
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Forget the history when the server stops.
    #[arg(long, conflicts_with = "history")]
    no_history: bool,

    /// Set an option of all queries, such as memory_bytes=2GiB; can be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    sets: Vec<String>,

    /// The stack that runs the queries, if any.
    #[command(flatten)]
    stack: StackArguments,
}

/// The rights of clients to names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NamesPolicy {
    /// Read them.
    Read,
    /// Create and drop them too.
    Change,
}

/// Runs the server until SIGINT or SIGTERM, and returns the exit code.
pub(crate) async fn carry_out(arguments: ServeArguments, threads: usize) -> ExitCode {
    match serve(arguments, threads).await {
        Ok(Stopped::Completely) => ExitCode::SUCCESS,
        Ok(Stopped::InPart) => {
            note("some connections were closed before they ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: ServeArguments, threads: usize) -> Result<Stopped> {
    let mut options = Options::default();
    for assignment in &arguments.sets {
        options.set(assignment)?;
    }
    let is_remote = arguments.stack.is_named();
    let file = arguments.tables_file.as_deref();
    let (engine, registry) = names::engine_and_names(&arguments.stack, file, &options, threads).await?;
    let (keys, new_key) = keys(&arguments)?;
    let running = arguments.running.unwrap_or(if is_remote { RUNNING_STACK } else { RUNNING_LOCAL });
    let base = question::working_directory()?;
    let tables = own_tables(&arguments.tables)?;
    let known = names::at_start(&arguments.stack, file, registry.as_ref()).await?;
    let names: BTreeSet<String> = tables.iter().chain(&known).map(|entry| entry.name.clone()).collect();
    let is_loopback = arguments.listen.ip().is_loopback() && arguments.postgres.ip().is_loopback();
    let can_change = arguments.names.map_or(is_loopback, |policy| policy == NamesPolicy::Change);
    let streams = match &arguments.streams {
        Some(place) => Some(crate::stream::streams(place).await?),
        None => None,
    };
    let tls = arguments.tls_certificate.zip(arguments.tls_key).map(|(certificate, key)| Tls { certificate, key });
    let pipelines = match &arguments.state {
        Some(uri) => Some(Pipelines { jobs: crate::stream::jobs(uri, threads).await?, can_change }),
        None => None,
    };
    let history = match arguments.no_history {
        true => None,
        false => kept::history(arguments.history.as_deref(), &base)?,
    };
    let settings = Settings {
        tables,
        registry: Some(RegistrySettings { registry, read_again_after: read_again_after(is_remote), can_change }),
        base,
        options,
        bounds: Bounds { running, waiting: arguments.waiting, answers: running + 16 },
        listen: arguments.listen,
        postgres: arguments.postgres,
        tls,
        hosts: arguments.hosts,
        keys,
        streams,
        pipelines,
        history,
    };
    let server = bound(engine, settings).await?;
    let stop = stopped()?;
    for broken in server.check_tables().await {
        warn(&broken);
    }
    note(&greeting(&server, &names, new_key.as_deref())?);
    let stop = async {
        stop.await;
        note("stopping …");
    };
    Ok(server.run(stop).await)
}

/// Makes the server. If its ports cannot be bound, other servers may run its pipelines at once.
async fn bound(engine: Arc<dyn Engine>, settings: Settings) -> Result<Server> {
    let jobs = settings.pipelines.as_ref().map(|pipelines| pipelines.jobs.clone());
    let bound = buzz_serve::bind(engine, settings).await;
    if let (Err(_), Some(jobs)) = (&bound, jobs) {
        jobs.stop(Duration::from_secs(10)).await;
    }
    bound
}

/// Returns the accepted keys, and the key if it was made now.
fn keys(arguments: &ServeArguments) -> Result<(Keys, Option<String>)> {
    if let Some(file) = &arguments.keys {
        return Ok((read_keys(file)?, None));
    }
    match std::env::var("BUZZ_KEY") {
        Ok(key) => Ok((Keys::one(&key)?, None)),
        Err(_) => {
            let key = Keys::fresh()?;
            Ok((Keys::one(&key)?, Some(key)))
        }
    }
}

/// Returns the time after which names are read again. Those of a stack cost a call.
pub(crate) fn read_again_after(is_remote: bool) -> Duration {
    Duration::from_secs(if is_remote { 30 } else { 1 })
}

/// Returns the tables of `--table`.
///
/// # Errors
/// `Invalid` if an entry is wrong.
pub(crate) fn own_tables(named: &[(String, String)]) -> Result<Vec<CatalogEntry>> {
    let mut entries: Vec<CatalogEntry> = Vec::new();
    for (name, text) in named {
        let entry = crate::tables::entry(name, text)?;
        entries.retain(|other| !other.name.eq_ignore_ascii_case(name));
        entries.push(entry);
    }
    Ok(entries)
}

/// Names at most ten of `names`.
fn listed(names: &BTreeSet<String>) -> String {
    let first: Vec<&str> = names.iter().take(10).map(String::as_str).collect();
    match names.len() {
        0 => "none".to_string(),
        1..=10 => first.join(", "),
        count => format!("{}, … ({count})", first.join(", ")),
    }
}

/// Returns a future that ends at SIGINT or SIGTERM, with the signal.
///
/// # Errors
/// `Internal` if the operating system refuses the handlers.
pub(crate) fn stopped() -> Result<impl Future<Output = SignalKind>> {
    let failed = |error: std::io::Error| QueryError::internal(format!("signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    })
}

/// Returns the lines that are printed when the server listens. The addresses come first, so that programs can read them.
fn greeting(server: &Server, names: &BTreeSet<String>, new_key: Option<&str>) -> Result<String> {
    let (http, postgres) = (server.http_address()?, server.postgres_address()?);
    let scheme = if server.has_tls() { "https" } else { "http" };
    let grpc = if server.has_tls() { "grpc+tls" } else { "grpc" };
    let sql = names.first().map_or_else(|| "SELECT 1".to_string(), |name| format!("SELECT COUNT(*) FROM {name}"));
    let key = match new_key {
        Some(key) => format!("key:        {key}"),
        None => "key:        as configured".to_string(),
    };
    let shown = new_key.unwrap_or("KEY");
    // The part after `#` stays in the browser.
    let link = new_key.map(|key| format!("#key={key}")).unwrap_or_default();
    Ok(format!(
        "HTTP:       {scheme}://{http}\n\
         PostgreSQL: {postgres}\n\
         {key}\n\
         console:    {scheme}://{http}/console/{link}\n\
         tables:     {}\n\
         \n\
         curl -H 'Authorization: Bearer {shown}' -H 'Content-Type: application/json' \\\n  \
           {scheme}://{http}/v1/query -d '{{\"sql\": \"{sql}\"}}'\n\
         PGPASSWORD={shown} psql -h {} -p {} -U ann buzz -c '{sql}'\n\
         python3 -c 'from adbc_driver_flightsql import dbapi; print(dbapi.connect(\"{grpc}://{http}\", \
         {{\"username\": \"ann\", \"password\": \"{shown}\"}}, autocommit=True).cursor().execute(\"{sql}\")\
         .fetch_arrow_table())'",
        listed(names),
        postgres.ip(),
        postgres.port(),
    ))
}
