//! The file in which the ended queries of a server are kept: one JSON object per line, the last that ended last. It has no rows, no
//! values of parameters and no attempts. One server at a time writes it, which a lock next to it ensures.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use buzz_protocol::{QueryError, QueryId, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ALL_MAX, OF_USER_MAX};

/// Bytes at the end of the file that are read.
const READ_BYTES_MAX: u64 = 32 << 20;

/// Lines of the file after which only the queries that are kept are left in it.
const LINES_MAX: usize = 2 * ALL_MAX;

/// Ended queries that wait to be written. Further ones are not written.
const WAITING_MAX: usize = 1_000;

/// The first bytes of each file.
const BEGIN: &[u8] = b"{\"id\":\"";

/// Permissions of the file: its statements may have values that only their owner may read.
const OWNER_ONLY: u32 = 0o600;

/// An ended query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    // Its place is the first: [`BEGIN`].
    pub(super) id: QueryId,
    pub(super) user: String,
    pub(super) sql: String,
    pub(super) started_ms: u64,
    pub(super) seconds: f64,
    /// The work of a query that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) summary: Option<Value>,
    /// The error of a query that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Value>,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
    #[serde(default)]
    pub(super) stages: Vec<Value>,
}

/// A file of ended queries that this process keeps.
#[derive(Debug)]
pub struct HistoryFile {
    log: Log,
    lines: Vec<Line>,
}

impl HistoryFile {
    /// Opens the file at `place`, which need not exist, and reads the queries in it. Until the server has ended, no other one can
    /// open it.
    ///
    /// # Errors
    /// `Invalid` if another process keeps it, if it is no history, or if it cannot be read or written.
    pub fn open(place: &Path) -> Result<Self> {
        let failed =
            |error: io::Error| QueryError::invalid(format!("history `{}` cannot be kept: {error}", place.display()));
        // A rename must not replace a link.
        let real = fs::canonicalize(place).unwrap_or_else(|_| place.to_path_buf());
        if let Some(folder) = real.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = locked(&real).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => QueryError::invalid(format!(
                "history `{}` is kept by another server; name another file with --history, or use --no-history",
                place.display()
            )),
            _ => failed(error),
        })?;
        let mut log = Log { place: real, lines: 0, is_torn: false, _lock: lock };
        let lines = match log.read() {
            Ok(lines) => lines,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        log.write_again(&lines).map_err(failed)?;
        Ok(Self { log, lines })
    }

    /// Returns the queries, in the order in which they began, and what writes further ones.
    pub(super) fn into_parts(self) -> Result<(Vec<Line>, Writer)> {
        let Self { log, mut lines } = self;
        lines.sort_by_key(|line| line.started_ms);
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("history".to_string()).spawn(move || log.keep(&receiver));
        let thread = thread.map_err(|error| QueryError::internal(format!("a thread cannot be started: {error}")))?;
        Ok((lines, Writer { sender, thread }))
    }
}

/// Returns the lock of the file at `place`, which the process holds until it is dropped.
fn locked(place: &Path) -> io::Result<File> {
    let mut name = OsString::from(place);
    name.push(".lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(name)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Writes ended queries in a thread, so that no query waits for a slow disk.
#[derive(Debug)]
pub(super) struct Writer {
    sender: SyncSender<Line>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Lets `line` be written.
    pub(super) fn add(&self, line: Line) {
        if self.sender.try_send(line).is_err() {
            tracing::debug!("an ended query is not written into the history, because the disk is slow");
        }
    }

    /// Waits until all queries are written.
    pub(super) fn close(self) {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::warn!("the thread of the history panicked");
        }
    }
}

/// The file and its lock.
#[derive(Debug)]
struct Log {
    place: PathBuf,
    /// Lines of the file.
    lines: usize,
    /// True if the last line may be incomplete.
    is_torn: bool,
    _lock: File,
}

impl Log {
    /// Writes the queries that `receiver` returns until there are no more.
    fn keep(mut self, receiver: &Receiver<Line>) {
        let mut fails = false;
        for line in receiver {
            match self.add(&line) {
                Ok(()) => fails = false,
                Err(error) if !fails => {
                    tracing::warn!(place = %self.place.display(), %error, "the history is not written");
                    fails = true;
                }
                Err(_) => {}
            }
        }
    }

    fn add(&mut self, line: &Line) -> io::Result<()> {
        if self.lines >= LINES_MAX {
            let kept = match self.read() {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                read => read?,
            };
            self.write_again(&kept)?;
        }
        // Opened each time: someone may have removed it.
        let mut file = OpenOptions::new().append(true).create(true).mode(OWNER_ONLY).open(&self.place)?;
        let mut bytes = if self.is_torn && file.metadata()?.len() > 0 { b"\n".to_vec() } else { Vec::new() };
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
        self.is_torn = true;
        file.write_all(&bytes)?;
        self.is_torn = false;
        self.lines += 1;
        Ok(())
    }

    /// Reads the queries that are kept. Lines that are incomplete are left out.
    fn read(&self) -> io::Result<Vec<Line>> {
        if !fs::metadata(&self.place)?.is_file() {
            return Err(io::Error::other("it is a folder or a device; name a file"));
        }
        let mut file = File::open(&self.place)?;
        let mut begin = Vec::new();
        (&mut file).take(BEGIN.len() as u64).read_to_end(&mut begin)?;
        if !BEGIN.starts_with(&begin) {
            return Err(io::Error::other("it has something else in it"));
        }
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(READ_BYTES_MAX)))?;
        let mut lines = Vec::new();
        for line in BufReader::new(file.take(READ_BYTES_MAX)).split(b'\n') {
            let line = line?;
            match serde_json::from_slice::<Line>(&line) {
                Ok(line) => lines.push(line),
                Err(_) if serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok() => {
                    return Err(io::Error::other("it has something else in it"));
                }
                // It is incomplete.
                Err(_) => {}
            }
        }
        Ok(bounded(lines))
    }

    /// Replaces the file, if there is one, by one with `lines`.
    fn write_again(&mut self, lines: &[Line]) -> io::Result<()> {
        self.lines = lines.len();
        if !self.place.exists() {
            return Ok(());
        }
        let folder = self.place.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        for line in lines {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")?;
        }
        file.as_file().sync_all()?;
        file.persist(&self.place)?;
        self.is_torn = false;
        Ok(())
    }
}

/// Returns the last of `lines`, as many as are kept of each user and of all.
fn bounded(lines: Vec<Line>) -> Vec<Line> {
    let mut of_users: HashMap<String, usize> = HashMap::new();
    let mut last: Vec<Line> = Vec::new();
    for line in lines.into_iter().rev() {
        let of_user = of_users.entry(line.user.clone()).or_default();
        *of_user += 1;
        if *of_user <= OF_USER_MAX && last.len() < ALL_MAX {
            last.push(line);
        }
    }
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn line(user: &str, number: u64) -> Line {
        Line {
            id: QueryId::fresh(),
            user: user.to_string(),
            sql: format!("SELECT\n'{number}'"),
            started_ms: number,
            seconds: 0.5,
            summary: Some(json!({"rows": number})),
            error: None,
            warnings: Vec::new(),
            stages: Vec::new(),
        }
    }

    /// Writes `lines` as a server does that starts, and returns the queries of the server before it.
    fn served(place: &Path, lines: &[Line]) -> Vec<Line> {
        let (before, writer) = HistoryFile::open(place).unwrap().into_parts().unwrap();
        lines.iter().for_each(|line| writer.add(line.clone()));
        writer.close();
        before
    }

    #[test]
    fn ended_queries_are_read_by_the_next_server() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a/b.ndjson");
        assert!(served(&place, &[]).is_empty());
        assert!(!place.exists(), "without queries there is no file");
        let lines = [line("ann", 2), line("bob", 1)];
        assert!(served(&place, &lines).is_empty());
        let mode = fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWNER_ONLY);
        // The line that a server wrote when it was killed.
        let mut file = OpenOptions::new().append(true).open(&place).unwrap();
        file.write_all(b"{\"id\":\"01a2").unwrap();
        let added = line("ann", 3);
        assert_eq!(served(&place, std::slice::from_ref(&added)), [lines[1].clone(), lines[0].clone()]);
        assert_eq!(served(&place, &[]), [lines[1].clone(), lines[0].clone(), added]);
    }

    #[test]
    fn file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = HistoryFile::open(&folder.path().join("h")).unwrap().log;
        for number in 0..LINES_MAX + 2 {
            log.add(&line("ann", number as u64)).unwrap();
        }
        assert_eq!(log.lines, OF_USER_MAX + 2);
        let text = fs::read_to_string(&log.place).unwrap();
        assert_eq!(text.lines().count(), OF_USER_MAX + 2);
        let last = (LINES_MAX + 1) as u64;
        assert_eq!(log.read().unwrap().last().unwrap().started_ms, last);
    }

    #[test]
    fn each_user_keeps_the_last() {
        let mut lines: Vec<Line> = (0..OF_USER_MAX as u64 + 5).map(|number| line("ann", number)).collect();
        lines.insert(0, line("bob", 0));
        let kept = bounded(lines);
        assert_eq!(kept.len(), OF_USER_MAX + 1);
        assert_eq!((kept[0].user.as_str(), kept[1].started_ms), ("bob", 5));
    }

    #[test]
    fn second_server_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("h");
        let first = HistoryFile::open(&place).unwrap();
        let error = HistoryFile::open(&place).unwrap_err().to_string();
        assert!(error.contains("is kept by another server; name another file with --history"), "{error}");
        drop(first);
        HistoryFile::open(&place).unwrap();
        let other = folder.path().join("buzz.json");
        fs::write(&other, "{\"catalogs\": []}").unwrap();
        let error = HistoryFile::open(&other).unwrap_err().to_string();
        assert!(error.contains("it has something else in it"), "{error}");
        assert_eq!(fs::read_to_string(&other).unwrap(), "{\"catalogs\": []}");
        let rows = folder.path().join("events.ndjson");
        fs::write(&rows, "{\"id\":\"a\",\"v\":1}\n").unwrap();
        let error = HistoryFile::open(&rows).unwrap_err().to_string();
        assert!(error.contains("it has something else in it"), "{error}");
        assert_eq!(fs::read_to_string(&rows).unwrap(), "{\"id\":\"a\",\"v\":1}\n");
        let error = HistoryFile::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it is a folder or a device; name a file"), "{error}");
    }
}
