//! The destination of the rows: standard output, a file or a device.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use buzz_engine::Rows;
use buzz_protocol::{Format, QueryError, Result, now};
use buzz_results::format::{WriteError, plain, write_within};
use buzz_results::{Cut, Incoming, Layout, Written, not_writable, written};
use tempfile::NamedTempFile;

use crate::interrupt::{Interrupt, Interruptible};
use crate::terminal::{note, quiet_when_closed, terminal_size};

/// The start of the names of files that are not complete.
const UNFINISHED: &str = ".buzz-output-";

/// Time since the last change after which an unfinished file without a lock belongs to no command.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// The destination of rows.
#[derive(Debug)]
pub struct Output {
    place: Place,
    interrupt: Interrupt,
}

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
            return Ok(Output::at(Place::Stdout));
        };
        let bad = |why: &dyn std::fmt::Display| not_writable(path, why);
        if path.to_str().is_some_and(|path| path.contains("://")) {
            return Err(bad(&"rows are written to files of this machine; name one, and copy it"));
        }
        if path.is_dir() {
            return Err(bad(&"the path is a folder"));
        }
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let device = OpenOptions::new().write(true).open(path).map_err(|error| bad(&error))?;
            return Ok(Output::at(Place::Device(device, path.to_path_buf())));
        }
        // Follows a symbolic link, so that its target is replaced and not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let folder = folder_of(&path);
        if !folder.exists() {
            return Err(bad(&format!("folder `{}` does not exist", folder.display())));
        }
        remove_abandoned(folder);
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(|error| bad(&plain(&error)))?;
        // Where the disk has no locks, no file is removed either.
        drop(file.as_file().try_lock());
        // A file that only its owner can read stays one.
        if let Ok(replaced) = path.metadata() {
            file.as_file().set_permissions(replaced.permissions()).map_err(|error| bad(&plain(&error)))?;
        }
        Ok(Output::at(Place::File(file, path)))
    }

    fn at(place: Place) -> Self {
        Output { place, interrupt: Interrupt::default() }
    }

    /// Returns the output, which writes nothing and replaces no file once the command is interrupted.
    pub(crate) fn until(self, interrupt: &Interrupt) -> Self {
        Output { interrupt: interrupt.clone(), ..self.left_by(interrupt) }
    }

    /// Returns the output, which is still written after an interrupt. If that does not end, its temporary file is removed.
    pub(crate) fn left_by(self, interrupt: &Interrupt) -> Self {
        if let Place::File(file, _) = &self.place {
            interrupt.add_temporary(file.path());
        }
        self
    }

    /// Checks that the output can take `format`.
    ///
    /// # Errors
    /// `Invalid` if a binary format would be written to a terminal.
    pub fn check(&self, format: Format) -> Result<()> {
        if self.is_terminal() && matches!(format, Format::Arrow | Format::Parquet) {
            return Err(QueryError::invalid(format!(
                "the format {format} is binary and standard output is a terminal; add --output rows.{format}"
            )));
        }
        Ok(())
    }

    /// Writes a whole text.
    ///
    /// # Errors
    /// `Invalid` if the output is not writable.
    pub(crate) fn write_text(self, text: &str) -> Result<()> {
        self.write(|out| out.write_all(text.as_bytes()).map_err(WriteError::Io))
    }

    fn is_terminal(&self) -> bool {
        matches!(self.place, Place::Stdout) && io::stdout().is_terminal()
    }

    fn write(self, write: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>) -> Result<()> {
        let (is_terminal, interrupt) = (self.is_terminal(), self.interrupt);
        match self.place {
            Place::Stdout if is_terminal => {
                to_stdout(buffered(Escaped::new(io::stdout().lock()), &interrupt, write).map(|_| ()))
            }
            Place::Stdout => to_stdout(buffered(io::stdout().lock(), &interrupt, write).map(|_| ())),
            Place::Device(device, path) => {
                buffered(device, &interrupt, write).map(|_| ()).map_err(|error| at(&path, error))
            }
            Place::File(file, path) => {
                let file = buffered(file, &interrupt, write).map_err(|error| at(&path, error))?;
                kept(file, &path, &interrupt)
            }
        }
    }

    /// Makes a sink that writes the rows of a query as `format` while they come. Returns `None` for an output of which a
    /// query that fails must not have written a part: anything but a file. A table is not written while its rows come.
    ///
    /// # Errors
    /// `Invalid` if the file is not writable.
    pub fn incoming(&self, format: Format) -> Result<Option<(Incoming, Written)>> {
        match &self.place {
            Place::File(file, path) if format != Format::Table => {
                let file = file.as_file().try_clone().map_err(|error| not_writable(path, &error))?;
                Ok(Some(written(file, format, path)))
            }
            _ => Ok(None),
        }
    }

    /// Waits until the rows that were passed to the sink of [`Output::incoming`] are written, and keeps the file.
    ///
    /// # Errors
    /// `Invalid` if the output is not writable or the rows do not fit the format.
    pub async fn finish(self, rows: Written) -> Result<()> {
        let Output { place, interrupt } = self;
        tokio::select! {
            ended = rows.end() => ended?,
            () = interrupt.interrupted() => return Err(QueryError::cancelled("the output was interrupted")),
        }
        match place {
            Place::File(file, path) => {
                // Waits for the disk.
                let kept = tokio::task::spawn_blocking(move || kept(file, &path, &interrupt));
                kept.await.unwrap_or_else(|_| Err(QueryError::internal("the output was not kept: its thread stopped")))
            }
            Place::Stdout | Place::Device(..) => Ok(()),
        }
    }
}

/// Replaces the file at `path` by the complete `file`, unless the command was interrupted.
fn kept(file: NamedTempFile, path: &Path, interrupt: &Interrupt) -> Result<()> {
    let bad = |error: &io::Error| not_writable(path, &plain(error));
    file.as_file().sync_all().map_err(|error| bad(&error))?;
    interrupt.check().map_err(|error| bad(&error))?;
    file.persist(path).map(|_| ()).map_err(|error| bad(&error.error))
}

/// Removes unfinished files in `folder` of commands that were killed. A running command holds a lock on its file, and takes it at once after
/// it has made the file. What cannot be removed stays.
fn remove_abandoned(folder: &Path) {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED))) {
        let changed = entry.metadata().ok().filter(Metadata::is_file).and_then(|found| found.modified().ok());
        let age = changed.and_then(|changed| now().duration_since(changed).ok());
        let file = age.filter(|age| *age > ABANDONED_AFTER).and_then(|_| File::open(entry.path()).ok());
        if file.is_some_and(|file| file.try_lock().is_ok()) {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

/// Returns the folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn to_stdout(written: Result<(), WriteError>) -> Result<()> {
    match written {
        Err(WriteError::Io(error)) => quiet_when_closed(Err(error)),
        Err(WriteError::Rows(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Writes to `out` through a buffer, flushes it and returns `out`.
fn buffered<W: Write>(
    out: W,
    interrupt: &Interrupt,
    write: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>,
) -> Result<W, WriteError> {
    let mut out = BufWriter::new(Interruptible::new(out, interrupt.clone()));
    write(&mut out)?;
    out.flush().map_err(WriteError::Io)?;
    let out = out.into_inner().map_err(|error| WriteError::Io(error.into_error()))?;
    Ok(out.into_inner())
}

fn at(path: &Path, error: WriteError) -> QueryError {
    match error {
        WriteError::Io(error) => not_writable(path, &plain(&error)),
        WriteError::Rows(error) => error,
    }
}

/// Writes `rows` to `output`, a table on a terminal within `layout` and the terminal's width. Reports on standard error
/// what a table leaves out.
///
/// # Errors
/// `Invalid` if the output is not writable or the rows do not fit the format.
pub fn write_rows(rows: &Rows, format: Format, layout: &Layout, output: Output) -> Result<()> {
    let layout = match output.is_terminal() {
        true => Layout { width: Some(terminal_size().0), ..*layout },
        false => Layout::default(),
    };
    let mut cut = Cut::default();
    output.write(|out| {
        cut = write_within(rows, format, &layout, out)?;
        Ok(())
    })?;
    if let Some(text) = cut.note() {
        note(&text);
    }
    Ok(())
}

/// Writes to a terminal, where control characters of the data would be commands. They are written as `\u001b`, except for
/// the end of a line and the tab.
#[derive(Debug)]
pub(crate) struct Escaped<W: Write> {
    out: W,
    /// True if the last byte was C2, with which U+0080 to U+00BF begin in UTF-8.
    held: bool,
}

const C2: u8 = 0xc2;

impl<W: Write> Escaped<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, held: false }
    }
}

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut plain = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            let held = std::mem::take(&mut self.held);
            match byte {
                // U+0080 to U+009F are commands as well.
                0x80..=0x9f if held => write!(plain, "\\u{byte:04x}")?,
                C2 => {
                    if held {
                        plain.push(C2);
                    }
                    self.held = true;
                }
                _ => {
                    if held {
                        plain.push(C2);
                    }
                    match byte {
                        b'\n' | b'\t' => plain.push(byte),
                        0..0x20 | 0x7f => write!(plain, "\\u{byte:04x}")?,
                        _ => plain.push(byte),
                    }
                }
            }
        }
        self.out.write_all(&plain)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.held) {
            self.out.write_all(&[C2])?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaced_file_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.csv");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        Output::open(Some(&path)).unwrap().write_text("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn files_of_killed_commands_are_removed_and_those_of_running_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = |name: &str, age: Duration| {
            let path = dir.path().join(format!("{UNFINISHED}{name}"));
            let file = File::create(&path).unwrap();
            file.set_modified(now() - age).unwrap();
            (path, file)
        };
        let (killed, _) = unfinished("killed", ABANDONED_AFTER * 2);
        let (slow, held) = unfinished("slow", ABANDONED_AFTER * 2);
        held.lock().unwrap();
        let (young, _) = unfinished("young", Duration::ZERO);
        let other = dir.path().join("buzz-output-x");
        std::fs::write(&other, "").unwrap();
        let output = Output::open(Some(&dir.path().join("rows.csv"))).unwrap();
        assert_eq!([killed.exists(), slow.exists(), young.exists(), other.exists()], [false, true, true, true]);
        let Place::File(file, _) = &output.place else { panic!("{output:?}") };
        assert!(File::open(file.path()).unwrap().try_lock().is_err());
    }

    #[test]
    fn place_in_a_bucket_is_refused() {
        let error = Output::open(Some(Path::new("s3://bucket/rows.csv"))).unwrap_err();
        assert!(error.message.contains("files of this machine"), "{error}");
    }

    #[test]
    fn interrupted_output_replaces_nothing_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.csv");
        std::fs::write(&path, "old").unwrap();
        let left = || std::fs::read_dir(dir.path()).unwrap().count();

        let interrupt = Interrupt::default();
        let output = Output::open(Some(&path)).unwrap().until(&interrupt);
        let error = output.write(|out| {
            // Larger than the buffer.
            out.write_all(&[b'x'; 100_000])?;
            interrupt.interrupt();
            out.write_all(&[b'y'; 100_000])?;
            panic!("it was written")
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("was interrupted"), "{error}");
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), left()), ("old", 1));

        // Between the last write and the replacement.
        let interrupt = Interrupt::default();
        let output = Output::open(Some(&path)).unwrap().until(&interrupt);
        let ended = output.write(|out| {
            out.write_all(b"new")?;
            out.flush()?;
            interrupt.interrupt();
            Ok(())
        });
        assert!(ended.is_err());
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), left()), ("old", 1));

        // A writer that does not return.
        let interrupt = Interrupt::default();
        let output = Output::open(Some(&path)).unwrap().until(&interrupt);
        assert_eq!(left(), 2);
        interrupt.interrupt();
        interrupt.remove_temporary();
        assert_eq!(left(), 1);
        assert!(output.write_text("new").is_err());
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let text = "a\u{1b}[31mé\u{9b}\t\u{7f}\r\nend\u{a0}";
        for size in 1..text.len() {
            let mut out = Vec::new();
            let mut escaped = Escaped::new(&mut out);
            for piece in text.as_bytes().chunks(size) {
                escaped.write_all(piece).unwrap();
            }
            escaped.flush().unwrap();
            let written = String::from_utf8(out).unwrap();
            assert_eq!(written, "a\\u001b[31mé\\u009b\t\\u007f\\u000d\nend\u{a0}", "{size}");
        }
    }
}
