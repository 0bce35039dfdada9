//! What the answers of object stores mean to whoever asks a query.

use object_store::Error;

use crate::QueryError;

/// Codes by which S3 says that it does not accept the keys that a request is signed with.
/// [Documented here](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
const KEYS_REFUSED: &[&str] = &[
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "NotSignedUp",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
];

/// Statuses that another attempt may not get.
const PASSING: &[u16] = &[408, 409, 425, 429];

pub(crate) fn from_object_store(error: &Error) -> QueryError {
    match error {
        Error::NotFound { path, source } => match Answer::of(source.as_ref()) {
            Some(answer) if answer.code == "NoSuchBucket" => answer.meaning(),
            _ => QueryError::data(format!("there is no object `{path}`")),
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
    // The address of the instance metadata service, which is asked when nothing else gives credentials.
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
        return QueryError::data("the bucket is in another region than its `region` or AWS_REGION says");
    }
    match asked_host(&text) {
        Some(host) => QueryError::unavailable(format!("{store} at {host} does not answer: {}", deepest(source))),
        None => QueryError::unavailable(format!("{store}: {text}")),
    }
}

/// What S3 answered instead of what was asked for.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Its word for what is wrong; empty if the answer has no body.
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

    /// In brackets, what S3 says; and what can be done.
    fn why(&self) -> String {
        let said = match (self.code.as_str(), self.message.as_str()) {
            ("", _) => return String::new(),
            (code, "") => code.to_string(),
            (code, message) => format!("{code}, {message}"),
        };
        let help = match KEYS_REFUSED.contains(&self.code.as_str()) {
            true => "; look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            false => "",
        };
        format!(" ({}{help})", said.trim_end_matches('.'))
    }

    fn meaning(&self) -> QueryError {
        let bucket = || asked_place(&self.text).map(|place| format!(" (asked at {place})")).unwrap_or_default();
        match (self.status, self.code.as_str()) {
            (_, "NoSuchBucket") => QueryError::data(format!("there is no such bucket{}", bucket())),
            (401 | 403, _) => QueryError::data(format!("no permission to list or read the bucket{}", self.why())),
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
                QueryError::data(format!("the bucket is in another region{}; name it as `region`", self.why()))
            }
            (status, _) if (400..500).contains(&status) && !PASSING.contains(&status) => {
                QueryError::data(format!("S3 refuses with status {status}{}", self.why()))
            }
            _ => QueryError::unavailable(format!("S3: {}", self.text)),
        }
    }
}

/// The URL without its query in `text`, which tells of a request.
fn asked_place(text: &str) -> Option<&str> {
    let start = ["http://", "https://"].iter().filter_map(|scheme| text.find(scheme)).min()?;
    text[start..].split([' ', '?']).next()
}

/// Scheme, host and port of it.
fn asked_host(text: &str) -> Option<&str> {
    let place = asked_place(text)?;
    let (scheme, rest) = place.split_once("://")?;
    let host = rest.split('/').next()?;
    Some(&place[..scheme.len() + 3 + host.len()])
}

/// The last cause of `error`, which says what the machine knows.
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
    fn an_answer_of_s3_is_told_by_what_can_be_done() {
        let get = "Error performing list request: Error performing GET http://127.0.0.1:1/lake?list-type=2 in 1ms";
        let answered =
            |status: &str, body: &str| told(&format!("{get} - Server returned non-2xx status code: {status}: {body}"));
        let data = |message: &str| (ErrorKind::Data, message.to_string());
        assert_eq!(
            answered("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>"),
            data("there is no such bucket (asked at http://127.0.0.1:1/lake)")
        );
        assert_eq!(
            answered("403 Forbidden", "<Code>AccessDenied</Code><Message>Access Denied.</Message>"),
            data("no permission to list or read the bucket (AccessDenied, Access Denied)")
        );
        assert_eq!(
            answered("403 Forbidden", "<Code>SignatureDoesNotMatch</Code>"),
            data(
                "no permission to list or read the bucket (SignatureDoesNotMatch; look at AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN)"
            )
        );
        assert_eq!(answered("400 Bad Request", ""), data("S3 refuses with status 400"));
        assert_eq!(answered("503 Service Unavailable", "<Code>SlowDown</Code>").0, ErrorKind::Unavailable);
        assert_eq!(answered("429 Too Many Requests", "").0, ErrorKind::Unavailable);
        assert_eq!(told("Error performing PUT http://169.254.169.254/latest/api/token in 3ms").0, ErrorKind::Invalid);
        let (kind, message) = told(&format!("{get}, after 4 retries - HTTP error: error sending request"));
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(message.starts_with("S3 at http://127.0.0.1:1 does not answer: "), "{message}");
    }
}
