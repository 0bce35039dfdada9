//! ECS tasks that run combs: list, describe and start them.

use std::collections::HashSet;
use std::fmt;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_ecs::Client;
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecs::operation::run_task::RunTaskError;
use aws_sdk_ecs::types::{
    AssignPublicIp, AwsVpcConfiguration, ContainerOverride, DesiredStatus, KeyValuePair, LaunchType,
    NetworkConfiguration, Task, TaskOverride,
};
use buzz_protocol::{CombAddress, ErrorKind, QueryError, Result};
use buzz_worker::certificate::CERTIFICATE_VARIABLE;
use url::Url;

use crate::clients::{Renewed, short_timeouts};
use crate::combs::STARTED_BY;
use crate::failure;
use crate::settings::{CombNetwork, CombSettings};

/// An ECS task that runs a comb.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CombTask {
    /// ARN of the task.
    pub arn: String,
    /// ARN of the task definition (`family:revision`).
    pub definition: String,
    /// `PROVISIONING`, `PENDING`, `ACTIVATING`, `RUNNING`, or one of the states after `RUNNING`.
    pub last_status: String,
    /// `RUNNING` or `STOPPED`.
    pub desired_status: String,
    /// `startedBy` of the task: `buzz-<slot>`.
    pub started_by: String,
    /// Private IPv4 address in the VPC.
    pub ipv4: Option<String>,
    /// IPv6 address.
    pub ipv6: Option<String>,
    /// Reason for the stop, if the task stopped.
    pub stopped_reason: Option<String>,
    /// Location in which its comb records its certificate, if it was started to use TLS.
    pub certificate: Option<String>,
}

impl CombTask {
    /// Returns true if the containers run.
    pub fn is_running(&self) -> bool {
        self.last_status == "RUNNING"
    }

    /// Returns true if the task stopped or is stopping.
    pub fn is_over(&self) -> bool {
        self.desired_status == "STOPPED"
            || ["DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"].contains(&self.last_status.as_str())
    }

    /// Returns the slot that the task was started for.
    pub fn slot(&self) -> Option<usize> {
        self.started_by.strip_prefix(STARTED_BY)?.parse().ok()
    }

    /// Returns the address of the comb, or `None` until ECS has assigned one.
    pub fn address(&self, settings: &CombSettings) -> Option<CombAddress> {
        let host = match settings.network {
            CombNetwork::PublicIpv4 | CombNetwork::PrivateIpv4 => self.ipv4.clone()?,
            CombNetwork::Ipv6Only => format!("[{}]", self.ipv6.as_ref()?),
        };
        Url::parse(&format!("http://{host}:{}", settings.port)).ok().map(CombAddress)
    }

    /// Describes the most likely reason why the comb does not answer.
    pub fn why_not(&self, address: &Option<CombAddress>) -> String {
        match address {
            Some(address) if self.is_running() && self.certificate.is_some() && address.0.scheme() == "http" => {
                format!(
                    "a comb runs at {address} and has not recorded its certificate; its role must be allowed to write below \
                 results/combs/certificates/"
                )
            }
            Some(address) if self.is_running() => format!(
                "a comb runs at {address} and does not answer; its security group must allow that port from the \
                 function's security group"
            ),
            _ => format!("a comb is still {}", self.last_status),
        }
    }
}

impl From<&Task> for CombTask {
    fn from(task: &Task) -> Self {
        let interfaces = || task.containers().iter().flat_map(|container| container.network_interfaces());
        let text = |value: Option<&str>| value.unwrap_or_default().to_string();
        Self {
            arn: text(task.task_arn()),
            definition: text(task.task_definition_arn()),
            last_status: text(task.last_status()),
            desired_status: text(task.desired_status()),
            started_by: text(task.started_by()),
            ipv4: interfaces().find_map(|interface| interface.private_ipv4_address()).map(str::to_string),
            ipv6: interfaces().find_map(|interface| interface.ipv6_address()).map(str::to_string),
            stopped_reason: stopped_reason(task),
            certificate: certificate(task),
        }
    }
}

/// Name of the container in the task definition.
const CONTAINER: &str = "hcomb";

/// Returns the location in which the comb of `task` records its certificate, as the call that started it said.
fn certificate(task: &Task) -> Option<String> {
    let containers = task.overrides()?.container_overrides();
    let mut variables = containers.iter().flat_map(|container| container.environment());
    let variable = variables.find(|variable| variable.name() == Some(CERTIFICATE_VARIABLE))?;
    variable.value().map(str::to_string)
}

/// Returns the changes of the task definition that let a comb record its certificate in `location`.
fn with_certificate(location: &str) -> TaskOverride {
    let variable = KeyValuePair::builder().name(CERTIFICATE_VARIABLE).value(location).build();
    let container = ContainerOverride::builder().name(CONTAINER).environment(variable).build();
    TaskOverride::builder().container_overrides(container).build()
}

/// Joins the stop reason of the task with that of its container, which is more specific.
fn stopped_reason(task: &Task) -> Option<String> {
    let own = task.stopped_reason().map(str::to_string);
    let inner = task.containers().iter().find_map(|container| {
        let code = container.exit_code().map(|code| format!("exit code {code}"));
        container.reason().map(str::to_string).or(code)
    });
    match (own, inner) {
        (Some(own), Some(inner)) if !own.contains(&inner) => Some(format!("{own}: {inner}")),
        (own, inner) => own.or(inner),
    }
}

/// The ECS operations that combs require.
#[async_trait]
pub trait Tasks: fmt::Debug + Send + Sync {
    /// Returns the live tasks of this kind of comb, then the tasks of `known` that stopped. Live tasks of `known` are
    /// included even if ECS does not list them yet.
    ///
    /// # Errors
    /// `Unavailable` if ECS does not answer, `Invalid` if the call is not allowed.
    async fn find(&self, known: &HashSet<String>) -> Result<(Vec<CombTask>, Vec<CombTask>)>;

    /// Starts a task, or returns the one that was started with the same `token`, even if it has stopped. Its comb uses TLS
    /// and records its certificate in `certificate`, if that is given.
    ///
    /// # Errors
    /// `Unavailable` if there is no capacity or no answer, `Invalid` if the call is not allowed.
    async fn run(&self, token: &str, started_by: &str, certificate: Option<&str>) -> Result<CombTask>;
}

/// [`Tasks`] on Amazon ECS.
#[derive(Debug)]
pub struct EcsTasks {
    clients: Renewed<Client>,
    settings: CombSettings,
}

impl EcsTasks {
    /// Creates a client for ECS from `sdk`.
    pub fn new(sdk: &SdkConfig, settings: CombSettings) -> Self {
        // Every call here is idempotent: ECS starts one task per token. The SDK may retry.
        let config = aws_sdk_ecs::config::Builder::from(sdk).retry_config(RetryConfig::standard());
        let config = config.timeout_config(short_timeouts()).build();
        Self { clients: Renewed::new(move || Client::from_conf(config.clone())), settings }
    }

    async fn list(&self) -> Result<Vec<String>> {
        let mut arns = Vec::new();
        let mut next = None;
        loop {
            let client = self.clients.now();
            let call = client.list_tasks().cluster(&self.settings.cluster);
            let call = call.family(family(&self.settings.task_definition)).desired_status(DesiredStatus::Running);
            let listed = call.set_next_token(next).send().await.map_err(|error| self.failed("list tasks", &error))?;
            arns.extend_from_slice(listed.task_arns());
            next = listed.next_token;
            if next.is_none() {
                return Ok(arns);
            }
        }
    }

    async fn describe(&self, arns: &[String]) -> Result<Vec<CombTask>> {
        let mut tasks = Vec::new();
        // ECS accepts up to 100 ARNs per call.
        for some in arns.chunks(100) {
            let client = self.clients.now();
            let call = client.describe_tasks().cluster(&self.settings.cluster);
            let described = call.set_tasks(Some(some.to_vec())).send().await;
            let described = described.map_err(|error| self.failed("describe tasks", &error))?;
            tasks.extend(described.tasks().iter().map(CombTask::from));
        }
        Ok(tasks)
    }

    fn failed<E>(&self, action: &str, error: &SdkError<E>) -> QueryError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        failure::of_call(action, &format!("cluster {}", self.settings.cluster), error)
    }
}

#[async_trait]
impl Tasks for EcsTasks {
    async fn find(&self, known: &HashSet<String>) -> Result<(Vec<CombTask>, Vec<CombTask>)> {
        let mut arns = self.list().await?;
        arns.extend(known.iter().filter(|arn| !arns.contains(arn)).cloned().collect::<Vec<_>>());
        let described = self.describe(&arns).await?;
        let (over, live): (Vec<_>, Vec<_>) = described.into_iter().partition(CombTask::is_over);
        let own = |task: &CombTask| same_definition(&self.settings.task_definition, &task.definition);
        Ok((
            live.into_iter().filter(own).collect(),
            over.into_iter().filter(|task| known.contains(&task.arn)).collect(),
        ))
    }

    async fn run(&self, token: &str, started_by: &str, certificate: Option<&str>) -> Result<CombTask> {
        let public_ip = match self.settings.network {
            CombNetwork::PublicIpv4 => AssignPublicIp::Enabled,
            CombNetwork::PrivateIpv4 | CombNetwork::Ipv6Only => AssignPublicIp::Disabled,
        };
        let network = AwsVpcConfiguration::builder()
            .set_subnets(Some(self.settings.subnets.clone()))
            .set_security_groups(Some(self.settings.security_groups.clone()))
            .assign_public_ip(public_ip)
            .build()
            .map_err(|error| QueryError::internal(format!("a comb's network configuration is invalid: {error}")))?;
        let client = self.clients.now();
        let call = client
            .run_task()
            .cluster(&self.settings.cluster)
            .task_definition(&self.settings.task_definition)
            .count(1)
            .client_token(token)
            .started_by(started_by)
            .launch_type(LaunchType::Fargate)
            .set_overrides(certificate.map(with_certificate))
            .platform_version("LATEST")
            .network_configuration(NetworkConfiguration::builder().awsvpc_configuration(network).build());
        let started = match call.send().await {
            Ok(started) => started,
            Err(error) => {
                // The token's task was started with other parameters, for example by another version of this function.
                if let Some(RunTaskError::ConflictException(conflict)) = error.as_service_error()
                    && let Some(task) = self.describe(conflict.resource_ids()).await?.pop()
                {
                    return Ok(task);
                }
                let failed = self.failed("run task", &error);
                // ECS reports the lack of machines as a fault of the request.
                let kind = if lacks_capacity(&error) { ErrorKind::Unavailable } else { failed.kind };
                return Err(QueryError { kind, ..failed });
            }
        };
        if let Some(task) = started.tasks().first() {
            return Ok(task.into());
        }
        let reasons = started.failures().iter().map(|failure| {
            let detail = failure.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
            format!("{}{detail}", failure.reason().unwrap_or("no reason given"))
        });
        Err(QueryError::unavailable(format!("no comb was started: {}", reasons.collect::<Vec<_>>().join("; "))))
    }
}

/// Returns true if there is no machine for another task at present.
fn lacks_capacity<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.message().is_some_and(|message| message.contains("Capacity is unavailable"))
}

/// Returns the family of `definition`, which is `family`, `family:revision` or an ARN.
pub fn family(definition: &str) -> &str {
    let name = definition.rsplit_once('/').map_or(definition, |(_, name)| name);
    name.split_once(':').map_or(name, |(family, _)| family)
}

/// Returns true if the definition ARN `running` matches `wanted`. If `wanted` has no revision, any revision of its
/// family matches.
pub fn same_definition(wanted: &str, running: &str) -> bool {
    let name = |definition: &str| definition.rsplit_once('/').map_or(definition, |(_, name)| name).to_string();
    let (wanted, running) = (name(wanted), name(running));
    if wanted.contains(':') { wanted == running } else { wanted == family(&running) }
}
