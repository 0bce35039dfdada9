//! The statements of earlier sessions, in a file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Maximum number of statements that are kept.
const ENTRIES_MAX: usize = 5000;

/// Statements, the newest last. Each is appended to the file at once, so that several shells can share it.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: Vec<String>,
    file: Option<File>,
}

impl History {
    /// Reads the history at `path`. Without a path, or if the file cannot be written, statements are kept for this session
    /// only.
    pub(crate) fn open(path: Option<&Path>) -> Self {
        let Some(path) = path else { return Self::default() };
        let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let mut entries: Vec<String> = text.lines().map(unescaped).collect();
        if entries.len() > ENTRIES_MAX * 2 {
            entries.drain(..entries.len() - ENTRIES_MAX);
            let text: String = entries.iter().map(|entry| escaped(entry)).collect();
            // A history that cannot be shortened stays long.
            _ = replace(path, &text);
        }
        Self { entries, file: opened(path) }
    }

    /// Adds a statement, unless it is the last one.
    pub(crate) fn add(&mut self, entry: &str) {
        if entry.trim().is_empty() || self.entries.last().is_some_and(|last| last == entry) {
            return;
        }
        if let Some(file) = &mut self.file
            && file.write_all(escaped(entry).as_bytes()).is_err()
        {
            self.file = None;
        }
        self.entries.push(entry.to_string());
    }

    /// Returns the number of statements.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the statement at `index`.
    pub(super) fn get(&self, index: usize) -> Option<&str> {
        self.entries.get(index).map(String::as_str)
    }

    /// Returns the index of the newest statement before `before` that contains `text`.
    pub(super) fn search(&self, text: &str, before: usize) -> Option<usize> {
        self.entries[..before.min(self.entries.len())].iter().rposition(|entry| entry.contains(text))
    }
}

/// Returns the place of the history: `BUZZ_HISTORY`, or `buzz/history` in the folder for the state of programs. None if
/// `BUZZ_HISTORY` is empty or there is no home.
pub(crate) fn place() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name);
    if let Some(path) = set("BUZZ_HISTORY") {
        return (!path.is_empty()).then(|| path.into());
    }
    // A relative path is ignored, as the XDG base directory specification requires.
    let state = set("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/state")))?;
    Some(state.join("buzz/history"))
}

fn opened(path: &Path) -> Option<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).ok()?;
    }
    let mut options = OpenOptions::new();
    // Statements may have secrets.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.append(true).create(true).open(path).ok()
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Returns an entry as one line of the file.
fn escaped(entry: &str) -> String {
    format!("{}\n", entry.replace('\\', "\\\\").replace('\n', "\\n"))
}

fn unescaped(line: &str) -> String {
    let mut text = String::new();
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_several_lines_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/buzz/history");
        let mut history = History::open(Some(&path));
        let entries = ["SELECT 1;", "SELECT '\\n'\n  FROM t;"];
        for entry in entries {
            history.add(entry);
            history.add(entry);
        }
        history.add("  ");
        let read = History::open(Some(&path));
        assert_eq!(read.entries, entries);
        assert_eq!((read.search("FROM", 2), read.search("FROM", 1), read.search("", 1)), (Some(1), None, Some(0)));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn unwritable_history_is_kept_for_the_session() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(Some(folder.path()));
        history.add("SELECT 1;");
        assert_eq!((history.get(0), history.file.is_none()), (Some("SELECT 1;"), true));
    }
}
