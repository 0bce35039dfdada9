//! HComb as a container: serves one comb until nobody asks it any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_exchange::{InboxLimits, Network, TcpNetwork};
use buzz_hcomb::{Comb, serve};
use buzz_protocol::{BUILD_ID, CombAddress, QueryError, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::environment::Variables;
use crate::process::{POOL_PERCENT, now_ms};

/// Share of a comb's memory in which its inboxes hold deliveries, those of all queries together. With the operators' share
/// that leaves the rest for what is decoded and sent.
const INBOX_PERCENT: u64 = 25;

/// Of the rest, the share of the operators.
const OPERATOR_PERCENT: u64 = POOL_PERCENT - INBOX_PERCENT;

/// Queries that a comb takes at the same time; the next one is refused and goes to another comb.
const QUERIES_MAX: usize = 8;

/// How often a comb looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long answers that are on their way may take when a comb stops.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// How long a comb may take to say that it is healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// What a comb is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CombSettings {
    /// Address to listen on; `[::]` serves IPv6 and IPv4.
    pub listen: String,
    /// Port to listen on.
    pub port: u16,
    /// Time without a query after which it stops.
    pub idle: Duration,
    /// Memory of the container, if it should not be found out.
    pub memory_mb: Option<u64>,
}

impl CombSettings {
    /// The settings in `get`, a look-up of variables.
    ///
    /// # Errors
    /// `Invalid`, naming every variable that is wrong.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut variables = Variables::new(&get);
        let memory_mb: u64 = variables.optional("BUZZ_COMB_MEMORY_MB", 0);
        let settings = Self {
            listen: variables.optional("BUZZ_COMB_LISTEN", "[::]".to_string()),
            port: variables.optional("BUZZ_COMB_PORT", 3333),
            idle: Duration::from_secs(variables.optional("BUZZ_COMB_IDLE_SECONDS", 300)),
            memory_mb: Some(memory_mb).filter(|memory| *memory > 0),
        };
        variables.checked(settings)
    }
}

/// Serves a comb until it has been idle for as long as `settings` say, or the service wants it to stop.
///
/// # Errors
/// `Unavailable` when the port cannot be had, `Internal` when there is no directory for temporary files.
pub async fn run(settings: &CombSettings) -> Result<()> {
    let memory_mb = settings.memory_mb.or_else(container_memory_mb).unwrap_or(4096);
    let memory = memory_mb << 20;
    let comb = Comb::new(Arc::new(TcpNetwork::default()), memory * OPERATOR_PERCENT / 100)?;
    comb.inboxes().limit(InboxLimits { memory_bytes: memory * INBOX_PERCENT / 100, queries: QUERIES_MAX });

    let place = format!("{}:{}", settings.listen, settings.port);
    let listener = TcpListener::bind(&place)
        .await
        .map_err(|error| QueryError::unavailable(format!("a comb cannot listen on {place}: {error}")))?;
    tracing::info!(place, memory_mb, idle_seconds = settings.idle.as_secs(), build = BUILD_ID, "serving");

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut served = tokio::spawn(serve(comb.clone(), listener, async move {
        _ = stopped.await;
    }));
    let terminated = terminated()?;
    tokio::select! {
        served = &mut served => return served.unwrap_or_else(|_| Err(QueryError::internal("a comb's server panicked"))),
        () = idle(&comb, settings.idle) => tracing::info!("no query for a while; stopping"),
        () = terminated => {
            tracing::info!("told to stop");
            comb.inboxes().refuse();
            comb.inboxes().stop(&QueryError::unavailable("this comb was told to stop"));
        }
    }
    _ = stop.send(());
    _ = tokio::time::timeout(LAST_ANSWERS, served).await;
    Ok(())
}

/// Waits until no query was open for `time`, and from then on takes none. Queries whose time is over are closed: whoever
/// opened them is gone.
async fn idle(comb: &Comb, time: Duration) {
    let mut busy_at = Instant::now();
    let mut closed_before = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY.min(time)).await;
        comb.inboxes().end_overdue(now_ms());
        let closed = comb.inboxes().closed_count();
        // One may have come and gone between two looks.
        if comb.inboxes().open_queries() > 0 || closed > closed_before {
            busy_at = Instant::now();
        }
        closed_before = closed;
        if busy_at.elapsed() >= time && comb.inboxes().refuse_if_idle() {
            return;
        }
    }
}

/// Waits for the service's wish to stop.
fn terminated() -> Result<impl Future<Output = ()>> {
    let failed = |error: std::io::Error| QueryError::internal(format!("signals cannot be heard: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Asks the comb on this machine whether it is healthy.
///
/// # Errors
/// `Unavailable` when it does not answer or is of another build.
pub async fn health(settings: &CombSettings) -> Result<()> {
    let host = match settings.listen.as_str() {
        "[::]" | "0.0.0.0" => "127.0.0.1",
        host => host,
    };
    let address = format!("http://{host}:{}", settings.port);
    let url = address.parse().map_err(|_| QueryError::invalid(format!("{address} is not an address")))?;
    let network = TcpNetwork::default();
    let build = tokio::time::timeout(HEALTH_TIMEOUT, network.build(&CombAddress(url))).await;
    match build.unwrap_or_else(|_| Err(QueryError::unavailable("it does not answer"))) {
        Ok(build) if build == BUILD_ID => Ok(()),
        Ok(build) => Err(QueryError::unavailable(format!("{address} is of build {build}, not {BUILD_ID}"))),
        Err(error) => Err(error.at(address)),
    }
}

/// Megabytes that this container has, as the kernel tells: its control group's bound, else the machine's memory.
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
