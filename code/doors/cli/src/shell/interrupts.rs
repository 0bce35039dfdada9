//! Counts Ctrl-C.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The number of interrupts of this process. While it exists, an interrupt does not end the process.
#[derive(Debug, Clone)]
pub(super) struct Interrupts(watch::Receiver<usize>);

impl Interrupts {
    /// Begins to count. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// If the operating system refuses the handler.
    pub(super) fn count() -> std::io::Result<Self> {
        let mut signals = signal(SignalKind::interrupt())?;
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(receiver))
    }

    /// Returns the number of interrupts so far.
    pub(super) fn so_far(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there are more than `before`.
    pub(super) async fn after(&self, before: usize) {
        if self.0.clone().wait_for(|count| *count > before).await.is_err() {
            // The counting task lives as long as the runtime.
            std::future::pending::<()>().await;
        }
    }
}
