//! DataFusion's own `.slt` files. The crate `datafusion-sqllogictest` holds them; cargo downloads it and never compiles
//! it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::paths::find_workspace_root;

/// The crate that holds the files.
const CRATE: &str = "datafusion-sqllogictest";

/// Returns the folder `test_files` of the locked release of `datafusion-sqllogictest`.
///
/// The first run on a machine downloads the crate, since cargo downloads optional dependencies only when it needs them.
///
/// # Errors
/// A text that says what failed, if cargo cannot be run, or can neither find nor download the crate.
pub fn datafusion_slt_files() -> Result<PathBuf, String> {
    let root = find_workspace_root().ok_or("the current folder is not in a clone of the project")?;
    // Without a network if the crate is on this machine already.
    let metadata = metadata(&root, true).or_else(|_| metadata(&root, false))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest =
        packages.filter(|package| package["name"] == CRATE).find_map(|package| package["manifest_path"].as_str());
    let manifest = manifest.ok_or_else(|| format!("the crate `{CRATE}` is not in Cargo.lock"))?;
    let folder = Path::new(manifest).with_file_name("test_files");
    if folder.is_dir() { Ok(folder) } else { Err(format!("{} is not a folder", folder.display())) }
}

fn metadata(root: &Path, offline: bool) -> Result<Value, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The crate is optional, so that only all features together list it.
    command.args(["metadata", "--format-version", "1", "--locked", "--all-features"]).current_dir(root);
    if offline {
        command.arg("--offline");
    }
    let output = command.output().map_err(|error| format!("`cargo metadata` cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("`cargo metadata` printed no JSON: {error}"))
}
