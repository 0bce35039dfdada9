//! A local cloud with small test programs, and clients for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use buzz_localcloud::ecs::{AddressKind, TaskDefinition};
use buzz_localcloud::lambda::Function;
use buzz_localcloud::{LocalCloud, REGION, Setup};
use buzz_testkit::workspace_root;
use tempfile::TempDir;

use crate::common;

/// A local cloud and its temporary folder.
pub(crate) struct Cloud {
    pub(crate) cloud: LocalCloud,
    pub(crate) folder: TempDir,
}

/// Settings that tests change.
#[derive(Clone)]
pub(crate) struct Sizes {
    pub(crate) memory_mb: u64,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) start_delay: Duration,
    pub(crate) address: AddressKind,
    pub(crate) host: Option<String>,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            memory_mb: 256,
            timeout: Duration::from_secs(60),
            concurrency: 100,
            environment: BTreeMap::new(),
            start_delay: Duration::ZERO,
            address: AddressKind::Ipv4,
            host: None,
        }
    }
}

pub(crate) fn program(name: &str) -> PathBuf {
    workspace_root().join("code/hosts/localcloud/tests/services").join(name)
}

pub(crate) async fn start(sizes: Sizes) -> Cloud {
    let folder = tempfile::tempdir().unwrap();
    let function = Function {
        name: "echo".to_string(),
        bootstrap: program("bootstrap.py"),
        memory_mb: sizes.memory_mb,
        timeout: sizes.timeout,
        environment: sizes.environment,
    };
    let setup = Setup {
        listen: ([127, 0, 0, 1], 0).into(),
        host: sizes.host,
        folder: folder.path().to_path_buf(),
        buckets: vec!["bucket".to_string()],
        functions: vec![function],
        concurrency: sizes.concurrency,
        task_definition: TaskDefinition {
            cluster: "cluster".to_string(),
            family: "family".to_string(),
            container: "container".to_string(),
            program: program("container.py"),
            environment: [("PORT".to_string(), "3333".to_string())].into(),
            listen_variable: "LISTEN".to_string(),
            port: 3333,
            address: sizes.address,
            start_delay: sizes.start_delay,
            stop_timeout: Duration::from_secs(5),
        },
    };
    Cloud { cloud: LocalCloud::start(setup).await.unwrap(), folder }
}

impl Cloud {
    async fn config(&self) -> aws_config::SdkConfig {
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(&self.cloud.endpoint)
            .credentials_provider(aws_sdk_lambda::config::Credentials::new("AKIALOCAL", "x", None, None, "test"))
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .load()
            .await
    }

    pub(crate) async fn lambda(&self) -> aws_sdk_lambda::Client {
        aws_sdk_lambda::Client::new(&self.config().await)
    }

    pub(crate) async fn ecs(&self) -> aws_sdk_ecs::Client {
        aws_sdk_ecs::Client::new(&self.config().await)
    }

    /// Runs the `aws` command. Returns its standard output, or its standard error if it fails.
    pub(crate) async fn aws(&self, arguments: &[&str]) -> Result<String, String> {
        common::aws(&self.cloud.endpoint, self.folder.path(), arguments).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
