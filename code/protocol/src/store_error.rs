//! Conversion of object store errors into errors for the user.

use object_store::Error;

use crate::QueryError;

/// Error codes of S3 for requests that are signed with keys it rejects.
/// [Documented here](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
const KEYS_REFUSED: &[&str] = &[
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "NotSignedUp",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
];

/// Statuses of temporary failures: a retry may succeed.
const PASSING: &[u16] = &[408, 409, 425, 429];

pub(crate) fn from_object_store(error: &Error) -> QueryError {
    match error {
        Error::NotFound { path, source } => match Answer::of(source.as_ref()) {
            Some(answer) if answer.code == "NoSuchBucket" => answer.meaning(),
            _ => QueryError::data(format!("object `{path}` does not exist")),
        },
        Error::PermissionDenied { path, source } | Error::Unauthenticated { path, source } => {
            let why = Answer::of(source.as_ref()).map(|answer| answer.why()).unwrap_or_default();
            QueryError::data(format!("no permission to read `{path}`{why}"))
        }
        Error::Generic { source, store } => {
            if let Some(known) = source.downcast_ref::<QueryError>() {
                return known.clone();
            }
            generic(store, source.as_ref())
        }
        other => QueryError::data(other.to_string()),
    }
}

fn generic(store: &str, source: &(dyn std::error::Error + 'static)) -> QueryError {
    if store == "LocalFileSystem" {
        let cause = source.source().map(|inner| format!(": {inner}")).unwrap_or_default();
        return QueryError::data(format!("{source}{cause}"));
    }
    let text = source.to_string();
    // The address of the instance metadata service, the last source of credentials that is tried.
    if text.contains("169.254.169.254") {
        return QueryError::invalid(format!(
            "{store}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
             AWS_SKIP_SIGNATURE=true for a public bucket"
        ));
    }
    if let Some(answer) = Answer::of(source) {
        return answer.meaning();
    }
    if text.contains("redirect without LOCATION") {
        return QueryError::data("the bucket is in another region than `region` or AWS_REGION; set its own region");
    }
    match asked_host(&text) {
        Some(host) => QueryError::unavailable(format!("{store} at {host} does not answer: {}", deepest(source))),
        None => QueryError::unavailable(format!("{store}: {text}")),
    }
}

/// An error response of S3.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// S3's error code; empty if the response has no body.
    code: String,
    message: String,
    text: String,
}

impl Answer {
    fn of(source: &(dyn std::error::Error + 'static)) -> Option<Answer> {
        let text = source.to_string();
        let (_, answer) = text.split_once("non-2xx status code: ")?;
        let status = answer.split_whitespace().next()?.parse().ok()?;
        let between = |tag: &str| {
            let (_, rest) = answer.split_once(&format!("<{tag}>"))?;
            Some(rest.split_once("</")?.0.trim().to_string())
        };
        let (code, message) = (between("Code").unwrap_or_default(), between("Message").unwrap_or_default());
        Some(Answer { status, code, message, text })
    }

    /// Returns S3's code and message in brackets, with a remedy if the keys were rejected.
    fn why(&self) -> String {
        let said = match (self.code.as_str(), self.message.as_str()) {
            ("", _) => return String::new(),
            (code, "") => code.to_string(),
            (code, message) => format!("{code}, {message}"),
        };
        let help = match KEYS_REFUSED.contains(&self.code.as_str()) {
            true => "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            false => "",
        };
        format!(" ({}{help})", said.trim_end_matches('.'))
    }

    fn meaning(&self) -> QueryError {
        let bucket = || asked_place(&self.text).map(|place| format!(" (requested from {place})")).unwrap_or_default();
        match (self.status, self.code.as_str()) {
            (_, "NoSuchBucket") => QueryError::data(format!("the bucket does not exist{}", bucket())),
            (401 | 403, _) => QueryError::data(format!("no permission to list or read the bucket{}", self.why())),
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
                QueryError::data(format!("the bucket is in another region{}; set it as `region`", self.why()))
            }
            (status, _) if (400..500).contains(&status) && !PASSING.contains(&status) => {
                QueryError::data(format!("S3 rejected the request with status {status}{}", self.why()))
            }
            _ => QueryError::unavailable(format!("S3: {}", self.text)),
        }
    }
}

/// Returns the first URL in `text`, without its query.
fn asked_place(text: &str) -> Option<&str> {
    let start = ["http://", "https://"].iter().filter_map(|scheme| text.find(scheme)).min()?;
    text[start..].split([' ', '?']).next()
}

/// Returns scheme, host and port of the first URL in `text`.
fn asked_host(text: &str) -> Option<&str> {
    let place = asked_place(text)?;
    let (scheme, rest) = place.split_once("://")?;
    let host = rest.split('/').next()?;
    Some(&place[..scheme.len() + 3 + host.len()])
}

/// Returns the innermost cause of `error`, which is the message of the operating system.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn told(text: &str) -> (ErrorKind, String) {
        let error = from_object_store(&Error::Generic { store: "S3", source: text.into() });
        (error.kind, error.message)
    }

    #[test]
    fn s3_error_gets_kind_and_remedy() {
        let get = "Error performing list request: Error performing GET http://127.0.0.1:1/lake?list-type=2 in 1ms";
        let answered =
            |status: &str, body: &str| told(&format!("{get} - Server returned non-2xx status code: {status}: {body}"));
        let data = |message: &str| (ErrorKind::Data, message.to_string());
        assert_eq!(
            answered("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>"),
            data("the bucket does not exist (requested from http://127.0.0.1:1/lake)")
        );
        assert_eq!(
            answered("403 Forbidden", "<Code>AccessDenied</Code><Message>Access Denied.</Message>"),
            data("no permission to list or read the bucket (AccessDenied, Access Denied)")
        );
        assert_eq!(
            answered("403 Forbidden", "<Code>SignatureDoesNotMatch</Code>"),
            data(
                "no permission to list or read the bucket (SignatureDoesNotMatch; check AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN)"
            )
        );
        assert_eq!(answered("400 Bad Request", ""), data("S3 rejected the request with status 400"));
        assert_eq!(answered("503 Service Unavailable", "<Code>SlowDown</Code>").0, ErrorKind::Unavailable);
        assert_eq!(answered("429 Too Many Requests", "").0, ErrorKind::Unavailable);
        assert_eq!(told("Error performing PUT http://169.254.169.254/latest/api/token in 3ms").0, ErrorKind::Invalid);
        let (kind, message) = told(&format!("{get}, after 4 retries - HTTP error: error sending request"));
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(message.starts_with("S3 at http://127.0.0.1:1 does not answer: "), "{message}");
    }
}
