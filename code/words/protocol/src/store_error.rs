//! Conversion of object store errors into errors for the user.

use std::error::Error;
use std::time::Duration;

use object_store::Error as StoreError;
use serde::{Deserialize, Serialize};
use url::Url;

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

/// Addresses of the instance metadata service, the last source of credentials that is tried.
const METADATA_HOSTS: &[&str] = &["169.254.169.254", "[fd00:ec2::254]"];

pub(crate) fn from_object_store(error: &StoreError) -> QueryError {
    match error {
        StoreError::NotFound { path, source } => match StoreAnswer::of(source.as_ref()) {
            Some(answer) if answer.code == "NoSuchBucket" => answer.meaning(),
            _ => QueryError::data(format!("object `{path}` does not exist")),
        },
        StoreError::PermissionDenied { path, source } | StoreError::Unauthenticated { path, source } => {
            let why = StoreAnswer::of(source.as_ref()).map(|answer| answer.why()).unwrap_or_default();
            QueryError::data(format!("no permission to read `{path}`{why}"))
        }
        StoreError::Generic { source, store } => {
            if let Some(known) = source.downcast_ref::<QueryError>() {
                return known.clone();
            }
            generic(store, source.as_ref())
        }
        other => QueryError::data(other.to_string()),
    }
}

fn generic(store: &str, source: &(dyn Error + 'static)) -> QueryError {
    if store == "LocalFileSystem" {
        let cause = source.source().map(|inner| format!(": {inner}")).unwrap_or_default();
        return QueryError::data(format!("{source}{cause}"));
    }
    let (answer, silent) =
        (StoreAnswer::of(source), causes(source).find_map(|cause| cause.downcast_ref::<StoreSilent>()));
    let asked = answer.as_ref().map(|answer| &answer.place).or(silent.map(|silent| &silent.place));
    if asked.and_then(Url::host_str).is_some_and(|host| METADATA_HOSTS.contains(&host)) {
        return QueryError::invalid(format!(
            "{store}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
             AWS_SKIP_SIGNATURE=true for a public bucket"
        ));
    }
    match (answer, silent) {
        (Some(answer), _) => answer.meaning(),
        (None, Some(silent)) => {
            let host = silent.place.origin().ascii_serialization();
            QueryError::unavailable(format!("{store} at {host} does not answer: {}", deepest(source)))
        }
        // Stores use this variant for all that they cannot classify, which is mostly a broken response.
        (None, None) => QueryError::unavailable(format!("{store}: {source}")),
    }
}

/// The failure of a request to a store: no response came.
#[derive(Debug, thiserror::Error)]
#[error("{place} does not answer: {source}")]
pub struct StoreSilent {
    /// The URL of the request, without its query.
    pub place: Url,
    /// The reason.
    pub source: Box<dyn Error + Send + Sync>,
}

/// An error response of a store over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.to_body())]
pub struct StoreAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The URL of the request, without its query.
    pub place: Url,
    /// S3's error code; empty if the response has none.
    pub code: String,
    /// S3's message; empty if the response has none.
    pub message: String,
    /// Time after which the store accepts a retry, if it sent one.
    pub retry_after: Option<Duration>,
}

/// Start of an error response in JSON, as the body of a response.
const CARRIED: &str = "buzz store answer ";

impl StoreAnswer {
    /// Reads an error response of S3, whose `body` is
    /// [XML](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#RESTErrorResponses).
    pub fn new(status: u16, place: Url, body: &str, retry_after: Option<Duration>) -> Self {
        let between = |tag: &str| {
            let (_, rest) = body.split_once(&format!("<{tag}>"))?;
            Some(rest.split_once("</")?.0.trim().to_string())
        };
        let (code, message) = (between("Code").unwrap_or_default(), between("Message").unwrap_or_default());
        Self { status, place, code, message, retry_after }
    }

    /// Encodes the answer as the body of a response. The error type of `object_store` for statuses is private and keeps
    /// the body only, within its text, so all fields are sent in it.
    pub fn to_body(&self) -> String {
        let json = serde_json::to_string(self).expect("an answer of strings and numbers has a JSON");
        format!("{CARRIED}{json}")
    }

    /// Returns the answer that caused `source`.
    fn of(source: &(dyn Error + 'static)) -> Option<StoreAnswer> {
        if let Some(answer) = causes(source).find_map(|cause| cause.downcast_ref::<StoreAnswer>()) {
            return Some(answer.clone());
        }
        let text = source.to_string();
        let (_, json) = text.split_once(CARRIED)?;
        serde_json::Deserializer::from_str(json).into_iter().next()?.ok()
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
        let error = match (self.status, self.code.as_str()) {
            (_, "NoSuchBucket") => {
                QueryError::data(format!("the bucket does not exist (requested from {})", self.place))
            }
            (401 | 403, _) => QueryError::data(format!("no permission to list or read the bucket{}", self.why())),
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
                QueryError::data(format!("the bucket is in another region{}; set it as `region`", self.why()))
            }
            (300..400, _) => {
                QueryError::data("the bucket is in another region than `region` or AWS_REGION; set its own region")
            }
            (status @ 400..500, _) if !PASSING.contains(&status) => {
                QueryError::data(format!("S3 rejected the request with status {status}{}", self.why()))
            }
            (status, _) => {
                let host = self.place.origin().ascii_serialization();
                QueryError::unavailable(format!("S3 at {host} answered with status {status}{}", self.why()))
            }
        };
        error.retry_after(self.retry_after)
    }
}

/// Returns `error` and its causes.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

/// Returns the innermost cause of `error`, which is the message of the operating system.
fn deepest(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use object_store::client::{HttpError, HttpErrorKind};

    use super::*;
    use crate::ErrorKind;

    fn lake() -> Url {
        "http://127.0.0.1:1/lake".parse().unwrap()
    }

    fn told(source: Box<dyn Error + Send + Sync>) -> (ErrorKind, String) {
        let error = from_object_store(&StoreError::Generic { store: "S3", source });
        (error.kind, error.message)
    }

    /// An answer, in the text of an error as `object_store` makes it.
    fn in_text(answer: &StoreAnswer) -> Box<dyn Error + Send + Sync> {
        let body = answer.to_body();
        format!("Error performing GET {} in 1ms - Server returned non-2xx status code: 400: {body}", lake()).into()
    }

    #[test]
    fn s3_error_gets_kind_and_remedy() {
        let answered = |status: u16, body: &str| told(in_text(&StoreAnswer::new(status, lake(), body, None)));
        let data = |message: &str| (ErrorKind::Data, message.to_string());
        assert_eq!(
            answered(404, "<Error><Code>NoSuchBucket</Code></Error>"),
            data("the bucket does not exist (requested from http://127.0.0.1:1/lake)")
        );
        assert_eq!(
            answered(403, "<Code>AccessDenied</Code><Message>Access Denied.</Message>"),
            data("no permission to list or read the bucket (AccessDenied, Access Denied)")
        );
        assert_eq!(
            answered(403, "<Code>SignatureDoesNotMatch</Code>"),
            data(
                "no permission to list or read the bucket (SignatureDoesNotMatch; check AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN)"
            )
        );
        assert_eq!(
            answered(400, "<Code>AuthorizationHeaderMalformed</Code>"),
            data("the bucket is in another region (AuthorizationHeaderMalformed); set it as `region`")
        );
        assert_eq!(answered(400, ""), data("S3 rejected the request with status 400"));
        // The text of a message does not change the kind.
        assert_eq!(answered(400, "<Message>redirect without LOCATION, 169.254.169.254</Message>").0, ErrorKind::Data);
        for passing in [408, 409, 425, 429, 500, 502, 503] {
            assert_eq!(answered(passing, "<Code>SlowDown</Code>").0, ErrorKind::Unavailable, "{passing}");
        }
        assert_eq!(answered(503, "").1, "S3 at http://127.0.0.1:1 answered with status 503");
    }

    #[test]
    fn typed_cause_is_found_in_the_chain() {
        let caused = |kind, source: StoreAnswer| told(Box::new(HttpError::new(kind, source)));
        let (kind, message) = caused(HttpErrorKind::Unknown, StoreAnswer::new(301, lake(), "", None));
        assert_eq!(kind, ErrorKind::Data);
        assert!(message.contains("another region than `region`"), "{message}");
        let silent = |place: &str| {
            let source = std::io::Error::other("connection refused").into();
            let silent = StoreSilent { place: place.parse().unwrap(), source };
            told(Box::new(HttpError::new(HttpErrorKind::Connect, silent)))
        };
        let expected = "S3 at http://127.0.0.1:1 does not answer: connection refused";
        assert_eq!(silent("http://127.0.0.1:1/lake/x"), (ErrorKind::Unavailable, expected.to_string()));
        assert_eq!(silent("http://169.254.169.254/latest/api/token").0, ErrorKind::Invalid);
        assert_eq!(told("what?".into()), (ErrorKind::Unavailable, "S3: what?".to_string()));
    }

    #[test]
    fn answer_keeps_its_code_in_a_typed_store_error() {
        let answer = StoreAnswer::new(404, lake(), "<Code>NoSuchBucket</Code>", None);
        let error = StoreError::NotFound { path: "a".to_string(), source: in_text(&answer) };
        assert!(from_object_store(&error).message.contains("the bucket does not exist"));
        let wait = Some(Duration::from_secs(7));
        let answer = StoreAnswer::new(503, lake(), "<Code>SlowDown</Code>", wait);
        let error = from_object_store(&StoreError::Generic { store: "S3", source: in_text(&answer) });
        assert_eq!(error.retry_after, wait);
    }
}
