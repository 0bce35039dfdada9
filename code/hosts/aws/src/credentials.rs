//! Credentials to read buckets and to call a stack, from the same sources as the AWS command line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use buzz_protocol::QueryError;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Error};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::clients;

/// Remaining validity below which credentials are refreshed.
const REMAINING_MIN: Duration = Duration::from_secs(300);

/// Maximum time to wait for the services that provide credentials to machines.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maximum time to wait for the AWS command line, which may refresh a session of single sign-on.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// Time after which the AWS command line is called again. It refreshes keys that are valid for less than 15 minutes.
const EXPORTED_FOR: Duration = Duration::from_secs(600);

/// Credentials from the default chain: variables, profiles of `~/.aws` (chosen by `AWS_PROFILE`), roles and the
/// machine's own. Those of single sign-on and of a program come from the AWS command line, if it is installed. They are
/// loaded at the first request.
#[derive(Default)]
pub struct UsualCredentials {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    chain: Option<SharedCredentialsProvider>,
    /// The credentials and their expiry.
    keys: Option<(Arc<AwsCredential>, Option<SystemTime>)>,
}

impl fmt::Debug for UsualCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsualCredentials").finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for UsualCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut held = self.held.lock().await;
        if let Some((keys, until)) = &held.keys
            && until.is_none_or(|until| until > buzz_protocol::now() + REMAINING_MIN)
        {
            return Ok(Arc::clone(keys));
        }
        // A chain returns the reason of its failure only once, so a failed chain is dropped.
        let chain = match held.chain.take() {
            Some(chain) => chain,
            None => with_command_line(clients::sdk(PATIENCE, None).await)
                .credentials_provider()
                .ok_or_else(|| failed(missing()))?,
        };
        let found = chain.provide_credentials().await.map_err(|error| failed(told(&error)))?;
        held.chain = Some(chain);
        let keys = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_string(),
            secret_key: found.secret_access_key().to_string(),
            token: found.session_token().map(str::to_string),
        });
        held.keys = Some((Arc::clone(&keys), found.expiry()));
        Ok(keys)
    }
}

/// Returns `sdk` with credentials that also come from the AWS command line, where its own chain finds none.
pub fn with_command_line(sdk: SdkConfig) -> SdkConfig {
    let Some(chain) = sdk.credentials_provider() else { return sdk };
    let either = ChainOrCommand { chain, program: PathBuf::from("aws") };
    sdk.into_builder().credentials_provider(SharedCredentialsProvider::new(either)).build()
}

/// The default chain, and the AWS command line for what the chain is built without.
#[derive(Debug)]
struct ChainOrCommand {
    chain: SharedCredentialsProvider,
    program: PathBuf,
}

impl ProvideCredentials for ChainOrCommand {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            match self.chain.provide_credentials().await {
                // The reason of the chain tells more than that of a command which is not installed.
                Err(error) if is_for_command(&error) => exported(&self.program).await.ok_or(error),
                found => found,
            }
        })
    }
}

/// Returns true if a chain failed since it does not know the kind of a profile, or since there are no credentials at all.
fn is_for_command(error: &CredentialsError) -> bool {
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    matches!(error, CredentialsError::CredentialsNotLoaded(_)) || why.contains("cargo feature")
}

/// The output of `aws configure export-credentials`, in the format of credential processes.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exported {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// Returns the credentials that the AWS command line `program` exports for the chosen profile; `None` if it is not installed,
/// is older than version 2 or has none.
async fn exported(program: &Path) -> Option<Credentials> {
    let mut command = Command::new(program);
    command.args(["configure", "export-credentials", "--format", "process"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_PATIENCE, command.output()).await.ok()?.ok()?;
    if !output.status.success() {
        tracing::debug!(error = %String::from_utf8_lossy(&output.stderr), "the AWS command line exports no credentials");
        return None;
    }
    let keys: Exported = serde_json::from_slice(&output.stdout).ok()?;
    let until = buzz_protocol::now() + EXPORTED_FOR;
    Some(Credentials::new(
        keys.access_key_id,
        keys.secret_access_key,
        keys.session_token,
        Some(until),
        "aws command line",
    ))
}

fn failed(error: QueryError) -> Error {
    Error::Generic { store: "S3", source: Box::new(error) }
}

fn missing() -> QueryError {
    QueryError::invalid(
        "there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set AWS_PROFILE to a \
         profile with keys or a role; for a profile with single sign-on or a program, install version 2 of the AWS command \
         line, or log in with `aws sso login`; for a public bucket, set AWS_SKIP_SIGNATURE=true",
    )
}

fn told(error: &CredentialsError) -> QueryError {
    let why = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    match error {
        CredentialsError::CredentialsNotLoaded(_) => missing(),
        // The SDK is built without this provider, for example single sign-on.
        _ if why.contains("cargo feature") => missing(),
        other => QueryError::invalid(format!("the credentials for AWS cannot be read: {other}{why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A chain that fails as one without a profile, or without the feature that a profile needs.
    #[derive(Debug)]
    struct Failing(fn() -> CredentialsError);

    impl ProvideCredentials for Failing {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Err(self.0()))
        }
    }

    async fn provided(reason: fn() -> CredentialsError, script: &str) -> Result<Credentials, CredentialsError> {
        let folder = buzz_testkit::target_folder("credentials");
        std::fs::create_dir_all(&folder).unwrap();
        let program = folder.join(format!("aws-{}", uuid::Uuid::new_v4()));
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let either =
            ChainOrCommand { chain: SharedCredentialsProvider::new(Failing(reason)), program: program.clone() };
        let found = either.provide_credentials().await;
        std::fs::remove_file(&program).unwrap();
        found
    }

    const EXPORTS: &str = "#!/bin/sh\n[ \"$1 $2\" = 'configure export-credentials' ] || exit 2\n\
                           echo '{\"Version\": 1, \"AccessKeyId\": \"key\", \"SecretAccessKey\": \"secret\", \
                           \"SessionToken\": \"token\"}'\n";

    // One test: a program that is being written cannot be started while another thread starts one.
    #[tokio::test]
    async fn command_line_gives_the_credentials_that_the_chain_cannot_read() {
        let sso = || CredentialsError::invalid_configuration("the `sso` cargo feature is not enabled");
        for reason in [sso, || CredentialsError::not_loaded("no providers in chain provided credentials")] {
            let found = provided(reason, EXPORTS).await.unwrap();
            assert_eq!((found.access_key_id(), found.session_token()), ("key", Some("token")));
            assert!(found.expiry().unwrap() > buzz_protocol::now());
        }
        let denied = provided(|| CredentialsError::provider_error("access denied"), EXPORTS).await;
        assert!(
            matches!(denied, Err(CredentialsError::ProviderError(_))),
            "a failure of the chain itself stays: {denied:?}"
        );

        let none = || CredentialsError::not_loaded("no providers in chain provided credentials");
        for script in ["#!/bin/sh\nexit 255\n", "#!/bin/sh\necho no JSON\n"] {
            let found = provided(none, script).await;
            assert!(matches!(found, Err(CredentialsError::CredentialsNotLoaded(_))), "{found:?}");
        }
        assert!(exported(Path::new("/does/not/exist/aws")).await.is_none());
    }
}
