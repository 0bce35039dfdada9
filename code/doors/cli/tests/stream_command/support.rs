//! Folders, runs of the command, and rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use serde_json::Value;

pub(crate) type Result<T = ()> = std::result::Result<T, Failed>;

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Returns the files that a sink has written, without its hidden folder of files that are not complete.
    pub(crate) fn files(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.path(name))? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                files.push(entry.path());
            }
        }
        Ok(files)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

pub(crate) fn buzz(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buzz"));
    command.arg("stream").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let (id, (done, ended)) = (child.id().to_string(), mpsc::channel::<()>());
    // A command that waits for ever fails its test, and not all tests.
    thread::spawn(move || {
        if ended.recv_timeout(COMMAND_MAX) == Err(RecvTimeoutError::Timeout) {
            _ = Command::new("kill").args(["-9", &id]).status();
        }
    });
    let output = child.wait_with_output()?;
    drop(done);
    Ok(output)
}

/// Maximum time of a command.
const COMMAND_MAX: Duration = Duration::from_secs(300);

/// Runs `buzz stream` and returns what it prints.
pub(crate) fn succeeds(arguments: &[&str]) -> Result<String> {
    let output = buzz(arguments)?;
    if !output.status.success() {
        return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn fails(arguments: &[&str]) -> Result<String> {
    let output = buzz(arguments)?;
    if output.status.success() {
        return Err(format!("{arguments:?} succeeds").into());
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A row as JSON with its keys in order, without nulls. Times have no zone and no trailing zeros.
pub(crate) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), normal(value))).collect())
        }
        Value::String(text) if text.len() >= 19 && text.as_bytes()[10] == b'T' => {
            let text = text.trim_end_matches('Z').trim_end_matches("+00:00");
            let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
            Value::String(text.to_string())
        }
        other => other.clone(),
    }
}

/// The rows of a file of JSON lines, sorted.
pub(crate) fn rows(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let mut rows =
        lines.map(|line| Ok(normal(&serde_json::from_str(line)?).to_string())).collect::<Result<Vec<String>>>()?;
    rows.sort();
    Ok(rows)
}

pub(crate) fn same(name: &str, expected: &[String], found: &[String]) -> Result {
    if expected == found {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).take(3).collect();
    let extra: Vec<_> = found.iter().filter(|row| !expected.contains(row)).take(3).collect();
    Err(format!("{name}: {} rows instead of {}\nmissing {missing:#?}\nextra {extra:#?}", found.len(), expected.len())
        .into())
}
