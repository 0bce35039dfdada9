//! The interrupt of a command: SIGINT or SIGTERM.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The interrupt of a command. The command and its outputs share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    token: CancellationToken,
    /// Temporary files of outputs that are not complete.
    temporary: Arc<Mutex<Vec<PathBuf>>>,
}

impl Interrupt {
    /// Interrupts the command. Its outputs no longer become complete.
    pub(crate) fn interrupt(&self) {
        self.token.cancel();
    }

    pub(crate) async fn interrupted(&self) {
        self.token.cancelled().await;
    }

    /// Checks that the command was not interrupted.
    ///
    /// # Errors
    /// An error of another kind than `Interrupted`, after which writers try again.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.token.is_cancelled() {
            return Err(io::Error::other("the command was interrupted"));
        }
        Ok(())
    }

    /// Records that `file` is to be removed if the process ends before the output is complete.
    pub(crate) fn add_temporary(&self, file: &Path) {
        self.temporary.lock().push(file.to_path_buf());
    }

    /// Removes the temporary files of outputs that do not end by themselves. Of a complete output none is left.
    pub(crate) fn remove_temporary(&self) {
        for file in self.temporary.lock().drain(..) {
            _ = std::fs::remove_file(file);
        }
    }
}

/// Writes to `out` until the command is interrupted.
#[derive(Debug)]
pub(crate) struct Interruptible<W: Write> {
    out: W,
    interrupt: Interrupt,
}

impl<W: Write> Interruptible<W> {
    pub(crate) fn new(out: W, interrupt: Interrupt) -> Self {
        Self { out, interrupt }
    }

    pub(crate) fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> Write for Interruptible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interrupt.check()?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
