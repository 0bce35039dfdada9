//! Paths that are found at run time. A path that is compiled in names the clone that built the program, and several
//! clones can share one target directory.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the root folder of the workspace: the nearest folder with a workspace manifest, starting from the package that
/// cargo runs, or else from the current folder.
///
/// # Panics
/// If no folder has one.
pub fn workspace_root() -> PathBuf {
    find_workspace_root().expect("the current folder is in a clone of the project")
}

/// Returns the root folder of the workspace, if the process runs in one.
pub(crate) fn find_workspace_root() -> Option<PathBuf> {
    // `cargo test` and `cargo run` set this variable for the program that they start.
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    [package, env::current_dir().ok()].into_iter().flatten().find_map(|start| root_above(&start))
}

fn root_above(start: &Path) -> Option<PathBuf> {
    let is_root = |folder: &&Path| {
        fs::read_to_string(folder.join("Cargo.toml"))
            .is_ok_and(|manifest| manifest.lines().any(|line| line.trim() == "[workspace]"))
    };
    start.ancestors().find(is_root).map(Path::to_path_buf)
}

/// Returns the folder of the built programs.
///
/// # Panics
/// If the running program is not in a target directory of cargo.
pub fn program_folder() -> PathBuf {
    let running = env::current_exe().expect("the running program has a path");
    let folder = running.parent().expect("a program is in a folder");
    // Tests and examples are one folder below the other programs.
    let below = folder.file_name().is_some_and(|name| name == "deps" || name == "examples");
    let programs = if below { folder.parent() } else { Some(folder) };
    programs.expect("a target directory of cargo has a folder for programs").to_path_buf()
}

/// Returns the path of the built program `name`.
///
/// # Panics
/// If the program is not built.
pub fn program(name: &str) -> PathBuf {
    // Cargo sets this variable for the tests of the package that has the program.
    let named = env::var_os(format!("CARGO_BIN_EXE_{name}")).map(PathBuf::from);
    let path = named.unwrap_or_else(|| program_folder().join(name));
    assert!(path.is_file(), "{} is not built; run `cargo build --workspace --bins`", path.display());
    path
}

/// Returns a folder in cargo's target directory for files that tests keep from run to run.
///
/// # Panics
/// As [`program_folder`].
pub fn target_folder(name: &str) -> PathBuf {
    let target = program_folder();
    target.parent().expect("a profile's folder is in the target directory").join("tmp").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_root_is_found_from_any_folder_below() {
        let root = tempfile::tempdir().unwrap();
        let package = root.path().join("code/one");
        fs::create_dir_all(package.join("tests")).unwrap();
        fs::write(root.path().join("Cargo.toml"), "[workspace]\nmembers = [\"code/one\"]\n").unwrap();
        fs::write(package.join("Cargo.toml"), "[package]\nname = \"one\"\nversion.workspace = true\n").unwrap();
        assert_eq!(root_above(&package.join("tests")).as_deref(), Some(root.path()));
        assert_eq!(root_above(root.path()).as_deref(), Some(root.path()));
        assert!(workspace_root().join("code/testkit/Cargo.toml").is_file());
    }
}
