//! Prints rows on the terminal, long results in a pager.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::process::{Child, Command, Stdio};

use buzz_engine::Rows;
use buzz_protocol::{Format, QueryError, Result};
use buzz_results::format::{WriteError, plain, write_within};
use buzz_results::{Cut, Layout};

use super::command::Pager;
use crate::output::Escaped;
use crate::terminal::{note, quiet_when_closed, terminal_size};

/// Rows of a table in a pager before the middle is left out.
const PAGED_ROWS_MAX: usize = 10_000;

/// Lines of a table that are not rows, and the line of the summary.
const OTHER_LINES: usize = 6;

/// The way in which rows are shown.
pub(super) struct Show<'a> {
    pub(super) format: Format,
    pub(super) rows_max: usize,
    pub(super) pager: &'a Pager,
    /// Returns true once the user interrupts the output.
    pub(super) is_interrupted: &'a dyn Fn() -> bool,
}

impl Show<'_> {
    /// Prints `rows`, which are `count`.
    ///
    /// # Errors
    /// `Invalid` if the rows do not fit the format or standard output is not writable.
    pub(super) fn rows(&self, rows: &Rows, count: u64) -> Result<()> {
        if !io::stdout().is_terminal() {
            let mut out = BufWriter::new(io::stdout().lock());
            return finished(self.write(rows, &Layout::default(), &mut out)).map(report);
        }
        let (width, height) = terminal_size();
        let lines = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(OTHER_LINES);
        let bounded = |rows_max: usize| Layout { width: Some(width), rows_max: (rows_max > 0).then_some(rows_max) };
        let pager = if lines > height { program(self.pager) } else { None };
        let cut = match pager {
            Some(pager) => self.paged(&pager, rows, &bounded(PAGED_ROWS_MAX.max(self.rows_max)))?,
            None => finished(self.write(rows, &bounded(self.rows_max), &mut Escaped::new(io::stdout().lock())))?,
        };
        report(cut);
        Ok(())
    }

    /// Writes `rows` to the pager and waits for its end.
    fn paged(&self, pager: &str, rows: &Rows, layout: &Layout) -> Result<Cut> {
        let started = Command::new("sh").args(["-c", pager]).stdin(Stdio::piped()).spawn();
        let mut child: Child = started.map_err(|error| QueryError::invalid(format!("pager `{pager}`: {error}")))?;
        let written = match child.stdin.take() {
            Some(stdin) => self.write(rows, layout, &mut Escaped::new(stdin)),
            None => Ok(Cut::default()),
        };
        // The pager has the terminal until it ends.
        let ended = child.wait();
        let cut = finished(written)?;
        ended.map_err(|error| QueryError::invalid(format!("pager `{pager}`: {error}")))?;
        Ok(cut)
    }

    fn write(&self, rows: &Rows, layout: &Layout, out: &mut dyn Write) -> Result<Cut, WriteError> {
        let stoppable = Stoppable { out, is_interrupted: self.is_interrupted };
        let mut out = BufWriter::new(stoppable);
        let cut = write_within(rows, self.format, layout, &mut out)?;
        out.flush()?;
        Ok(cut)
    }
}

fn report(cut: Cut) {
    if let Some(text) = cut.note() {
        note(&text);
    }
}

fn finished(written: Result<Cut, WriteError>) -> Result<Cut> {
    match written {
        Ok(cut) => Ok(cut),
        Err(WriteError::Io(error)) => quiet_when_closed(Err(plain(&error))).map(|()| Cut::default()),
        Err(WriteError::Rows(error)) => Err(error),
    }
}

/// An output that ends as if its reader had closed it once the user interrupts it.
struct Stoppable<'a> {
    out: &'a mut dyn Write,
    is_interrupted: &'a dyn Fn() -> bool,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.is_interrupted)() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns the command of the pager, or `None` if there is none.
fn program(pager: &Pager) -> Option<String> {
    match pager {
        Pager::Off => None,
        Pager::Program(program) => Some(program.clone()),
        Pager::Usual => match std::env::var("PAGER") {
            Ok(program) if !program.trim().is_empty() => Some(program),
            _ => {
                let path = std::env::var_os("PATH")?;
                let found = std::env::split_paths(&path).any(|folder| folder.join("less").is_file());
                found.then(|| "less -FRSX".to_string())
            }
        },
    }
}
