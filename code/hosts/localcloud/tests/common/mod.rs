//! Helpers for both test binaries.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use buzz_localcloud::client_environment;
use buzz_testkit::program_folder;

/// Runs the `aws` command in `folder` against the local cloud at `endpoint`. Returns its standard output, or its
/// standard error if it fails.
pub(crate) async fn aws(endpoint: &str, folder: &Path, arguments: &[&str]) -> Result<String, String> {
    printed(endpoint, tokio::process::Command::new(aws_command()).args(arguments).current_dir(folder)).await
}

/// Runs `command` against the local cloud at `endpoint`. Returns its standard output, or its standard error if it fails.
pub(crate) async fn printed(endpoint: &str, command: &mut tokio::process::Command) -> Result<String, String> {
    let command = command.envs(client_environment(endpoint)).env_remove("AWS_PROFILE").env_remove("AWS_SESSION_TOKEN");
    let output = command.stdin(Stdio::null()).output().await.expect("`aws` runs; `make aws-cli` installs it");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("aws prints UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Returns the `aws` command that `make aws-cli` installed, or else the command in `PATH`.
pub(crate) fn aws_command() -> PathBuf {
    let ours = program_folder().parent().map(|target| target.join("aws-cli/bin/aws"));
    ours.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("aws"))
}
