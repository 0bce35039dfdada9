//! One instance of a function: a process with its runtime API that runs one invocation at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures::FutureExt;
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::runtime_api::{Event, RESPONSE_BYTES_MAX, RuntimeApi, Said};
use super::versions::Version;
use super::{Fault, Outcome};
use crate::Account;
use crate::keys::{Keys, Session};
use crate::process::{Process, Program, Spawner, describe};

/// Duration of the init phase that does not count against the first invocation's timeout.
const INIT_MAX: Duration = Duration::from_secs(10);
/// Maximum time that a response is held back until the process requests its next event. Without it, the next request of
/// the same caller could find the warm instance busy.
const SETTLE: Duration = Duration::from_secs(1);
const MEMORY_INTERVAL: Duration = Duration::from_millis(100);
const LOG_TAIL_BYTES: u64 = 4096;
/// Lambda's limit of open descriptors.
const DESCRIPTORS: u64 = 1024;

/// An instance: a process that runs a function.
#[derive(Debug)]
pub(super) struct Instance {
    process: Process,
    api: RuntimeApi,
    version: Version,
    /// The keys of the process. The service does not renew them; it starts another process.
    session: Session,
    keys: Keys,
    /// Working directory and temporary files of the process; deleted with the instance.
    _folder: TempDir,
    log: PathBuf,
    started: Instant,
    /// Duration of the init phase, until it is reported.
    init: Option<Duration>,
    /// True while the process waits for an event.
    ready: bool,
    frozen: bool,
}

/// The process's response to an event, or an error as JSON.
enum Ending {
    Answer(Bytes),
    Error(Bytes),
}

impl Instance {
    /// Starts a process. Does not wait until it is ready.
    pub(super) async fn start(account: &Account, spawner: &Spawner, version: &Version) -> io::Result<Instance> {
        let function = &version.function;
        let api = RuntimeApi::serve(account.version_arn(&function.name, &version.name)).await?;
        let folder = tempfile::Builder::new().prefix("instance-").tempdir_in(&account.scratch)?;
        let logs = account.logs.join(&function.name);
        fs::create_dir_all(&logs)?;
        let id = Uuid::new_v4().simple().to_string();
        let log = logs.join(format!("{id}.log"));

        let session = account.keys.issue();
        let mut environment = account.environment(&session);
        let task_root = function.bootstrap.parent().map(|path| path.display().to_string()).unwrap_or_default();
        environment.extend(
            [
                ("AWS_LAMBDA_RUNTIME_API", api.address.clone()),
                ("AWS_LAMBDA_FUNCTION_NAME", function.name.clone()),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory_mb.to_string()),
                ("AWS_LAMBDA_FUNCTION_VERSION", version.name.clone()),
                ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_string()),
                ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", function.name)),
                ("AWS_LAMBDA_LOG_STREAM_NAME", id),
                ("LAMBDA_TASK_ROOT", task_root),
                ("_HANDLER", "bootstrap".to_string()),
                ("TMPDIR", folder.path().display().to_string()),
            ]
            .map(|(name, value)| (name.to_string(), value)),
        );
        environment.extend(function.environment.clone());
        let program = Program {
            path: function.bootstrap.clone(),
            environment,
            folder: folder.path().to_path_buf(),
            log: log.clone(),
            descriptors: DESCRIPTORS,
        };
        let process = spawner.start(program).await?;
        Ok(Instance {
            process,
            api,
            version: version.clone(),
            session,
            keys: account.keys.clone(),
            _folder: folder,
            log,
            started: Instant::now(),
            init: None,
            ready: false,
            frozen: false,
        })
    }

    /// Returns the version that the process runs.
    pub(super) fn version(&self) -> &Version {
        &self.version
    }

    /// Returns true if the keys of the process remain valid for an invocation of any duration.
    pub(super) fn has_valid_keys(&self) -> bool {
        self.keys.are_valid(&self.session, self.version.function.timeout)
    }

    /// Returns the local ports of the connections of the process.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.process.ports()
    }

    /// Runs one event and returns its outcome: a response, an error, a crash or a timeout.
    pub(super) async fn invoke(&mut self, payload: Bytes, fault: Option<&Fault>) -> Outcome {
        let request_id = Uuid::new_v4().to_string();
        let log_start = fs::metadata(&self.log).map(|log| log.len()).unwrap_or(0);
        self.write_log(&format!("START RequestId: {request_id} Version: {}\n", self.version.name));
        let cold = !self.ready;
        let initialized = self.initialize(&request_id).await;
        let started = Instant::now();
        let mut memory_max = self.process.memory_bytes();
        let ending = match initialized {
            Ok(()) => self.run(&request_id, payload, fault, &mut memory_max).await,
            Err(error) => Ending::Error(error),
        };
        if let Ending::Error(error) = &ending {
            self.write_log(&format!("{}\n", String::from_utf8_lossy(error)));
        }
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        let init = self.init.take().filter(|_| cold).map(|init| init.as_secs_f64() * 1e3);
        let init = init.map(|init| format!("\tInit Duration: {init:.2} ms")).unwrap_or_default();
        self.write_log(&format!(
            "END RequestId: {request_id}\nREPORT RequestId: {request_id}\tDuration: {milliseconds:.2} ms\t\
             Billed Duration: {} ms\tMemory Size: {} MB\tMax Memory Used: {} MB{init}\n",
            milliseconds.ceil(),
            self.version.function.memory_mb,
            memory_max.div_ceil(1 << 20),
        ));
        let log_tail = self.log_tail(log_start).unwrap_or_default();
        match ending {
            Ending::Answer(payload) => Outcome { payload, failed: false, log_tail },
            Ending::Error(payload) => Outcome { payload, failed: true, log_tail },
        }
    }

    /// Waits until the process requests its first event.
    async fn initialize(&mut self, request_id: &str) -> Result<(), Bytes> {
        if self.ready {
            return Ok(());
        }
        let patience = tokio::time::sleep(INIT_MAX + self.version.function.timeout);
        tokio::select! {
            biased;
            said = self.api.heard() => match said {
                Some(Said::Next) => {
                    self.init = Some(self.started.elapsed());
                    self.ready = true;
                    Ok(())
                }
                Some(Said::InitFailed(error)) => {
                    self.kill();
                    Err(error)
                }
                other => {
                    self.kill();
                    Err(error("Runtime.Unknown", &format!("RequestId: {request_id} Error: unexpected {other:?}")))
                }
            },
            status = self.process.ended() => Err(exit_error(request_id, &describe(status))),
            () = patience => {
                self.kill();
                Err(self.timed_out(request_id))
            }
        }
    }

    async fn run(&mut self, id: &str, payload: Bytes, fault: Option<&Fault>, memory_max: &mut u64) -> Ending {
        if let Some(Fault::Slow(delay)) = fault {
            tokio::time::sleep(*delay).await;
        }
        if std::mem::take(&mut self.frozen) {
            self.process.signal(libc::SIGCONT);
        }
        self.ready = false;
        let timeout = self.version.function.timeout;
        let deadline = crate::clock::now() + timeout;
        self.api.send(Event { request_id: id.to_string(), payload, deadline }).await;
        match fault {
            Some(Fault::DieAtStart) => self.process.signal(libc::SIGABRT),
            Some(Fault::Freeze) => self.process.signal(libc::SIGSTOP),
            Some(Fault::OutOfMemory) => self.kill(),
            _ => {}
        }
        let mut death = std::pin::pin!(death(fault).fuse());
        let mut patience = std::pin::pin!(tokio::time::sleep(timeout));
        let mut look = tokio::time::interval(MEMORY_INTERVAL);
        let memory_size = self.version.function.memory_mb << 20;
        loop {
            tokio::select! {
                biased;
                said = self.api.heard() => match said {
                    Some(Said::Answer(of, _)) if of == id && matches!(fault, Some(Fault::DieBeforeAnswer)) => {
                        self.process.signal(libc::SIGABRT);
                    }
                    Some(Said::Answer(of, answer)) if of == id => {
                        *memory_max = self.process.memory_bytes().max(*memory_max);
                        return Ending::Answer(match fault {
                            Some(Fault::Answer(other)) => Bytes::from(other.clone()),
                            _ => answer,
                        });
                    }
                    Some(Said::Failed(of, error)) if of == id => return Ending::Error(error),
                    Some(Said::TooLarge(of)) if of == id => {
                        let message = format!(
                            "Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes)."
                        );
                        return Ending::Error(error("Function.ResponseSizeTooLarge", &message));
                    }
                    Some(Said::Next) => self.ready = true,
                    // A response to an earlier event is dropped.
                    Some(_) => {}
                    None => return Ending::Error(exit_error(id, "the runtime API has ended")),
                },
                status = self.process.ended() => return Ending::Error(exit_error(id, &describe(status))),
                () = &mut patience => {
                    self.kill();
                    return Ending::Error(self.timed_out(id));
                }
                () = &mut death => self.process.signal(libc::SIGABRT),
                _ = look.tick() => {
                    *memory_max = self.process.memory_bytes().max(*memory_max);
                    if *memory_max > memory_size {
                        *memory_max = memory_size;
                        self.kill();
                    }
                }
            }
        }
    }

    /// Waits up to [`SETTLE`] for the process to request its next event, and freezes it as the service does: its
    /// background work stops until the next invocation. Returns false if the process has ended or is still busy.
    pub(super) async fn settle_shortly(&mut self) -> bool {
        self.lives() && tokio::time::timeout(SETTLE, self.settle()).await.unwrap_or(false)
    }

    /// Waits until the process requests its next event, and freezes it. Returns false if it ended instead.
    pub(super) async fn settle(&mut self) -> bool {
        while !self.ready {
            tokio::select! {
                biased;
                said = self.api.heard() => match said {
                    Some(Said::Next) => self.ready = true,
                    Some(_) => {}
                    None => return false,
                },
                _ = self.process.ended() => return false,
            }
        }
        self.process.signal(libc::SIGSTOP);
        self.frozen = true;
        true
    }

    /// Returns true while the process runs.
    pub(super) fn lives(&self) -> bool {
        self.process.exit_status().is_none()
    }

    fn kill(&self) {
        self.process.signal(libc::SIGKILL);
    }

    fn timed_out(&self, request_id: &str) -> Bytes {
        let seconds = self.version.function.timeout.as_secs_f64();
        let message = format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds");
        error("Sandbox.Timedout", &message)
    }

    /// Appends `text` to the log file, to which the process also writes.
    fn write_log(&self, text: &str) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        if let Err(error) = log.and_then(|mut log| log.write_all(text.as_bytes())) {
            tracing::warn!(%error, log = %self.log.display(), "cannot write the log");
        }
    }

    fn log_tail(&self, start: u64) -> io::Result<Vec<u8>> {
        let mut log = File::open(&self.log)?;
        let end = log.metadata()?.len();
        log.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut tail = Vec::new();
        log.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until the process must die of `fault`.
async fn death(fault: Option<&Fault>) {
    match fault {
        Some(Fault::DieAfter(time)) => tokio::time::sleep(*time).await,
        _ => std::future::pending().await,
    }
}

fn error(kind: &str, message: &str) -> Bytes {
    json!({"errorType": kind, "errorMessage": message}).to_string().into()
}

fn exit_error(request_id: &str, how: &str) -> Bytes {
    let what = match how {
        "exit status 0" => "Runtime exited without providing a reason".to_string(),
        how => format!("Runtime exited with error: {how}"),
    };
    error("Runtime.ExitError", &format!("RequestId: {request_id} Error: {what}"))
}
