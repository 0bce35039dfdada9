//! Converts failures of calls to AWS into errors with a kind.
//!
//! A failure of the function is in the answer (header `X-Amz-Function-Error`). Its `errorType` is one of Buzz's error
//! kinds, or a word of the service if the process stopped. A failure of the call is an API error or a missing answer.

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
    if error_type == "Sandbox.Timedout" || message.contains("Task timed out") {
        return QueryError::limit(format!(
            "function {function} timed out ({message}); raise its timeout, or make tasks smaller with the options \
             `task_bytes` or `tasks`"
        ));
    }
    // For a custom runtime, the service has no error type for missing memory: it kills the process.
    if error_type == "Runtime.OutOfMemory" || message.contains("signal: killed") {
        return QueryError::limit(format!(
            "function {function} ran out of memory ({message}); raise its memory size, or make tasks smaller with the \
             options `task_bytes` or `tasks`"
        ));
    }
    if ["Runtime.", "Extension.", "Sandbox."].iter().any(|prefix| error_type.starts_with(prefix)) {
        return QueryError::unavailable(format!("function {function} stopped: {error_type}: {message}"));
    }
    QueryError::internal(format!("function {function} failed: {error_type}: {message}"))
}

/// Returns true if a call failed because all workers are busy or the function is not ready yet. Nothing ran.
pub fn came_too_early<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
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

/// Converts a failed call of `action` on `resource` to an error. `status` is the HTTP status, if there was an answer.
pub fn of_call<E, R>(action: &str, resource: &str, status: Option<u16>, error: &SdkError<E, R>) -> QueryError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let call = format!("{action} on {resource}");
    let said = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_string(),
        (None, _) => causes(error),
    };
    match error {
        SdkError::ConstructionFailure(_) => QueryError::internal(format!("{call}: invalid request: {said}")),
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) if no_credentials(&said) => {
            QueryError::invalid(format!(
                "{call}: there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set \
                 AWS_PROFILE to a profile with keys or a role; for a profile with single sign-on or a program, export \
                 its keys with `eval \"$(aws configure export-credentials --format env)\"`"
            ))
        }
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

fn no_credentials(said: &str) -> bool {
    said.contains("credentials provider") || said.contains("no providers in chain")
}

/// Returns the text of an error and its causes, which the SDK's own text omits.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
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
