//! The account that all services share: its region, keys and names, and the variables that pass them to processes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::connections::Connections;
use crate::keys::{Keys, Session};

/// Region of all resources.
pub const REGION: &str = "us-east-2";
/// The account number.
pub const ACCOUNT: &str = "123456789012";
/// Access key of the lasting key pair that S3 accepts.
pub const ACCESS_KEY: &str = "AKIALOCAL";
/// Secret key of the lasting key pair.
pub const SECRET_KEY: &str = "local-secret";

/// The account of one local cloud.
#[derive(Debug)]
pub(crate) struct Account {
    /// `http://host:port` of all services.
    pub(crate) endpoint: String,
    /// Folder of the log files of processes.
    pub(crate) logs: PathBuf,
    /// Folder of the temporary files of processes; deleted with the local cloud.
    pub(crate) scratch: PathBuf,
    /// Temporary keys.
    pub(crate) keys: Keys,
    /// Open connections to the endpoint.
    pub(crate) connections: Connections,
}

impl Account {
    /// Returns the environment variables that every process gets, with the keys of `session`.
    pub(crate) fn environment(&self, session: &Session) -> BTreeMap<String, String> {
        let mut environment = client_environment(&self.endpoint);
        environment.extend(session.environment());
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_string());
        environment.insert("PATH".to_string(), path);
        environment.insert("LANG".to_string(), "en_US.UTF-8".to_string());
        environment.insert("TZ".to_string(), ":UTC".to_string());
        environment
    }

    pub(crate) fn function_arn(&self, name: &str) -> String {
        format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
    }

    /// Returns the ARN of a version, which for `$LATEST` is that of the function.
    pub(crate) fn version_arn(&self, name: &str, version: &str) -> String {
        let arn = self.function_arn(name);
        if version == "$LATEST" { arn } else { format!("{arn}:{version}") }
    }

    pub(crate) fn cluster_arn(&self, cluster: &str) -> String {
        format!("arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{cluster}")
    }

    pub(crate) fn task_arn(&self, cluster: &str, id: &str) -> String {
        format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task/{cluster}/{id}")
    }

    pub(crate) fn task_definition_arn(&self, family: &str) -> String {
        format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{family}:1")
    }
}

/// Returns the environment variables that point any AWS client to the local cloud at `endpoint`.
pub fn client_environment(endpoint: &str) -> BTreeMap<String, String> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", REGION),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into()
}
