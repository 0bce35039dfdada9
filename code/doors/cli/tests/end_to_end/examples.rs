//! Runs what `code/examples` shows: each command of its README, and the program that embeds the engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use buzz_cli::compose::local_engine;
use buzz_protocol::Options;
use buzz_testkit::{program_folder, workspace_root};
use tempfile::{TempDir, tempdir};

use crate::snapshots;

#[path = "../../examples/embed.rs"]
#[expect(dead_code, reason = "the example's own `main`")]
mod embed;

/// Rows of the sample. The README shows those of the full sample of 3,000,000.
const ROWS: &str = "20000";

/// Makes a folder as `make examples` does: the examples, the sample and the other files.
fn prepared() -> TempDir {
    let dir = tempdir().unwrap();
    let examples = dir.path().join("code/examples");
    fs::create_dir_all(&examples).unwrap();
    for entry in fs::read_dir(shown()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, examples.join(path.file_name().unwrap())).unwrap();
    }
    succeed(dir.path(), &format!("buzz sample data/nyc-taxi-daily --rows {ROWS}"));
    succeed(dir.path(), "code/examples/files.sh");
    dir
}

/// Returns the folder of the examples.
fn shown() -> PathBuf {
    workspace_root().join("code/examples")
}

/// Runs a shell command in `dir` with `buzz` on its path, and returns its standard output.
fn succeed(dir: &Path, command: &str) -> String {
    let path = format!("{}:{}", program_folder().display(), std::env::var("PATH").unwrap_or_default());
    let run = Command::new("sh").args(["-c", command]).current_dir(dir).env("PATH", path).output().unwrap();
    let Output { status, stdout, stderr } = run;
    assert!(status.success(), "{command}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn commands_of_the_examples_print_the_recorded_rows() {
    let dir = prepared();
    let page = fs::read_to_string(shown().join("README.md")).unwrap();
    let mut printed = String::new();
    let mut commands = 0;
    // A command, and the first lines of what it prints.
    for block in page.split("```\n").filter_map(|block| block.strip_prefix("$ ")) {
        let (command, example) = block.split_once('\n').unwrap();
        let output = succeed(dir.path(), command);
        let columns = |table: &str| -> Vec<String> {
            let header = table.lines().nth(1).unwrap_or_default();
            header.split('|').map(|name| name.trim().to_string()).collect()
        };
        assert_eq!(columns(&output), columns(example), "{command}");
        printed += &format!("$ {command}\n{output}\n");
        commands += 1;
    }
    assert!(commands >= 7, "the README shows only {commands} commands");
    snapshots::compare("examples", &printed, dir.path());
}

#[test]
fn every_query_file_is_in_the_readme() {
    let page = fs::read_to_string(shown().join("README.md")).unwrap();
    for entry in fs::read_dir(shown()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || page.contains(&format!("({name})")), "the README does not list {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_engine_returns_the_rows() {
    let dir = tempdir().unwrap();
    succeed(dir.path(), "buzz sample sample --rows 930");
    let engine = local_engine(&Options::default(), 2).unwrap();
    let uri = dir.path().join("sample").display().to_string();
    let table = embed::trips_by_payment(engine.as_ref(), &uri).await.unwrap();
    let trips = table.lines().filter_map(|line| line.split('|').nth(2)?.trim().parse::<u64>().ok());
    assert_eq!(trips.sum::<u64>(), 930, "{table}");
}
