//! Binds the ports, bounds their connections, and stops them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use buzz_protocol::{QueryError, Result};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::task::TaskTracker;

use crate::desk::Desk;
use crate::flight::FlightDoor;
use crate::http::guard::Guard;
use crate::http::submitted::Submitted;
use crate::pg_catalog::Catalog;
use crate::postgres::Connections;
use crate::streams::Streams;
use crate::{Keys, Pipelines, STOP_WITHIN, Settings, Tls, http, postgres};

/// Maximum number of connections to one port.
const CONNECTIONS_MAX: usize = 1000;

/// Maximum time of a TLS handshake, and of sending the head of an HTTP request.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Time without data after which the system checks if a client is still reachable.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

/// Interval at which answers are removed that were not fetched.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// Time to wait after the system refused a connection, such as without free file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A server whose ports are bound.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    http: TcpListener,
    postgres: TcpListener,
}

/// Parts that all connections share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) desk: Arc<Desk>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) flight: FlightDoor,
    pub(crate) submitted: Arc<Submitted>,
    pub(crate) pipelines: Option<Pipelines>,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) tracker: TaskTracker,
    pub(crate) streams: Option<Arc<Streams>>,
    guard: Arc<Guard>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// The end of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every connection ended.
    Completely,
    /// Some connections were closed before they ended.
    InPart,
}

/// Binds the ports of `settings`.
///
/// # Errors
/// `Invalid` if an address is not loopback and there is no certificate, if an address cannot be bound, or if the certificate
/// cannot be used.
pub(crate) async fn bind(desk: Arc<Desk>, settings: Settings) -> Result<Server> {
    let tls = settings.tls.as_ref().map(acceptor).transpose()?;
    let http = listener(settings.listen, tls.is_some()).await?;
    let postgres = listener(settings.postgres, tls.is_some()).await?;
    let guard = Guard::new(local_address(&http)?, tls.is_some(), settings.hosts);
    let (catalog, keys) = (Arc::new(Catalog::new(Arc::clone(&desk))), Arc::new(settings.keys));
    let shared = Shared {
        flight: FlightDoor::new(Arc::clone(&desk), Arc::clone(&catalog), Arc::clone(&keys)),
        catalog,
        connections: Arc::default(),
        desk,
        keys,
        submitted: Arc::default(),
        pipelines: settings.pipelines,
        tls,
        tracker: TaskTracker::new(),
        streams: settings.streams.map(|streams| Arc::new(Streams::new(streams))),
        guard: Arc::new(guard),
    };
    Ok(Server { shared, http, postgres })
}

async fn listener(address: SocketAddr, has_tls: bool) -> Result<TcpListener> {
    if !address.ip().is_loopback() && !has_tls {
        return Err(QueryError::invalid(format!(
            "address {address} is reachable from other machines and there is no certificate; set --tls-certificate and \
             --tls-key, or listen on 127.0.0.1"
        )));
    }
    TcpListener::bind(address)
        .await
        .map_err(|error| QueryError::invalid(format!("address {address} cannot be listened on: {error}")))
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| QueryError::internal(format!("a listener has no address: {error}")))
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let wrong = |file: &std::path::Path, error: &dyn std::fmt::Display| {
        QueryError::invalid(format!("file `{}` of TLS cannot be used: {error}", file.display()))
    };
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&tls.certificate).and_then(Iterator::collect);
    let certificates = certificates.map_err(|error| wrong(&tls.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| wrong(&tls.key, &error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key));
    let mut config = config.map_err(|error| wrong(&tls.certificate, &error))?;
    // Clients of PostgreSQL 17 and later name their protocol too, and fail if the server has no name in common.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"postgresql".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Server {
    /// Returns the address of HTTP and Flight SQL.
    ///
    /// # Errors
    /// `Internal` if the listener has none.
    pub fn http_address(&self) -> Result<SocketAddr> {
        local_address(&self.http)
    }

    /// Returns the address of PostgreSQL's protocol.
    ///
    /// # Errors
    /// `Internal` if the listener has none.
    pub fn postgres_address(&self) -> Result<SocketAddr> {
        local_address(&self.postgres)
    }

    /// Returns true if connections are encrypted.
    pub fn has_tls(&self) -> bool {
        self.shared.tls.is_some()
    }

    /// Opens each table once. Returns a line for each that cannot be opened.
    pub async fn check_tables(&self) -> Vec<String> {
        let tables = self.shared.desk.names.tables().await;
        let broken = tables.iter().filter_map(|table| table.description.as_ref().err());
        broken.map(ToString::to_string).collect()
    }

    /// Serves until `stop` ends. Then it accepts no more connections, cancels the running queries, and waits up to ten
    /// seconds for the connections to end.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Stopped {
        let Self { shared, http, postgres } = self;
        let stopping = shared.desk.stopping.clone();
        let sql =
            accept(&postgres, &shared, |shared, stream, places| Box::pin(postgres::serve(shared, stream, places)));
        let serving = accept(&http, &shared, |shared, stream, places| {
            Box::pin(async move {
                // Without a place, there are too many connections, and this one is closed.
                if let Ok(_place) = places.try_acquire_owned() {
                    serve_http(shared, stream).await;
                }
            })
        });
        tokio::select! {
            () = serving => {}
            () = sql => {}
            () = expire(&shared.submitted) => {}
            () = stop => {}
        }
        stopping.cancel();
        shared.tracker.close();
        let pipelines = async {
            if let Some(pipelines) = &shared.pipelines {
                pipelines.jobs.stop(STOP_WITHIN).await;
            }
        };
        let connections = tokio::time::timeout(STOP_WITHIN, shared.tracker.wait());
        let (connections, ()) = tokio::join!(connections, pipelines);
        close_history(&shared.desk).await;
        match connections {
            Ok(()) => Stopped::Completely,
            Err(_) => Stopped::InPart,
        }
    }
}

/// Waits up to ten seconds until the ended queries are written. The thread does not hold up the end of the process.
async fn close_history(desk: &Arc<Desk>) {
    let (sender, closed) = oneshot::channel();
    let desk = Arc::clone(desk);
    std::thread::spawn(move || {
        desk.history.close();
        _ = sender.send(());
    });
    if tokio::time::timeout(STOP_WITHIN, closed).await.is_err() {
        tracing::warn!("the history may lack the last queries, because its disk does not answer");
    }
}

/// Removes answers that are not fetched.
async fn expire(submitted: &Submitted) {
    let mut tick = tokio::time::interval(EXPIRE_EVERY);
    loop {
        tick.tick().await;
        submitted.expire();
    }
}

type Serving = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Accepts connections for ever and serves each in a task of its own. `serve` gets the places for connections to the port.
async fn accept(listener: &TcpListener, shared: &Shared, serve: impl Fn(Shared, TcpStream, Arc<Semaphore>) -> Serving) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        prepare(&stream);
        shared.tracker.spawn(serve(shared.clone(), stream, Arc::clone(&places)));
    }
}

/// Sends small messages at once, and lets the system notice a client whose machine is unreachable.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_AFTER / 3);
    let set = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "a socket kept its settings");
    }
}

/// Serves one connection of HTTP/1.1 or HTTP/2.
async fn serve_http(shared: Shared, stream: TcpStream) {
    match &shared.tls {
        None => serve_requests(&shared, stream).await,
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => serve_requests(&shared, stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn serve_requests(shared: &Shared, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let router = http::router(shared, Arc::clone(&shared.guard));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_WITHIN).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(KEEPALIVE_AFTER)
        .keep_alive_timeout(HANDSHAKE_WITHIN);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.desk.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "an HTTP connection failed");
    }
}
