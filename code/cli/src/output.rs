//! The destination of the rows: standard output, a file or a device.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use buzz_answer::format::{Format, WriteError, plain, write};
use buzz_answer::rows::Rows;
use buzz_protocol::{QueryError, Result};
use tempfile::NamedTempFile;

use crate::ask::quiet_when_closed;

/// The destination of rows.
#[derive(Debug)]
pub struct Output(Place);

#[derive(Debug)]
enum Place {
    Stdout,
    /// A device or a pipe, which is written in place.
    Device(File, PathBuf),
    /// A temporary file, which replaces the destination once it is complete.
    File(NamedTempFile, PathBuf),
}

impl Output {
    /// Opens the file at `path`, or standard output. Call it before the query runs, so that an unwritable path fails
    /// early.
    ///
    /// # Errors
    /// `Invalid` if the file cannot be created.
    pub fn open(path: Option<&Path>) -> Result<Output> {
        let Some(path) = path else {
            return Ok(Output(Place::Stdout));
        };
        let bad = |why: &dyn std::fmt::Display| not_writable(path, why);
        if path.is_dir() {
            return Err(bad(&"the path is a folder"));
        }
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let device = OpenOptions::new().write(true).open(path).map_err(|error| bad(&error))?;
            return Ok(Output(Place::Device(device, path.to_path_buf())));
        }
        // Follows a symbolic link, so that its target is replaced and not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.exists() {
            return Err(bad(&format!("folder `{}` does not exist", folder.display())));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".buzz-output-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(|error| bad(&plain(&error)))?;
        Ok(Output(Place::File(file, path)))
    }

    fn write(self, write: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>) -> Result<()> {
        match self.0 {
            Place::Stdout => match written(io::stdout().lock(), write) {
                Ok(_) => Ok(()),
                Err(WriteError::Io(error)) => quiet_when_closed(Err(error)),
                Err(WriteError::Rows(error)) => Err(error),
            },
            Place::Device(device, path) => written(device, write).map(|_| ()).map_err(|error| at(&path, error)),
            Place::File(file, path) => {
                let file = written(file, write).map_err(|error| at(&path, error))?;
                file.as_file().sync_all().map_err(|error| not_writable(&path, &error))?;
                file.persist(&path).map(|_| ()).map_err(|error| not_writable(&path, &error.error))
            }
        }
    }
}

/// Writes to `out` through a buffer, flushes it and returns `out`.
fn written<W: Write>(out: W, write: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>) -> Result<W, WriteError> {
    let mut out = BufWriter::new(out);
    write(&mut out)?;
    out.flush().map_err(WriteError::Io)?;
    out.into_inner().map_err(|error| WriteError::Io(error.into_error()))
}

fn at(path: &Path, error: WriteError) -> QueryError {
    match error {
        WriteError::Io(error) => not_writable(path, &plain(&error)),
        WriteError::Rows(error) => error,
    }
}

fn not_writable(path: &Path, why: &dyn std::fmt::Display) -> QueryError {
    QueryError::invalid(format!("output `{}` is not writable: {why}", path.display()))
}

/// Writes `rows` to `output`.
///
/// # Errors
/// `Invalid` if the output is not writable or the rows do not fit the format.
pub fn write_rows(rows: &Rows, format: Format, output: Output) -> Result<()> {
    // Checks the format first, so that a failure leaves no partial output.
    buzz_answer::format::check(&rows.schema(), format)?;
    output.write(|out| write(rows, format, out))
}
