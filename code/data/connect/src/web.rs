//! Requests by HTTP, of sources and sinks: headers of an option, and answers that are errors.

use std::time::Duration;

use buzz_protocol::{ErrorKind, QueryError, Result, now_ms};
use chrono::DateTime;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response};
use url::Url;

/// Maximum time to connect to a server, and time after which a silent connection is tested.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Maximum number of redirections of a request.
const REDIRECTIONS_MAX: usize = 10;

/// Maximum number of characters of an answer in a message.
const SHOWN_MAX: usize = 300;

/// Makes a client.
///
/// # Errors
/// `Internal` if the system has no certificates of authorities.
pub(crate) fn client() -> Result<Client> {
    // Another server must not get the headers, of which some are secret.
    let same_host = Policy::custom(|attempt| {
        let to = attempt.url();
        let is_same = attempt.previous().last().is_some_and(|from| {
            from.origin() == to.origin() || (from.host_str() == to.host_str() && to.scheme() == "https")
        });
        if is_same && attempt.previous().len() <= REDIRECTIONS_MAX { attempt.follow() } else { attempt.stop() }
    });
    build(Client::builder().redirect(same_host).referer(false))
}

/// Makes a client for requests that change something: a redirection could make another request of one.
///
/// # Errors
/// As [`client`].
pub(crate) fn client_without_redirects() -> Result<Client> {
    build(Client::builder().redirect(Policy::none()))
}

fn build(builder: ClientBuilder) -> Result<Client> {
    let builder = builder.connect_timeout(CONNECT_MAX).tcp_keepalive(KEEPALIVE);
    let client = builder.user_agent(concat!("buzz/", env!("CARGO_PKG_VERSION"))).build();
    client.map_err(|error| QueryError::internal(format!("no client for HTTP can be made: {error}")))
}

/// Reads headers, as in `Authorization: Bearer abc, Accept: application/json`. A part without a colon belongs to the value
/// before it.
///
/// # Errors
/// `Invalid` if there is no header in it, without its value, which may be secret.
pub(crate) fn parse_headers(text: &str, table: &str) -> Result<HeaderMap> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let header = part.split_once(':').filter(|(name, _)| name.trim().parse::<HeaderName>().is_ok());
        match (header, pairs.last_mut()) {
            (Some((name, value)), _) => pairs.push((name.trim().to_string(), value.trim().to_string())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(part.trim_end());
            }
            (None, None) => {
                return Err(QueryError::invalid(format!(
                    "option `headers` of table `{table}` does not begin with a header; write it as `Name: value, Name: value`"
                )));
            }
        }
    }
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let mut parsed = HeaderValue::from_str(&value).map_err(|_| {
            QueryError::invalid(format!(
                "option `headers` of table `{table}`: the value of `{name}` has characters that a header cannot have"
            ))
        })?;
        parsed.set_sensitive(true);
        let name: HeaderName =
            name.parse().map_err(|_| QueryError::internal(format!("`{name}` was the name of a header")))?;
        headers.append(name, parsed);
    }
    Ok(headers)
}

/// Returns a URL for messages, without what may be secret.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // A URL without a host has no user, and stays as it is.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Returns the error of a request that got no answer, or lost it.
pub(crate) fn unreachable(url: &Url, error: &reqwest::Error) -> QueryError {
    let mut reasons = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reasons.push(cause.to_string());
        source = cause.source();
    }
    // The text of the first error has the whole URL.
    let reason = reasons.last().filter(|_| reasons.len() > 1).cloned().unwrap_or_else(|| "no answer".to_string());
    QueryError::unavailable(format!("{} does not answer: {reason}", shown(url)))
}

/// Returns the error of an answer with `status` and the start of its `body`. Another try may succeed if the server is
/// overloaded or broken; otherwise the request is wrong.
pub(crate) fn refused(url: &Url, status: StatusCode, headers: &HeaderMap, body: &str) -> QueryError {
    let remedy = match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            "make requests smaller, as by a lower `rows_per_request`, or correct `endpoint`"
        }
        _ => "correct `endpoint` or `headers`",
    };
    refused_with(url, status, headers, body, remedy)
}

/// Returns the error of [`refused`] with the `remedy` of a request that is wrong.
pub(crate) fn refused_with(url: &Url, status: StatusCode, headers: &HeaderMap, body: &str, remedy: &str) -> QueryError {
    let body: String = body.trim().chars().take(SHOWN_MAX).collect();
    let said = if body.is_empty() { String::new() } else { format!(": {body}") };
    let answered = format!("{} answers {status}{said}", shown(url));
    let is_passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if !is_passing {
        let to = headers.get(LOCATION).filter(|_| status.is_redirection()).and_then(|to| to.to_str().ok());
        let to = to.and_then(|to| url.join(to).ok()).map(|to| format!(" to {}", shown(&to))).unwrap_or_default();
        return QueryError::new(ErrorKind::Data, format!("{answered}{to}; {remedy}"));
    }
    let mut error = QueryError::unavailable(answered);
    error.retry_after = headers.get(RETRY_AFTER).and_then(|after| wait_of(after.to_str().ok()?.trim(), now_ms()));
    error
}

/// Returns the time to wait that a server asks for at `now`, in milliseconds since 1970: a number of seconds, or the date at
/// which it answers again. `None` if it is neither.
fn wait_of(text: &str, now: u64) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(text).ok()?.timestamp_millis();
    Some(Duration::from_millis(u64::try_from(until).unwrap_or_default().saturating_sub(now)))
}

/// Returns `response` if its status says that the request was successful.
///
/// # Errors
/// As [`refused`].
pub(crate) async fn accepted(url: &Url, mut response: Response) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let headers = response.headers().clone();
    let mut body = Vec::new();
    // An answer may have no end.
    let reading = async {
        while body.len() < 4 * SHOWN_MAX
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
    };
    let _ = tokio::time::timeout(CONNECT_MAX, reading).await;
    Err(refused(url, status, &headers, &String::from_utf8_lossy(&body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_may_have_commas_in_their_values() {
        let headers =
            parse_headers("Authorization: Bearer a:b, Accept: text/html, text/plain,X-A:1", "t").expect("fits");
        let values = ["authorization", "accept", "x-a"].map(|name| headers[name].to_str().expect("it is text"));
        assert_eq!(values, ["Bearer a:b", "text/html, text/plain", "1"]);
        let error = parse_headers("secret", "t").expect_err("it is not a header").message;
        assert!(error.contains("`headers` of table `t`") && !error.contains("secret"), "{error}");
        assert!(parse_headers("A: b\u{7}", "t").expect_err("it is not a value").message.contains("`A`"));
    }

    #[test]
    fn messages_have_no_secrets_of_a_url() {
        let url: Url = "https://user:word@host/path?token=1".parse().expect("it is a URL");
        assert_eq!(shown(&url), "https://host/path");
    }

    #[test]
    fn server_asks_for_a_time_to_wait_by_seconds_or_a_date() {
        let now = 784_111_777_000;
        let seconds = |text| wait_of(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:40 GMT"), Some(3));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0), "it has passed");
        assert_eq!((seconds("Mon, 01 Jan 1900 00:00:00 GMT"), seconds("soon"), seconds("-1")), (Some(0), None, None));
    }

    #[test]
    fn refusals_say_what_to_do() {
        let url: Url = "http://host/rows".parse().expect("it is a URL");
        let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("/other?token=1"))]);
        let moved = refused(&url, StatusCode::TEMPORARY_REDIRECT, &headers, "").message;
        assert!(moved.contains("307 Temporary Redirect to http://host/other; correct `endpoint`"), "{moved}");
        let large = refused(&url, StatusCode::PAYLOAD_TOO_LARGE, &HeaderMap::new(), "").message;
        assert!(large.contains("`rows_per_request`"), "{large}");
    }

    #[test]
    fn answers_that_pass_are_tried_again() {
        let url: Url = "http://host/".parse().expect("it is a URL");
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        let busy = refused(&url, StatusCode::TOO_MANY_REQUESTS, &headers, "slow down");
        assert_eq!((busy.kind, busy.retry_after), (ErrorKind::Unavailable, Some(Duration::from_secs(7))));
        let wrong = refused(&url, StatusCode::UNAUTHORIZED, &HeaderMap::new(), "no token");
        assert_eq!(wrong.kind, ErrorKind::Data);
        assert!(wrong.message.contains("401 Unauthorized: no token; correct `endpoint` or `headers`"), "{wrong}");
    }
}
