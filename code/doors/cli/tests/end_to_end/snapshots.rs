//! Compares texts with the files in `snapshots/`. If a change is intended, run the tests with `INSTA_UPDATE=always` and
//! review the diff.

use std::path::Path;

use insta::{Settings, assert_snapshot};

/// Compares `text` with the snapshot `name`, after replacing the folder `dir` by `[dir]`.
pub(crate) fn compare(name: &str, text: &str, dir: &Path) {
    // Found at run time, since several clones may share one target directory.
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR for tests");
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(Path::new(&manifest).join("tests/end_to_end/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let text = text.replace(&dir.display().to_string(), "[dir]");
    settings.bind(|| assert_snapshot!(name, text));
}
