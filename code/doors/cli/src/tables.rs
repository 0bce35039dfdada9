//! Tables of the option `--table`: makes catalog entries of them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use buzz_protocol::{CatalogEntry, QueryError, Result};

/// Makes the catalog entry of `--table name=text`. A path that exists as it is written is taken literally, also with an
/// `@` or a `[`. What cannot be read twice, such as a pipe, is copied first.
///
/// # Errors
/// `Invalid` if a field of the entry is wrong, or a pipe cannot be copied.
pub(crate) fn entry(name: &str, text: &str) -> Result<CatalogEntry> {
    let entry = CatalogEntry::of_text(name, text, |uri| !uri.contains("://") && Path::new(uri).exists())?;
    if entry.uri.contains("://") || is_readable_twice(Path::new(&entry.uri)) {
        return Ok(entry);
    }
    let uri = copied(Path::new(&entry.uri)).map_err(|error| {
        QueryError::invalid(format!(
            "table `{name}`: `{}` cannot be read: {error}; write it to a file first",
            entry.uri
        ))
    })?;
    Ok(CatalogEntry { uri, ..entry })
}

/// Makes the entry of `name=text` for a registry of names.
///
/// # Errors
/// `Invalid` if a field of the entry is wrong, or the place cannot be read twice.
pub(crate) fn entry_of_registry(name: &str, text: &str) -> Result<CatalogEntry> {
    let entry = CatalogEntry::of_text(name, text, |uri| !uri.contains("://") && Path::new(uri).exists())?;
    if entry.uri.contains("://") || is_readable_twice(Path::new(&entry.uri)) {
        return Ok(entry);
    }
    Err(QueryError::invalid(format!(
        "table `{name}`: `{}` is a pipe or a device, which cannot be read again later; write it to a file first",
        entry.uri
    )))
}

/// Returns whether `path` is not a pipe, a terminal, or another thing without a size.
fn is_readable_twice(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file() || found.is_dir())
}

/// Copies what `path` gives to a file without a name, which disappears with the process. Returns its path.
fn copied(path: &Path) -> io::Result<String> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut File::open(path)?, &mut file)?;
    let place = open_file(&file)?;
    // The file stays open until the process ends.
    std::mem::forget(file);
    Ok(place)
}

#[cfg(target_os = "linux")]
fn open_file(file: &File) -> io::Result<String> {
    use std::os::fd::AsRawFd;
    Ok(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
fn open_file(_: &File) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "pipes are read on Linux only"))
}

/// Resolves the path of an entry against the working directory, if it exists there. Otherwise returns the entry unchanged.
pub(crate) fn from_working_directory(entry: CatalogEntry) -> CatalogEntry {
    let uri = &entry.uri;
    if uri.contains("://") {
        return entry;
    }
    // For a glob, checks the folder before the first special character.
    let plain = uri.find(['*', '?', '[']).map(|at| uri[..at].rsplit_once('/').map_or(".", |(folder, _)| folder));
    // No folder has the name of a materialized view, but its pipeline has one.
    let views = Path::new(uri).parent().filter(|folder| folder.ends_with("views"));
    let pipeline = views.and_then(Path::parent);
    let exists = Path::new(uri).exists()
        || plain.is_some_and(|folder| Path::new(folder).exists())
        || pipeline.is_some_and(Path::exists);
    match std::path::absolute(uri) {
        Ok(absolute) if exists => CatalogEntry { uri: absolute.display().to_string(), ..entry },
        _ => entry,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn path_with_an_at_sign_is_taken_literally_if_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(path("snap@v2")).unwrap();
        let literal = entry("t", &path("snap@v2")).unwrap();
        assert_eq!((literal.uri, literal.version), (path("snap@v2"), None));
        assert_eq!(entry("t", &path("snap@v3")).unwrap().version, Some(3));
        assert_eq!(entry("t", "s3://b/t@v2").unwrap().version, Some(2));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pipe_is_copied_to_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                fs::OpenOptions::new().write(true).open(pipe).unwrap().write_all(b"a\n1\n").unwrap()
            })
        };
        let entry = entry("t", pipe.to_str().unwrap()).unwrap();
        writer.join().unwrap();
        assert_eq!(fs::read_to_string(&entry.uri).unwrap(), "a\n1\n");
    }
}
