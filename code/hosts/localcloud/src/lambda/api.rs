//! Implements the Invoke API.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use uuid::Uuid;

use super::versions::Version;
use super::{Deployed, Fault, Lambda, Outcome};
use crate::body::read_bounded;

/// Maximum size of a request in bytes, and of a request of type `Event`:
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>.
const REQUEST_BYTES_MAX: usize = 6 * 1024 * 1024;
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// An error of the Invoke API itself.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Name of the exception, as in `x-amzn-ErrorType`.
    pub kind: String,
    /// Error message.
    pub message: String,
    /// Reason of throttling, for `TooManyRequestsException`.
    pub reason: Option<String>,
}

impl ApiError {
    /// Creates an error without a throttling reason.
    pub fn new(status: u16, kind: &str, message: impl Into<String>) -> ApiError {
        ApiError { status, kind: kind.to_string(), message: message.into(), reason: None }
    }

    /// Creates the error of an account whose concurrency is used up.
    pub fn throttled() -> ApiError {
        let reason = Some("ConcurrentInvocationLimitExceeded".to_string());
        ApiError { reason, ..ApiError::new(429, "TooManyRequestsException", "Rate Exceeded.") }
    }

    fn response(&self) -> Response<Body> {
        let mut body = json!({"Type": if self.status < 500 { "User" } else { "Service" }, "message": self.message});
        if let Some(reason) = &self.reason {
            body["Reason"] = Value::from(reason.as_str());
        }
        Response::builder()
            .status(self.status)
            .header("Content-Type", "application/json")
            .header("x-amzn-ErrorType", &self.kind)
            .header("x-amzn-RequestId", Uuid::new_v4().to_string())
            .body(Body::from(body.to_string()))
            .expect("an exception's name is a valid header")
    }
}

/// Handles one Invoke request for the function `name` (a name or an ARN, with or without a version or an alias) with the
/// query string `query`, which may have a `Qualifier`.
pub(crate) async fn answer(
    lambda: &Lambda,
    name: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Response<Body> {
    let target = find(lambda, name, query);
    let answered = match target {
        Ok((deployed, version)) => invoke(lambda, deployed, version, headers, body).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| error.response())
}

/// Returns the function and the version that a request names.
fn find(lambda: &Lambda, name: &str, query: Option<&str>) -> Result<(Arc<Deployed>, Version), ApiError> {
    let (short, qualifier) = short_name(name);
    let qualifier = qualifier.map(ToString::to_string).or_else(|| query.and_then(qualifier_of));
    let deployed = lambda.functions.get(short).map(Arc::clone);
    let version = deployed.as_ref().and_then(|deployed| deployed.versions.lock().find(qualifier.as_deref()));
    deployed.zip(version).ok_or_else(|| {
        let arn = lambda.account.version_arn(short, qualifier.as_deref().unwrap_or("$LATEST"));
        ApiError::new(404, "ResourceNotFoundException", format!("Function not found: {arn}"))
    })
}

async fn invoke(
    lambda: &Lambda,
    deployed: Arc<Deployed>,
    version: Version,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = match header("X-Amz-Invocation-Type") {
        "" => "RequestResponse",
        kind => kind,
    };
    if !["RequestResponse", "Event", "DryRun"].contains(&kind) {
        let message = format!("Value '{kind}' at 'invocationType' failed to satisfy constraint");
        return Err(ApiError::new(400, "InvalidParameterValueException", message));
    }
    let payload = read_payload(body, if kind == "Event" { EVENT_BYTES_MAX } else { REQUEST_BYTES_MAX }).await?;
    match kind {
        "DryRun" => Ok(accepted(StatusCode::NO_CONTENT, &version.name)),
        "Event" => {
            // The service queues events. It does not retry them: stacks of Buzz set `maximum_retry_attempts = 0`.
            let (lambda, executed) = (lambda.clone(), version.name.clone());
            tokio::spawn(async move {
                let Ok(permit) = Arc::clone(&lambda.capacity).acquire_owned().await else { return };
                let fault = deployed.next_fault();
                if let Err(error) = lambda.run(&deployed, &version, payload, fault).await {
                    tracing::error!(%error, "cannot start the instance of an event");
                }
                drop(permit);
            });
            Ok(accepted(StatusCode::ACCEPTED, &executed))
        }
        _ => {
            // In a Tokio task, so that the invocation continues if its caller disconnects.
            let (lambda, tail) = (lambda.clone(), header("X-Amz-Log-Type") == "Tail");
            let executed = version.name.clone();
            let outcome = tokio::spawn(async move { request(&lambda, &deployed, &version, payload).await }).await;
            let outcome = outcome.unwrap_or_else(|panic| Err(service_error(&panic.to_string())))?;
            Ok(invoked(outcome, tail, &executed))
        }
    }
}

async fn request(
    lambda: &Lambda,
    deployed: &Arc<Deployed>,
    version: &Version,
    payload: Bytes,
) -> Result<Outcome, ApiError> {
    let fault = deployed.next_fault();
    let room = match &fault {
        Some(Fault::Refuse(error)) => Err(error.clone()),
        _ => lambda.room().ok_or_else(ApiError::throttled),
    };
    let _permit = room.inspect_err(|error| {
        deployed.throttles.fetch_add(usize::from(error.status == 429), Ordering::Relaxed);
    })?;
    let outcome = match fault {
        Some(Fault::Twice) => run_twice(lambda, deployed, version, payload).await,
        fault => lambda.run(deployed, version, payload, fault).await,
    };
    outcome.map_err(|error| service_error(&error.to_string()))
}

/// Runs the same event on two instances concurrently and returns the later outcome.
async fn run_twice(
    lambda: &Lambda,
    deployed: &Arc<Deployed>,
    version: &Version,
    payload: Bytes,
) -> std::io::Result<Outcome> {
    let run = async || {
        let outcome = lambda.run(deployed, version, payload.clone(), None).await;
        (outcome, Instant::now())
    };
    let ((left, left_at), (right, right_at)) = tokio::join!(run(), run());
    if left_at > right_at { left } else { right }
}

async fn read_payload(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let unread = |error| ApiError::new(400, "InvalidRequestContentException", format!("Could not read: {error}"));
    let Some(payload) = read_bounded(body, bytes_max).await.map_err(unread)? else {
        let message = format!("Request must be smaller than {bytes_max} bytes for the InvokeFunction operation");
        return Err(ApiError::new(413, "RequestTooLargeException", message));
    };
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&payload);
    parsed.map_err(|error| {
        let message = format!("Could not parse request body into json: {error}");
        ApiError::new(400, "InvalidRequestContentException", message)
    })?;
    Ok(payload)
}

/// Extracts the function name, and the version or alias if there is one, from a name, an ARN or a partial ARN.
fn short_name(name: &str) -> (&str, Option<&str>) {
    let rest = name.split_once("function:").map_or(name, |(_, rest)| rest);
    match rest.split_once(':') {
        Some((short, qualifier)) => (short, Some(qualifier)),
        None => (rest, None),
    }
}

/// Returns the value of `Qualifier` in a query string. Of the characters of a qualifier, clients encode only `$`.
fn qualifier_of(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("Qualifier="))?;
    Some(value.replace("%24", "$"))
}

fn invoked(outcome: Outcome, tail: bool, version: &str) -> Response<Body> {
    let mut response = Response::builder()
        .header("Content-Type", "application/json")
        .header("X-Amz-Executed-Version", version)
        .header("x-amzn-RequestId", Uuid::new_v4().to_string());
    if outcome.failed {
        response = response.header("X-Amz-Function-Error", "Unhandled");
    }
    if tail {
        response = response.header("X-Amz-Log-Result", BASE64_STANDARD.encode(&outcome.log_tail));
    }
    response.body(Body::from(outcome.payload)).expect("versions and base64 are valid in headers")
}

fn accepted(status: StatusCode, version: &str) -> Response<Body> {
    let response = Response::builder().status(status).header("X-Amz-Executed-Version", version);
    response.body(Body::empty()).expect("a version is valid in a header")
}

fn service_error(message: &str) -> ApiError {
    ApiError::new(500, "ServiceException", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_and_version_are_found_by_name_and_by_arn() {
        assert_eq!(short_name("fuse"), ("fuse", None));
        assert_eq!(short_name("fuse:live"), ("fuse", Some("live")));
        assert_eq!(short_name("123456789012:function:fuse"), ("fuse", None));
        assert_eq!(short_name("arn:aws:lambda:us-east-2:123456789012:function:fuse:7"), ("fuse", Some("7")));
        assert_eq!(qualifier_of("a=b&Qualifier=%24LATEST").as_deref(), Some("$LATEST"));
        assert_eq!(qualifier_of("a=b"), None);
    }
}
