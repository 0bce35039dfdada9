//! The folder of real tables with expected answers.

use std::path::PathBuf;

use crate::paths::find_workspace_root;

/// The reason why tests of real tables are ignored in a clone without them.
pub const NO_SHARED_DATA: &str = "no real tables: neither BUZZ_TEST_DATA nor ../shared/data is a folder";

/// Returns the folder of real tables, if it exists: the one that `BUZZ_TEST_DATA` names, or `../shared/data` beside the
/// clone.
pub fn shared_data() -> Option<PathBuf> {
    let named = std::env::var_os("BUZZ_TEST_DATA").map(PathBuf::from);
    let beside = find_workspace_root().and_then(|root| Some(root.parent()?.join("shared/data")));
    [named, beside].into_iter().flatten().find(|folder| folder.is_dir())
}
