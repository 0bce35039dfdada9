//! The folders that the tests read and write.

use std::path::PathBuf;

use buzz_testkit::{datafusion_slt_files, shared_data};
use tempfile::TempDir;

/// The folders of this run.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// DataFusion's own `.slt` files, or the reason why they cannot be found.
    pub slt_files: Result<PathBuf, String>,
    /// The real tables, if this machine has them.
    pub shared: Option<PathBuf>,
    /// A folder for the tables that this run makes. It is removed at the end.
    pub scratch: TempDir,
}

impl Inputs {
    /// Finds the folders.
    pub(crate) fn find() -> std::io::Result<Inputs> {
        Ok(Inputs { slt_files: datafusion_slt_files(), shared: shared_data(), scratch: tempfile::tempdir()? })
    }

    /// Returns the folder of DataFusion's `.slt` files.
    ///
    /// # Errors
    /// If it cannot be found.
    pub(crate) fn slt_files(&self) -> Result<&PathBuf, String> {
        self.slt_files.as_ref().map_err(|reason| format!("DataFusion's .slt files are missing: {reason}"))
    }

    /// Returns the folder of real tables.
    ///
    /// # Errors
    /// If this machine has none.
    pub(crate) fn shared(&self) -> Result<&PathBuf, String> {
        self.shared.as_ref().ok_or_else(|| buzz_testkit::NO_SHARED_DATA.to_string())
    }
}
