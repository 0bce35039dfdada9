//! Where the real tables with expected answers are.

use std::path::PathBuf;

/// The folder of real tables, if there is one: the one that `BUZZ_TEST_DATA` names, or `../shared/data` beside the
/// project.
pub fn shared_data() -> Option<PathBuf> {
    let named = std::env::var_os("BUZZ_TEST_DATA").map(PathBuf::from);
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    [named, Some(beside)].into_iter().flatten().find(|folder| folder.is_dir())
}
