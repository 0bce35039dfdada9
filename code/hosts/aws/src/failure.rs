//! Converts failures of calls to AWS into errors with a kind.
//!
//! A failure of the function is in the answer (header `X-Amz-Function-Error`). Its `errorType` is one of Buzz's error
//! kinds, or a word of the service if the process stopped. A failure of the call is an API error or a missing answer.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use buzz_protocol::{ErrorKind, QueryError};
use serde::Deserialize;

/// The failure of a function, as the service returns it
/// ([documentation](https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-invokeerror)).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FunctionFailure {
    /// One of Buzz's error kinds, or a word of the service such as `Sandbox.Timedout`.
    pub error_type: String,
    /// Text of the failure.
    pub error_message: String,
}

/// Returns the error kind with this name.
pub fn kind_named(name: &str) -> Option<ErrorKind> {
    use ErrorKind::{Cancelled, Data, Internal, Invalid, Limit, Unavailable};
    [Invalid, Data, Unavailable, Limit, Cancelled, Internal].into_iter().find(|kind| kind.to_string() == name)
}

/// Converts the payload of a failed invocation of `function` to an error.
pub fn of_function(function: &str, payload: &[u8]) -> QueryError {
    let failure: FunctionFailure = serde_json::from_slice(payload).unwrap_or_else(|_| FunctionFailure {
        error_type: String::new(),
        error_message: String::from_utf8_lossy(payload).into_owned(),
    });
    let FunctionFailure { error_type, error_message } = failure;
    if let Some(kind) = kind_named(&error_type) {
        return QueryError::new(kind, error_message);
    }
    let message = error_message.trim();
    match stopped(&error_type, message) {
        Some(Stop::TimedOut) => QueryError::limit(format!(
            "function {function} timed out ({message}); raise its timeout, or make tasks smaller with the options \
             `task_bytes` or `tasks`"
        )),
        Some(Stop::OutOfMemory) => QueryError::out_of_memory(format!(
            "function {function} ran out of memory ({message}); raise its memory size, or make tasks smaller with the \
             options `task_bytes` or `tasks`"
        )),
        Some(Stop::Process) => QueryError::unavailable(format!("function {function} stopped: {error_type}: {message}")),
        None => QueryError::internal(format!("function {function} failed: {error_type}: {message}")),
    }
}

/// The reason why the service stopped a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    TimedOut,
    OutOfMemory,
    Process,
}

/// Returns why the service stopped a function. Two reasons have no error type of their own, and only the text tells:
///
/// - A timeout without `Sandbox.Timedout`: `… Task timed out after 3.00 seconds`, with no or another type.
/// - Missing memory of a custom runtime: the service kills the process and reports `Runtime.ExitError` and
///   `Runtime exited with error: signal: killed`.
fn stopped(error_type: &str, message: &str) -> Option<Stop> {
    let of_service =
        error_type.split_once('.').is_some_and(|(part, _)| ["Runtime", "Extension", "Sandbox"].contains(&part));
    match error_type {
        "Sandbox.Timedout" => Some(Stop::TimedOut),
        "Runtime.OutOfMemory" => Some(Stop::OutOfMemory),
        _ if !of_service && !error_type.is_empty() => None,
        _ if message.contains("Task timed out after ") => Some(Stop::TimedOut),
        "Runtime.ExitError" if message.contains("signal: killed") => Some(Stop::OutOfMemory),
        _ if of_service => Some(Stop::Process),
        _ => None,
    }
}

/// Returns true if a call failed because all workers are busy or the function is not ready yet. Nothing ran.
pub fn came_too_early<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    const TOO_EARLY: [&str; 8] = [
        "TooManyRequestsException",
        "ThrottlingException",
        "Ec2ThrottledException",
        "EC2ThrottledException",
        "ENINotReadyException",
        "ResourceNotReadyException",
        "ResourceConflictException",
        "SnapStartNotReadyException",
    ];
    error.code().is_some_and(|code| TOO_EARLY.contains(&code))
}

/// Returns the time after which the service accepts a retry, if it sent one
/// ([`TooManyRequestsException`](https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors)).
pub fn retry_after<E>(error: &SdkError<E>) -> Option<Duration> {
    let headers = error.raw_response()?.headers();
    let number = |name| headers.get(name).and_then(|value| value.trim().parse().ok());
    let seconds = number("retry-after").map(Duration::from_secs);
    seconds.or_else(|| number("x-amz-retry-after").map(Duration::from_millis))
}

/// Converts a failed call of `action` on `resource` to an error.
pub fn of_call<E>(action: &str, resource: &str, error: &SdkError<E>) -> QueryError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    kind_of_call(action, resource, status, error).retry_after(retry_after(error))
}

fn kind_of_call<E>(action: &str, resource: &str, status: Option<u16>, error: &SdkError<E>) -> QueryError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let call = format!("{action} on {resource}");
    let said = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_string(),
        (None, _) => causes(error),
    };
    match error {
        _ if no_credentials(error) => QueryError::invalid(format!(
            "{call}: there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set \
                 AWS_PROFILE to a profile with keys or a role; for a profile with single sign-on or a program, install \
                 version 2 of the AWS command line, or log in with `aws sso login`"
        )),
        SdkError::ConstructionFailure(_) => QueryError::internal(format!("{call}: invalid request: {said}")),
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            QueryError::unavailable(format!("{call}: no answer: {said}"))
        }
        _ if came_too_early(error) || status.is_some_and(|status| status == 429 || status >= 500) => {
            QueryError::unavailable(format!("{call}: {said}"))
        }
        _ => match status {
            Some(403) => QueryError::invalid(format!("{call} is not allowed: {said}")),
            Some(404) => QueryError::invalid(format!("{call}: {resource} does not exist: {said}")),
            _ => QueryError::internal(format!("{call}: {said}")),
        },
    }
}

/// Returns true if a call was not sent because no source has credentials.
fn no_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |&cause| cause.source());
    let failure = chain.find_map(|cause| cause.downcast_ref::<CredentialsError>());
    matches!(
        failure,
        Some(
            CredentialsError::CredentialsNotLoaded(_)
                | CredentialsError::InvalidConfiguration(_)
                | CredentialsError::ProviderTimedOut(_)
        )
    )
}

/// Returns the text of an error and its causes, which the SDK's own text omits.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error_type: &str, message: &str) -> ErrorKind {
        let payload = serde_json::json!({"errorType": error_type, "errorMessage": message}).to_string();
        of_function("hbee", payload.as_bytes()).kind
    }

    #[test]
    fn function_failure_keeps_its_kind() {
        for name in ["Invalid", "Data", "Unavailable", "Limit", "Cancelled", "Internal"] {
            assert_eq!(kind(name, "x").to_string(), name);
        }
        let payload = br#"{"errorType": "Data", "errorMessage": "step `m`, task 3: file `a` is truncated"}"#;
        assert_eq!(of_function("hbee", payload).to_string(), "step `m`, task 3: file `a` is truncated");
    }

    #[test]
    fn out_of_memory_and_timeout_are_limit_errors() {
        assert_eq!(
            kind("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: signal: killed"),
            ErrorKind::Limit
        );
        assert_eq!(kind("Runtime.OutOfMemory", "…"), ErrorKind::Limit);
        assert_eq!(kind("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 3.00 seconds"), ErrorKind::Limit);
    }

    #[test]
    fn each_text_of_the_service_is_recognised_with_its_type_only() {
        let timed_out = "2026-01-01T00:00:00Z 1 Task timed out after 3.00 seconds";
        assert_eq!(stopped("", timed_out), Some(Stop::TimedOut));
        assert_eq!(stopped("Runtime.Unknown", timed_out), Some(Stop::TimedOut));
        assert_eq!(stopped("Error", timed_out), None, "a text of another program");
        let killed = "RequestId: 1 Error: Runtime exited with error: signal: killed";
        assert_eq!(stopped("Runtime.ExitError", killed), Some(Stop::OutOfMemory));
        assert_eq!(stopped("Extension.Crash", killed), Some(Stop::Process));
        assert_eq!(stopped("Error", killed), None);
    }

    #[test]
    fn stopped_process_is_unavailable() {
        assert_eq!(kind("Runtime.ExitError", "Runtime exited with error: exit status 1"), ErrorKind::Unavailable);
        assert_eq!(kind("Runtime.ExitError", "Runtime exited with error: signal: aborted"), ErrorKind::Unavailable);
        assert_eq!(kind("Extension.Crash", "…"), ErrorKind::Unavailable);
    }

    #[test]
    fn unknown_failure_is_internal() {
        assert_eq!(kind("alloc::boxed::Box<dyn Error>", "no"), ErrorKind::Internal);
        assert_eq!(of_function("hbee", b"not json").to_string(), "function hbee failed: : not json");
    }
}
