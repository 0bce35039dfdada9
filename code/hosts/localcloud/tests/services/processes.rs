//! No process outlives its local cloud.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_lambda::primitives::Blob;

use crate::clients::{Sizes, program, start};

/// Returns the state of a process: `S` sleeping, `T` stopped, `Z` dead (a zombie, or no process).
fn state(pid: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.unwrap_or("Z").to_string()
}

async fn becomes(pid: &str, wanted: &str) -> bool {
    for _ in 0..500 {
        if state(pid) == wanted {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test]
async fn stop_kills_frozen_instances_and_deletes_scratch_files() {
    let cloud = start(Sizes::default()).await;
    let invoked = cloud.lambda().await.invoke().function_name("echo").payload(Blob::new("{}")).send().await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(invoked.payload().unwrap().as_ref()).unwrap();
    let pid = answer["pid"].to_string();
    assert!(becomes(&pid, "T").await, "an idle instance is frozen");
    assert_eq!(std::fs::read_dir(cloud.path("scratch")).unwrap().count(), 1);
    cloud.cloud.stop().await;
    assert_eq!(state(&pid), "Z");
    assert!(!cloud.folder.path().join("scratch").exists());
}

/// The kernel kills the children of a `localcloud` process that is killed.
#[tokio::test]
async fn instances_are_killed_with_the_localcloud_process() {
    let folder = tempfile::tempdir().unwrap();
    let programs = tempfile::tempdir().unwrap();
    for name in ["fuse_lambda", "hbee_lambda"] {
        std::os::unix::fs::symlink(program("bootstrap.py"), programs.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(program("container.py"), programs.path().join("hcomb")).unwrap();
    let mut command = localcloud(folder.path(), programs.path())
        .args(["serve", "--port", "0"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let endpoint = async {
        loop {
            if let Ok(endpoint) = std::fs::read_to_string(folder.path().join("endpoint")) {
                return endpoint;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let endpoint = tokio::time::timeout(Duration::from_secs(30), endpoint).await.expect("it starts");

    // `run` uses the local cloud that is running; a second `serve` fails.
    let script = "import json, os, sys, urllib.request as u; \
                  url = os.environ['AWS_ENDPOINT_URL'] + '/2015-03-31/functions/buzz-rust-fuse-local/invocations'; \
                  print(os.environ['AWS_ENDPOINT_URL'], json.load(u.urlopen(u.Request(url, b'{}')))['pid'])";
    let asked = localcloud(folder.path(), programs.path()).args(["run", "--", "python3", "-c", script]).output().await;
    let asked = String::from_utf8(asked.unwrap().stdout).unwrap();
    let (used, pid) = asked.trim().split_once(' ').expect("an endpoint and a process id");
    assert_eq!(used, endpoint);
    assert_ne!(state(pid), "Z");
    let second = localcloud(folder.path(), programs.path()).args(["serve", "--port", "0"]).output().await.unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("is in use by the local cloud"));

    command.kill().await.unwrap();
    assert!(becomes(pid, "Z").await, "the instance outlived its local cloud");
    // The folder is free again, and `run` returns the exit code of its command.
    let code = localcloud(folder.path(), programs.path()).args(["run", "--", "sh", "-c", "exit 5"]).status().await;
    assert_eq!(code.unwrap().code(), Some(5));
    assert!(!folder.path().join("endpoint").exists());
}

#[tokio::test]
async fn missing_program_is_named_in_the_error() {
    let (folder, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let failed = localcloud(folder.path(), programs.path()).args(["run", "--", "true"]).output().await.unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(message.contains("fuse_lambda does not exist"), "{message}");
}

fn localcloud(folder: &Path, programs: &Path) -> Arguments {
    Arguments(vec!["--folder".into(), folder.into(), "--programs".into(), programs.into()])
}

/// Options of the command, which must follow its subcommand.
struct Arguments(Vec<std::ffi::OsString>);

impl Arguments {
    fn args<const N: usize>(self, arguments: [&str; N]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(buzz_testkit::program("localcloud"));
        command.arg(arguments[0]).args(self.0).args(&arguments[1..]);
        command
    }
}
