//! Runs real programs as child processes that never outlive the local cloud.
//!
//! The kernel kills a child when the *thread* that started it ends. Therefore one thread starts all children and lives
//! as long as its [`Spawner`]. Children also end if the local cloud itself is killed. The only unsafe code of the crate
//! is in this module.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

/// A program to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Path of the executable.
    pub(crate) path: PathBuf,
    /// The complete environment; nothing is inherited.
    pub(crate) environment: BTreeMap<String, String>,
    /// Working directory.
    pub(crate) folder: PathBuf,
    /// File to which standard output and standard error are appended.
    pub(crate) log: PathBuf,
    /// Maximum number of open descriptors, capped by the local cloud's own limit.
    pub(crate) descriptors: u64,
}

/// A running or ended process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: i32,
    status: watch::Receiver<Option<ExitStatus>>,
}

type Order = (Program, oneshot::Sender<io::Result<Process>>);

/// Maximum time that [`Spawner::stop`] waits for killed processes.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Starts processes. When the last clone is dropped, every process that it started is killed.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    orders: mpsc::Sender<Order>,
    started: Arc<Mutex<Started>>,
}

#[derive(Debug, Default)]
struct Started {
    processes: Vec<Process>,
    closed: bool,
}

impl Spawner {
    /// Creates a spawner in the current Tokio runtime.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn new() -> io::Result<Spawner> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".to_string()).spawn(move || {
            let _entered = runtime.enter();
            while let Ok((program, answer)) = inbox.recv() {
                // The caller no longer waits for the process; it ends when its handle is dropped.
                let _unheard = answer.send(start(&program));
            }
        })?;
        Ok(Spawner { orders, started: Arc::default() })
    }

    /// Starts `program` in its own process group.
    ///
    /// # Errors
    /// When the program cannot be started; the message contains its path.
    pub(crate) async fn start(&self, program: Program) -> io::Result<Process> {
        let path = program.path.display().to_string();
        let (answer, started) = oneshot::channel();
        self.orders.send((program, answer)).map_err(|_| io::Error::other("the spawner has ended"))?;
        let process = started.await.map_err(|_| io::Error::other("the spawner has ended"))?;
        let process = process.map_err(|error| io::Error::new(error.kind(), format!("cannot start {path}: {error}")))?;
        let mut started = self.started();
        if started.closed {
            process.signal(libc::SIGKILL);
        }
        started.processes.retain(|process| process.exit_status().is_none());
        started.processes.push(process.clone());
        Ok(process)
    }

    /// Kills every process that this spawner started. Processes started later are killed immediately.
    pub(crate) fn kill_all(&self) {
        let mut started = self.started();
        started.closed = true;
        for process in &started.processes {
            process.signal(libc::SIGKILL);
        }
    }

    /// Kills every process and waits until they have ended.
    pub(crate) async fn stop(&self) {
        self.kill_all();
        let processes = std::mem::take(&mut self.started().processes);
        let ends = processes.into_iter().map(|mut process| async move { process.ended().await });
        let _too_long = tokio::time::timeout(STOP_MAX, futures::future::join_all(ends)).await;
    }

    fn started(&self) -> MutexGuard<'_, Started> {
        self.started.lock()
    }
}

#[allow(unsafe_code, reason = "limits and the death signal are set between fork and exec")]
fn start(program: &Program) -> io::Result<Process> {
    let log = OpenOptions::new().create(true).append(true).open(&program.log)?;
    let mut command = std::process::Command::new(&program.path);
    command
        .env_clear()
        .envs(&program.environment)
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer refers to a local variable.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut own) };
    let descriptors = program.descriptors.min(own.rlim_max);
    let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
    let parent = std::process::id();
    // SAFETY: the closure makes only async-signal-safe calls, on values that were copied before the fork.
    unsafe {
        command.pre_exec(move || {
            let failed = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0
                || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0;
            if failed {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the signal was set.
            if libc::getppid().cast_unsigned() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
    let mut child = tokio::process::Command::from(command).spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| io::Error::other("it has no id"))?;
    let (ended, status) = watch::channel(None);
    tokio::spawn(async move {
        let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL));
        ended.send_replace(Some(status));
    });
    Ok(Process { pid, status })
}

impl Process {
    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = self.status.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.unwrap_or_else(|| ExitStatus::from_raw(libc::SIGKILL))
    }

    /// Returns the exit status, or `None` while the process runs.
    pub(crate) fn exit_status(&self) -> Option<ExitStatus> {
        *self.status.borrow()
    }

    /// Sends `signal` to the process and its children. Does nothing if the process has ended.
    #[allow(unsafe_code, reason = "the standard library can only send SIGKILL")]
    pub(crate) fn signal(&self, signal: i32) {
        if self.exit_status().is_none() {
            // SAFETY: a system call on integers. The process has its own group and has not been reaped yet.
            unsafe { libc::kill(-self.pid, signal) };
        }
    }

    /// Returns the local ports of the TCP connections of the process.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/net/{name}", self.pid)).unwrap_or_default();
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let links = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
        let own: HashSet<String> = links.filter_map(|link| inode(&link.to_string_lossy())).collect();
        ["tcp", "tcp6"].iter().flat_map(|name| ports(&read(name), &own)).collect()
    }

    /// Returns the private memory of the process in bytes, which counts against a function's memory size. Program code
    /// is not included, since the kernel can evict it and read it again.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kilobytes = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        (kilobytes("RssAnon") + kilobytes("RssShmem")) << 10
    }
}

/// Returns the inode of a descriptor's link, such as `socket:[4711]`, if it is a socket.
fn inode(link: &str) -> Option<String> {
    Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_string())
}

/// Returns the local ports of the sockets with the inodes `own` in `table`, which has the format of `/proc/net/tcp`.
fn ports(table: &str, own: &HashSet<String>) -> Vec<u16> {
    let port = |line: &str| {
        let mut fields = line.split_whitespace();
        let port = u16::from_str_radix(fields.nth(1)?.rsplit(':').next()?, 16).ok()?;
        own.contains(fields.nth(7)?).then_some(port)
    };
    table.lines().filter_map(port).collect()
}

/// Formats `status` as Go's runtime does, which Lambda uses: `exit status 1`, `signal: killed`.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(libc::SIGKILL)) => "signal: killed".to_string(),
        (None, Some(libc::SIGABRT)) => "signal: aborted".to_string(),
        (None, Some(libc::SIGSEGV)) => "signal: segmentation fault".to_string(),
        (None, Some(libc::SIGTERM)) => "signal: terminated".to_string(),
        (None, signal) => format!("signal: {}", signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_the_own_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0\n   \
                     1: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4\n";
        assert_eq!(inode("socket:[4712]").as_deref(), Some("4712"));
        assert_eq!((inode("pipe:[4712]"), inode("/dev/null")), (None, None));
        assert_eq!(ports(table, &["4712".to_string()].into()), [0xD431]);
        assert_eq!(ports(table, &HashSet::new()), [0_u16; 0]);
    }
}
