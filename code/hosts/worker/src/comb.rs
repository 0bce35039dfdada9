//! HComb as a container: serves one comb until it has been idle for a set time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_exchange::{InboxLimits, Network, TcpNetwork};
use buzz_hcomb::{Comb, ComputeRuntime, serve};
use buzz_protocol::{BUILD_ID, CombAddress, QueryError, Result};
use buzz_storage::Location;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::certificate::{CERTIFICATE_VARIABLE, RecordedCertificate, fingerprint_file, recorded_fingerprint};
use crate::environment::Variables;
use crate::metrics;
use crate::process::POOL_PERCENT;

/// Percentage of a comb's memory that its inboxes may use for deliveries, across all queries. The memory that neither
/// inboxes nor operators use is left for batches that are decoded or sent.
const INBOX_PERCENT: u64 = 25;

/// Percentage of a comb's memory that operators may use.
const OPERATOR_PERCENT: u64 = POOL_PERCENT - INBOX_PERCENT;

/// Maximum number of queries that are open on a comb at the same time. Further queries are refused and go to another
/// comb.
const QUERIES_MAX: usize = 8;

/// Interval at which a comb checks whether it is idle.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Maximum time that a stopping comb waits for open responses.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Timeout of a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Settings of a comb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CombSettings {
    /// Address to listen on; `[::]` serves IPv6 and IPv4.
    pub listen: String,
    /// Port to listen on.
    pub port: u16,
    /// Time without a query after which the comb stops.
    pub idle: Duration,
    /// Memory of the container in MiB; detected if `None`.
    pub memory_mb: Option<u64>,
    /// Location of the object in which the comb records its certificate. Without one, it does not use TLS.
    pub certificate: Option<Location>,
}

impl CombSettings {
    /// Reads the settings from environment variables, which `get` returns by name.
    ///
    /// # Errors
    /// `Invalid`, naming every variable that is invalid.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut variables = Variables::new(&get);
        let memory_mb: u64 = variables.optional("BUZZ_COMB_MEMORY_MB", 0);
        let settings = Self {
            listen: variables.optional("BUZZ_COMB_LISTEN", "[::]".to_string()),
            port: variables.optional("BUZZ_COMB_PORT", 3333),
            idle: Duration::from_secs(variables.optional("BUZZ_COMB_IDLE_SECONDS", 300)),
            memory_mb: Some(memory_mb).filter(|memory| *memory > 0),
            certificate: variables.optional_location(CERTIFICATE_VARIABLE),
        };
        variables.checked(settings)
    }
}

/// Listens on the place of `settings`. Where the system has no IPv6, the place of all addresses is that of IPv4.
///
/// # Errors
/// `Unavailable` if the port cannot be bound.
async fn listener(settings: &CombSettings) -> Result<TcpListener> {
    let place = format!("{}:{}", settings.listen, settings.port);
    let bound = match TcpListener::bind(&place).await {
        Err(error) if settings.listen == "[::]" && is_missing_family(&error) => {
            tracing::warn!(%error, "the system has no IPv6; listening on IPv4 only");
            TcpListener::bind(("0.0.0.0", settings.port)).await
        }
        bound => bound,
    };
    bound.map_err(|error| QueryError::unavailable(format!("a comb cannot listen on {place}: {error}")))
}

/// Returns true if the system does not have the family of an address.
fn is_missing_family(error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == std::io::ErrorKind::AddrNotAvailable
}

/// Serves a comb until it has been idle for `settings.idle`, or the process receives SIGTERM or SIGINT.
///
/// # Errors
/// `Unavailable` if the port cannot be bound, `Internal` if there is no directory for temporary files; as
/// [`RecordedCertificate::fresh`] if it must use TLS.
pub async fn run(settings: &CombSettings) -> Result<()> {
    let memory_mb = settings.memory_mb.or_else(container_memory_mb).unwrap_or(4096);
    let memory = memory_mb << 20;
    let comb = Comb::new(Arc::new(TcpNetwork::default()), memory * OPERATOR_PERCENT / 100)?;
    comb.inboxes().tell_closed(metrics::of_comb);
    comb.inboxes().limit(InboxLimits { memory_bytes: memory * INBOX_PERCENT / 100, queries: QUERIES_MAX });

    let listener = listener(settings).await?;
    let place = listener.local_addr().map(|place| place.to_string()).unwrap_or_default();
    let recorded = match &settings.certificate {
        Some(place) => Some(RecordedCertificate::fresh(place, &fingerprint_file()).await?),
        None => None,
    };
    let certificate = recorded.as_ref().map(|recorded| recorded.certificate().clone());
    let tls = certificate.is_some();
    tracing::info!(place, memory_mb, idle_seconds = settings.idle.as_secs(), tls, build = BUILD_ID, "serving");

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let compute = ComputeRuntime::start(std::thread::available_parallelism().map_or(1, usize::from))?;
    let (served_comb, operators) = (comb.clone(), compute.handle().clone());
    let mut served = tokio::spawn(async move {
        let stopped = async { _ = stopped.await };
        serve(served_comb, listener, certificate.as_ref(), operators, stopped).await
    });
    let terminated = terminated()?;
    tokio::select! {
        served = &mut served => return served.unwrap_or_else(|_| Err(QueryError::internal("a comb's server panicked"))),
        () = idle(&comb, settings.idle) => tracing::info!("idle time reached; stopping"),
        () = terminated => {
            tracing::info!("received a stop signal");
            comb.inboxes().refuse();
            comb.inboxes().stop(&QueryError::unavailable("this comb is stopping"));
        }
    }
    _ = stop.send(());
    _ = tokio::time::timeout(LAST_ANSWERS, served).await;
    Ok(())
}

/// Waits until no query has been open for `time`, then refuses new queries. Queries past their deadline are closed,
/// because the Fuse that opened them is lost.
async fn idle(comb: &Comb, time: Duration) {
    let mut busy_at = Instant::now();
    let mut closed_before = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY.min(time)).await;
        comb.inboxes().end_overdue(buzz_protocol::now_ms());
        let closed = comb.inboxes().closed_count();
        // A query may have opened and closed between two checks.
        if comb.inboxes().open_queries() > 0 || closed > closed_before {
            busy_at = Instant::now();
        }
        closed_before = closed;
        if busy_at.elapsed() >= time && comb.inboxes().refuse_if_idle() {
            return;
        }
    }
}

/// Registers signal handlers and returns a future that resolves on SIGTERM or SIGINT.
fn terminated() -> Result<impl Future<Output = ()>> {
    let failed = |error: std::io::Error| QueryError::internal(format!("cannot listen for signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Runs a health check on the comb of this machine.
///
/// # Errors
/// `Unavailable` if it does not respond or runs another build.
pub async fn health(settings: &CombSettings) -> Result<()> {
    let host = match settings.listen.as_str() {
        "[::]" | "0.0.0.0" => "127.0.0.1",
        host => host,
    };
    let address = format!("http://{host}:{}", settings.port);
    let url = address.parse().map_err(|_| QueryError::invalid(format!("`{address}` is not a valid address")))?;
    let comb = match &settings.certificate {
        Some(_) => recorded_fingerprint(&fingerprint_file())?.pinned(&CombAddress(url))?,
        None => CombAddress(url),
    };
    let network = TcpNetwork::default();
    let build = tokio::time::timeout(HEALTH_TIMEOUT, network.build(&comb)).await;
    match build.unwrap_or_else(|_| Err(QueryError::unavailable("the comb does not respond"))) {
        Ok(build) if build == BUILD_ID => Ok(()),
        Ok(build) => Err(QueryError::unavailable(format!("{address} runs build {build}; expected {BUILD_ID}"))),
        Err(error) => Err(error.at(address)),
    }
}

/// Returns the memory of this container in MiB: the limit of its control group, or the machine's memory if that is
/// less.
fn container_memory_mb() -> Option<u64> {
    let bound = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let bound: Option<u64> = bound.and_then(|text| text.trim().parse().ok());
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:").map(str::to_string))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes << 10)
    });
    bound.into_iter().chain(machine).min().map(|bytes| bytes >> 20)
}
