//! Implements the JSON protocol of ECS: `RunTask`, `ListTasks`, `DescribeTasks`, `StopTask`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use super::task::{Status, Task, live};
use super::{Ecs, Shared};
use crate::body::read_bounded;

const TARGET: &str = "AmazonEC2ContainerServiceV20141113.";
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Limits of the service for one call.
const RUN_MAX: u64 = 10;
const DESCRIBE_MAX: usize = 100;
const LIST_MAX: usize = 100;
const TOKEN_LENGTH_MAX: usize = 64;

/// Checks if a request is for ECS.
pub(crate) fn is_ecs(headers: &HeaderMap) -> bool {
    action(headers).is_some()
}

fn action(headers: &HeaderMap) -> Option<&str> {
    headers.get("X-Amz-Target")?.to_str().ok()?.strip_prefix(TARGET)
}

/// An exception of the service: name, message and further fields.
struct Exception(&'static str, String, Value);

type Result<T> = std::result::Result<T, Exception>;

fn exception<T>(name: &'static str, message: impl Into<String>) -> Result<T> {
    Err(Exception(name, message.into(), Value::Null))
}

/// Answers one request.
pub(crate) async fn answer(ecs: &Ecs, headers: &HeaderMap, body: Body) -> Response<Body> {
    let result = match read_bounded(body, REQUEST_BYTES_MAX).await {
        Ok(Some(body)) => match serde_json::from_slice(&body) {
            Ok(request) => call(&ecs.0, action(headers).unwrap_or_default(), &request),
            Err(error) => exception("SerializationException", error.to_string()),
        },
        _ => exception("InvalidParameterException", "cannot read the request"),
    };
    let (status, answer) = match result {
        Ok(answer) => (200, answer),
        Err(Exception(name, message, mut answer)) => {
            if answer.is_null() {
                answer = json!({});
            }
            (answer["__type"], answer["message"]) = (json!(name), json!(message));
            (if name == "ServerException" { 500 } else { 400 }, answer)
        }
    };
    Response::builder()
        .status(status)
        .header("Content-Type", "application/x-amz-json-1.1")
        .header("x-amzn-RequestId", Uuid::new_v4().to_string())
        .body(Body::from(answer.to_string()))
        .expect("constant headers are valid")
}

fn call(shared: &Arc<Shared>, action: &str, request: &Value) -> Result<Value> {
    check_cluster(shared, request)?;
    check_rate(shared)?;
    match action {
        "RunTask" => run_task(shared, request),
        "ListTasks" => list_tasks(shared, request),
        "DescribeTasks" => describe_tasks(shared, request),
        "StopTask" => stop_task(shared, request),
        action => {
            exception("UnknownOperationException", format!("the local cloud does not support the action {action}"))
        }
    }
}

fn check_rate(shared: &Shared) -> Result<()> {
    let mut state = shared.state();
    if state.throttles == 0 {
        return Ok(());
    }
    state.throttles -= 1;
    exception("ThrottlingException", "Rate exceeded")
}

fn check_cluster(shared: &Shared, request: &Value) -> Result<()> {
    let cluster = request["cluster"].as_str().unwrap_or("default");
    let known = &shared.definition.cluster;
    if cluster == known || cluster == shared.account.cluster_arn(known) {
        return Ok(());
    }
    exception("ClusterNotFoundException", "Cluster not found.")
}

fn run_task(shared: &Arc<Shared>, request: &Value) -> Result<Value> {
    let family = &shared.definition.family;
    let named = request["taskDefinition"].as_str().unwrap_or_default();
    let known = [family.clone(), format!("{family}:1"), shared.account.task_definition_arn(family)];
    if !known.iter().any(|known| known == named) {
        return exception("ClientException", "TaskDefinition not found.");
    }
    let subnets = &request["networkConfiguration"]["awsvpcConfiguration"]["subnets"];
    if subnets.as_array().is_none_or(Vec::is_empty) {
        let message = "Network Configuration must be provided when networkMode 'awsvpc' is specified.";
        return exception("InvalidParameterException", message);
    }
    let count = request["count"].as_u64().unwrap_or(1);
    if !(1..=RUN_MAX).contains(&count) {
        return exception("InvalidParameterException", format!("Count must be between 1 and {RUN_MAX}."));
    }
    let token = request["clientToken"].as_str();
    if token.is_some_and(|token| token.is_empty() || token.len() > TOKEN_LENGTH_MAX) {
        let message = format!("clientToken must have 1 to {TOKEN_LENGTH_MAX} characters.");
        return exception("InvalidParameterException", message);
    }

    let mut state = shared.state();
    state.calls += 1;
    if let Some((parameters, ids)) = token.and_then(|token| state.tokens.get(token)) {
        if parameters == request {
            let tasks: Vec<Value> = ids.iter().map(|id| state.tasks[id].describe(shared)).collect();
            return Ok(json!({"tasks": tasks, "failures": []}));
        }
        let cluster = &shared.definition.cluster;
        let arns: Vec<String> = ids.iter().map(|id| shared.account.task_arn(cluster, id)).collect();
        let message = "The parameters of the request differ from those of an earlier one with the same clientToken.";
        return Err(Exception("ConflictException", message.to_string(), json!({"resourceIds": arns})));
    }
    if state.refusals > 0 {
        state.refusals -= 1;
        return Err(Exception("ClientException", "Capacity is unavailable at this time".to_string(), Value::Null));
    }
    let mut ids = Vec::new();
    for _ in 0..count {
        let Some(address) = shared.free_address() else {
            return exception("ServerException", "no free loopback address found");
        };
        let id = Uuid::new_v4().simple().to_string();
        state.tasks.insert(id.clone(), Task::new(id.clone(), address, request));
        tokio::spawn(live(Arc::clone(shared), id.clone()));
        ids.push(id);
    }
    if let Some(token) = token {
        state.tokens.insert(token.to_string(), (request.clone(), ids.clone()));
    }
    let tasks: Vec<Value> = ids.iter().map(|id| state.tasks[id].describe(shared)).collect();
    Ok(json!({"tasks": tasks, "failures": []}))
}

fn list_tasks(shared: &Shared, request: &Value) -> Result<Value> {
    let (family, started_by) = (request["family"].as_str(), request["startedBy"].as_str());
    if started_by.is_some() && family.is_some() {
        return exception("InvalidParameterException", "startedBy cannot be used together with another filter.");
    }
    let desired = request["desiredStatus"].as_str().unwrap_or("RUNNING");
    let state = shared.state();
    let mut found: Vec<&Task> = state
        .tasks
        .values()
        .filter(|task| task.is_known(state.lag))
        .filter(|task| task.desired() == desired)
        .filter(|_| family.is_none_or(|family| family == shared.definition.family))
        .filter(|task| started_by.is_none_or(|by| task.started_by.as_deref() == Some(by)))
        .collect();
    found.sort_by_key(|task| (task.created, task.id.clone()));
    let first: usize = request["nextToken"].as_str().and_then(|token| token.parse().ok()).unwrap_or(0);
    let page = request["maxResults"].as_u64().and_then(|max| usize::try_from(max).ok()).unwrap_or(LIST_MAX);
    let page = page.clamp(1, LIST_MAX);
    let cluster = &shared.definition.cluster;
    let ids = found.iter().skip(first).take(page).map(|task| shared.account.task_arn(cluster, &task.id));
    let mut answer = json!({"taskArns": ids.collect::<Vec<_>>()});
    if first + page < found.len() {
        answer["nextToken"] = json!((first + page).to_string());
    }
    Ok(answer)
}

fn describe_tasks(shared: &Shared, request: &Value) -> Result<Value> {
    let Some(wanted) = request["tasks"].as_array().filter(|tasks| !tasks.is_empty()) else {
        return exception("InvalidParameterException", "Tasks cannot be empty.");
    };
    if wanted.len() > DESCRIBE_MAX {
        return exception(
            "InvalidParameterException",
            format!("At most {DESCRIBE_MAX} tasks can be described at once."),
        );
    }
    let state = shared.state();
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for arn in wanted.iter().filter_map(Value::as_str) {
        match state.tasks.get(short_id(arn)).filter(|task| task.is_known(state.lag)) {
            Some(task) => tasks.push(task.describe(shared)),
            None => failures.push(json!({"arn": arn, "reason": "MISSING"})),
        }
    }
    Ok(json!({"tasks": tasks, "failures": failures}))
}

fn stop_task(shared: &Arc<Shared>, request: &Value) -> Result<Value> {
    let id = short_id(request["task"].as_str().unwrap_or_default()).to_string();
    let mut state = shared.state();
    let Some(task) = state.tasks.get_mut(&id) else {
        return exception("InvalidParameterException", "The referenced task was not found.");
    };
    if task.stop.is_none() {
        let reason = request["reason"].as_str().unwrap_or("Task stopped by user");
        task.stop = Some(("UserInitiated", reason.to_string()));
        if let Some(process) = task.process.clone() {
            task.status = Status::Stopping;
            process.signal(libc::SIGTERM);
            let patience = shared.definition.stop_timeout;
            tokio::spawn(async move {
                tokio::time::sleep(patience).await;
                process.signal(libc::SIGKILL);
            });
        }
    }
    let described = task.describe(shared);
    Ok(json!({"task": described}))
}

fn short_id(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}
