//! The file with the statements of earlier sessions. rustyline reads and writes it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use rustyline::history::{FileHistory, History};

/// Maximum number of statements that are kept.
pub(super) const ENTRIES_MAX: usize = 5000;

/// Longest statement that is kept, in bytes.
pub(super) const ENTRY_BYTES_MAX: usize = 64 << 10;

/// First line of the file. Without it, rustyline does not restore the ends of lines within a statement.
const HEADER: &[u8] = b"#V2\n";

/// Returns the place of the history: `BUZZ_HISTORY`, or `buzz/history` in the folder for the state of programs. None if
/// `BUZZ_HISTORY` is empty or there is no home.
pub(super) fn place() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name);
    if let Some(path) = set("BUZZ_HISTORY") {
        return (!path.is_empty()).then(|| path.into());
    }
    // A relative path is ignored, as the XDG base directory specification requires.
    let state = set("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/state")))?;
    Some(state.join("buzz/history"))
}

/// Reads the statements at `path`, or makes its folder. Returns false if nothing is to be stored there, because it is a device
/// such as `/dev/null`.
///
/// # Errors
/// If the file cannot be read or its folder cannot be made.
pub(super) fn load(path: &Path, history: &mut FileHistory) -> rustyline::Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            add_header(path)?;
            history.load(path)?;
        }
        Ok(found) if found.is_dir() => return Err(std::io::Error::from(ErrorKind::IsADirectory).into()),
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Adds the header to a file of an earlier version, whose lines are otherwise the same.
fn add_header(path: &Path) -> std::io::Result<()> {
    let mut start = Vec::new();
    File::open(path)?.take(HEADER.len() as u64).read_to_end(&mut start)?;
    if start.is_empty() || start == HEADER {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    // The file may be a link.
    let path = fs::canonicalize(path)?;
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(HEADER)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustyline::history::SearchDirection;

    use super::*;

    fn entries(history: &FileHistory) -> Vec<String> {
        history.iter().cloned().collect()
    }

    #[test]
    fn statements_of_several_lines_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/buzz/history");
        let mut history = FileHistory::new();
        assert!(load(&path, &mut history).unwrap());
        let statements = ["SELECT 1;", "SELECT '\\n'\n  FROM t;"];
        for statement in statements {
            assert!(history.add(statement).unwrap() && !history.add(statement).unwrap());
            history.append(&path).unwrap();
        }
        let mut read = FileHistory::new();
        assert!(load(&path, &mut read).unwrap());
        assert_eq!(entries(&read), statements);
        let found = read.search("FROM", 1, SearchDirection::Reverse).unwrap().unwrap();
        assert_eq!(found.idx, 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn file_of_an_earlier_version_is_read_and_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        fs::write(&path, b"SELECT\\n1;\nSELECT '\xff\\\\';\n").unwrap();
        for _ in 0..2 {
            let mut history = FileHistory::new();
            assert!(load(&path, &mut history).unwrap());
            assert_eq!(entries(&history), ["SELECT\n1;", "SELECT '\u{fffd}\\';"]);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn folder_is_an_error_and_device_stores_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let error = load(folder.path(), &mut FileHistory::new()).unwrap_err();
        assert_eq!(error.to_string(), "is a directory");
        assert!(!load(Path::new("/dev/null"), &mut FileHistory::new()).unwrap());
        let below = folder.path().join("file/history");
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(load(&below, &mut FileHistory::new()).is_err());
    }
}
