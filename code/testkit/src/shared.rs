//! Locates the real tables with expected answers.

use std::path::PathBuf;

/// Returns the folder of real tables: the folder in `BUZZ_TEST_DATA`, or `../shared/data` next to the project. Returns
/// `None` if neither exists.
pub fn shared_data() -> Option<PathBuf> {
    let named = std::env::var_os("BUZZ_TEST_DATA").map(PathBuf::from);
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    [named, Some(beside)].into_iter().flatten().find(|folder| folder.is_dir())
}
