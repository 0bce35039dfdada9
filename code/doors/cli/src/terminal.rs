//! Standard output and standard error. The only module of this crate that prints.

use std::io::{self, ErrorKind, IsTerminal, Write};

use buzz_protocol::{QueryError, Result};

/// Prints to standard output. A closed pipe is not an error.
pub(crate) fn print(text: &str) -> Result<()> {
    quiet_when_closed(io::stdout().lock().write_all(text.as_bytes()))
}

/// Prints a line to standard output. Returns false if its reader has ended.
pub(crate) fn print_line(line: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => quiet_when_closed(written).map(|()| true),
    }
}

/// Converts the outcome of writing to standard output. A closed pipe means that the reader needs no more rows.
pub(crate) fn quiet_when_closed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(QueryError::invalid(format!("standard output is not writable: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints a warning to standard error.
pub(crate) fn warn(warning: &str) {
    note(&format!("warning: {warning}"));
}

/// Prints a line to standard error. If its reader has ended, the line is lost and the command goes on.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns true if standard error is a terminal.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Returns the columns and rows of the terminal that standard output is, or 80 and 24 if they are not known.
pub(crate) fn terminal_size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    match size {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => (80, 24),
    }
}
