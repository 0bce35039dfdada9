//! Compares texts with the files in `snapshots/`. If a change is intended, run the tests with `INSTA_UPDATE=always` and
//! review the diff.

use std::path::Path;

use buzz_testkit::workspace_root;
use insta::{Settings, assert_snapshot};

/// Compares `text` with the snapshot `name`, after replacing the folder `dir` by `[dir]`.
pub(crate) fn compare(name: &str, text: &str, dir: &Path) {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(workspace_root().join("code/doors/cli/tests/end_to_end/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let text = text.replace(&dir.display().to_string(), "[dir]");
    settings.bind(|| assert_snapshot!(name, text));
}
