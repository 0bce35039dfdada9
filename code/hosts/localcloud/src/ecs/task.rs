//! The life cycle of one task, from `PROVISIONING` to `STOPPED`.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{AddressKind, Shared};
use crate::process::{Process, Program, describe};

/// Maximum number of open descriptors of a task: Fargate's default.
const DESCRIPTORS: u64 = 65_535;

/// The status of a task; the service has further intermediate states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Provisioning,
    Pending,
    Running,
    Stopping,
    Stopped,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Provisioning => "PROVISIONING",
            Status::Pending => "PENDING",
            Status::Running => "RUNNING",
            Status::Stopping => "STOPPING",
            Status::Stopped => "STOPPED",
        }
    }
}

/// The state of a task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) address: Ipv4Addr,
    pub(super) status: Status,
    pub(super) started_by: Option<String>,
    /// Overrides of the task definition in the request.
    pub(super) overrides: Value,
    pub(super) tags: Value,
    /// Stop code and reason, once the task stops.
    pub(super) stop: Option<(&'static str, String)>,
    pub(super) process: Option<Process>,
    pub(super) created: SystemTime,
    started: Option<SystemTime>,
    stopped: Option<SystemTime>,
    exit_code: Option<i32>,
    /// True if its container was killed for its use of memory.
    out_of_memory: bool,
}

impl Task {
    /// Returns true if calls that read know the task, which they do `lag` after its creation.
    pub(super) fn is_known(&self, lag: Duration) -> bool {
        crate::clock::now().duration_since(self.created).is_ok_and(|age| age >= lag)
    }

    pub(super) fn new(id: String, address: Ipv4Addr, request: &Value) -> Task {
        Task {
            id,
            address,
            status: Status::Provisioning,
            started_by: request["startedBy"].as_str().map(str::to_string),
            overrides: request["overrides"].clone(),
            tags: request["tags"].clone(),
            stop: None,
            process: None,
            created: crate::clock::now(),
            started: None,
            stopped: None,
            exit_code: None,
            out_of_memory: false,
        }
    }

    /// Marks the task as one whose container the kernel kills for its use of memory.
    pub(super) fn exceeds_memory(&mut self) {
        self.out_of_memory = true;
        self.stop.get_or_insert_with(|| ("EssentialContainerExited", "Essential container in task exited".to_string()));
    }

    pub(super) fn desired(&self) -> &'static str {
        if self.stop.is_some() || self.status == Status::Stopped { "STOPPED" } else { "RUNNING" }
    }

    /// Returns the JSON of the task for `DescribeTasks`.
    pub(super) fn describe(&self, shared: &Shared) -> Value {
        let (account, definition) = (&shared.account, &shared.definition);
        let arn = account.task_arn(&definition.cluster, &self.id);
        let attached = self.status != Status::Provisioning;
        let address = match definition.address {
            AddressKind::Ipv4 => ("privateIpv4Address", "privateIPv4Address", self.address.to_string()),
            AddressKind::Ipv6 => ("ipv6Address", "ipv6Address", format!("::ffff:{}", self.address)),
        };
        let (in_container, in_attachment, address) = address;
        let attachment = format!("attachment-{}", self.id);
        let mut container = json!({
            "containerArn": format!("{}/{}", arn.replace(":task/", ":container/"), definition.container),
            "taskArn": arn,
            "name": definition.container,
            "lastStatus": if self.status == Status::Stopping { "RUNNING" } else { self.status.name() },
            "healthStatus": "UNKNOWN",
            "networkInterfaces": if attached { json!([{"attachmentId": attachment, in_container: address}]) } else { json!([]) },
        });
        let mut task = json!({
            "taskArn": arn,
            "clusterArn": account.cluster_arn(&definition.cluster),
            "taskDefinitionArn": account.task_definition_arn(&definition.family),
            "group": format!("family:{}", definition.family),
            "lastStatus": self.status.name(),
            "desiredStatus": self.desired(),
            "connectivity": if attached { "CONNECTED" } else { "DISCONNECTED" },
            "launchType": "FARGATE",
            "platformVersion": "1.4.0",
            "createdAt": seconds(self.created),
            "overrides": if self.overrides.is_null() { json!({"containerOverrides": []}) } else { self.overrides.clone() },
            "tags": if self.tags.is_null() { json!([]) } else { self.tags.clone() },
            "attachments": [{
                "id": attachment,
                "type": "ElasticNetworkInterface",
                "status": if attached { "ATTACHED" } else { "PRECREATED" },
                "details": if attached { json!([{"name": in_attachment, "value": address}]) } else { json!([]) },
            }],
        });
        if let Some(started_by) = &self.started_by {
            task["startedBy"] = json!(started_by);
        }
        if let Some(started) = self.started {
            task["startedAt"] = json!(seconds(started));
        }
        if let Some(stopped) = self.stopped {
            task["stoppedAt"] = json!(seconds(stopped));
        }
        if let Some((code, reason)) = &self.stop {
            task["stopCode"] = json!(code);
            task["stoppedReason"] = json!(reason);
        }
        if let Some(code) = self.exit_code {
            container["exitCode"] = json!(code);
        }
        if self.out_of_memory {
            container["reason"] = json!("OutOfMemoryError: Container killed due to memory usage");
        }
        task["containers"] = json!([container]);
        task
    }
}

/// Runs the task `id` from its start to its end.
pub(super) async fn live(shared: Arc<Shared>, id: String) {
    let half = shared.definition.start_delay / 2;
    tokio::time::sleep(half).await;
    if !advance(&shared, &id, Status::Pending) {
        return;
    }
    tokio::time::sleep(half).await;
    let Some(program) = program(&shared, &id) else {
        return;
    };
    if shared.fails_to_start() {
        stopped(&shared, &id, None, "CannotPullContainerError: the registry did not respond");
        return;
    }
    let started = match program {
        Ok(program) => shared.spawner.start(program).await,
        Err(error) => Err(error),
    };
    let mut process = match started {
        Ok(process) => process,
        Err(error) => {
            stopped(&shared, &id, None, &format!("CannotStartContainerError: {error}"));
            return;
        }
    };
    {
        let mut state = shared.state();
        let Some(task) = state.tasks.get_mut(&id) else { return };
        (task.process, task.started) = (Some(process.clone()), Some(crate::clock::now()));
        if task.stop.is_none() {
            task.status = Status::Running;
        } else {
            process.signal(libc::SIGTERM);
        }
    }
    let status = process.ended().await;
    // The exit code of a container that ended by a signal: 128 + signal number.
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
    tracing::info!(task = id, how = describe(status), "a task has ended");
    stopped(&shared, &id, code, "Essential container in task exited");
}

/// Sets the status of a task and returns true. If a stop was requested, marks the task as stopped and returns false.
fn advance(shared: &Shared, id: &str, status: Status) -> bool {
    let mut state = shared.state();
    let Some(task) = state.tasks.get_mut(id) else {
        return false;
    };
    if task.stop.is_some() {
        (task.status, task.stopped) = (Status::Stopped, Some(crate::clock::now()));
        return false;
    }
    task.status = status;
    true
}

/// Returns the program of a task, or `None` if a stop was requested.
fn program(shared: &Shared, id: &str) -> Option<std::io::Result<Program>> {
    if !advance(shared, id, Status::Pending) {
        return None;
    }
    let state = shared.state();
    let task = state.tasks.get(id)?;
    let (account, definition) = (&shared.account, &shared.definition);
    let make = || {
        let folder = account.scratch.join(format!("task-{id}"));
        let logs = account.logs.join(&definition.family);
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&logs)?;
        let mut environment = account.environment(&account.keys.issue());
        environment.insert("TMPDIR".to_string(), folder.display().to_string());
        environment.insert(definition.listen_variable.clone(), task.address.to_string());
        environment.extend(definition.environment.clone());
        let overridden = task.overrides["containerOverrides"].as_array().into_iter().flatten();
        for variable in overridden.filter_map(|container| container["environment"].as_array()).flatten() {
            if let (Some(name), Some(value)) = (variable["name"].as_str(), variable["value"].as_str()) {
                environment.insert(name.to_string(), value.to_string());
            }
        }
        let (path, log) = (definition.program.clone(), logs.join(format!("{id}.log")));
        Ok(Program { path, environment, folder, log, descriptors: DESCRIPTORS })
    };
    Some(make())
}

fn stopped(shared: &Shared, id: &str, exit_code: Option<i32>, reason: &str) {
    let mut state = shared.state();
    if let Some(task) = state.tasks.get_mut(id) {
        let code = if exit_code.is_some() { "EssentialContainerExited" } else { "TaskFailedToStart" };
        task.stop.get_or_insert_with(|| (code, reason.to_string()));
        (task.status, task.stopped, task.exit_code) = (Status::Stopped, Some(crate::clock::now()), exit_code);
    }
    // The folder holds spilled rows. The log is in another folder.
    let _absent = fs::remove_dir_all(shared.account.scratch.join(format!("task-{id}")));
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
