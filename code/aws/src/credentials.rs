//! Credentials to read buckets, from the same sources as the AWS command line.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use buzz_protocol::QueryError;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Error};
use tokio::sync::Mutex;

use crate::clients;

/// Remaining validity below which credentials are refreshed.
const REMAINING_MIN: Duration = Duration::from_secs(300);

/// Maximum time to wait for the services that provide credentials to machines.
const PATIENCE: Duration = Duration::from_secs(5);

/// Credentials from the default chain: variables, profiles of `~/.aws` (chosen by `AWS_PROFILE`), roles and the
/// machine's own. They are loaded at the first request.
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
            && until.is_none_or(|until| until > SystemTime::now() + REMAINING_MIN)
        {
            return Ok(Arc::clone(keys));
        }
        // A chain returns the reason of its failure only once, so a failed chain is dropped.
        let chain = match held.chain.take() {
            Some(chain) => chain,
            None => clients::sdk(PATIENCE, None).await.credentials_provider().ok_or_else(|| failed(missing()))?,
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

fn failed(error: QueryError) -> Error {
    Error::Generic { store: "S3", source: Box::new(error) }
}

fn missing() -> QueryError {
    QueryError::invalid(
        "there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set AWS_PROFILE to a \
         profile with keys or a role; for a profile with single sign-on or a program, export its keys with \
         `eval \"$(aws configure export-credentials --format env)\"`; for a public bucket, set AWS_SKIP_SIGNATURE=true",
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
