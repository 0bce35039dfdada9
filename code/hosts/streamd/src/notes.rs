//! Notes about a run for people, beside its rows.

use std::fmt;

/// Receives notes and warnings of a run.
pub trait Notes: fmt::Debug + Send + Sync {
    /// Takes a note, such as that a source waits for a folder.
    fn note(&self, text: &str);

    /// Takes a warning, such as that the rows of an epoch were left out.
    fn warn(&self, text: &str);
}

/// Drops all notes.
#[derive(Debug)]
pub(crate) struct Silent;

impl Notes for Silent {
    fn note(&self, _: &str) {}

    fn warn(&self, _: &str) {}
}
