//! Where the command's rows go.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use buzz_answer::format::{Format, WriteError, write};
use buzz_answer::rows::Rows;
use buzz_protocol::{QueryError, Result};
use tempfile::NamedTempFile;

use crate::ask::quiet_when_closed;

/// Where rows go: standard output, or a file that appears whole or not at all.
#[derive(Debug)]
pub struct Output {
    file: Option<(NamedTempFile, PathBuf)>,
}

impl Output {
    /// The file at `path`, or standard output. A place that cannot be written to is found out here, before anything
    /// runs.
    ///
    /// # Errors
    /// `Invalid` when the file cannot be made.
    pub fn open(path: Option<&Path>) -> Result<Output> {
        let Some(path) = path else {
            return Ok(Output { file: None });
        };
        let bad = |why: &dyn std::fmt::Display| {
            QueryError::invalid(format!("output `{}` is not writable: {why}", path.display()))
        };
        if path.is_dir() {
            return Err(bad(&"it is a folder"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".buzz-output-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(|error| bad(&error.error_or_self()))?;
        Ok(Output { file: Some((file, path.to_path_buf())) })
    }

    fn write(self, write: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>) -> Result<()> {
        let Some((file, path)) = self.file else {
            let mut out = BufWriter::new(io::stdout().lock());
            return match write(&mut out) {
                Ok(()) => quiet_when_closed(out.flush()),
                Err(WriteError::Io(error)) => quiet_when_closed(Err(error)),
                Err(WriteError::Rows(error)) => Err(error),
            };
        };
        let bad = |why: io::Error| QueryError::invalid(format!("output `{}` is not writable: {why}", path.display()));
        let mut out = BufWriter::new(file);
        match write(&mut out) {
            Ok(()) => {}
            Err(WriteError::Io(error)) => return Err(bad(error)),
            Err(WriteError::Rows(error)) => return Err(error),
        }
        let file = out.into_inner().map_err(|error| bad(error.into_error()))?;
        file.as_file().sync_all().map_err(bad)?;
        file.persist(&path).map(|_| ()).map_err(|error| bad(error.error))
    }
}

trait OrSelf {
    fn error_or_self(self) -> io::Error;
}

impl OrSelf for io::Error {
    /// The cause without the path of the temporary file, which means nothing to the user.
    fn error_or_self(self) -> io::Error {
        self.raw_os_error().map_or_else(|| io::Error::from(self.kind()), io::Error::from_raw_os_error)
    }
}

/// Writes `rows` to `output`.
///
/// # Errors
/// `Invalid` when the output is not writable or the rows do not fit the format.
pub fn write_rows(rows: &Rows, format: Format, output: Output) -> Result<()> {
    // What cannot be written leaves no half of it behind.
    buzz_answer::format::check(&rows.schema(), format)?;
    output.write(|out| write(rows, format, out))
}
