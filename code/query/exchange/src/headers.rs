//! Headers of calls to combs.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, QueryToken, Result};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header of every reduce call that carries the session's DataFusion configuration, as a JSON object of strings.
/// Without it, a comb would use default options, and a wrong time zone changes the result.
pub const SESSION_HEADER: &str = "x-buzz-session";

/// The header of every call to a comb that carries the query's token ([`QueryToken`]).
pub const TOKEN_HEADER: &str = "x-buzz-token";

/// Returns the headers of reduce calls: the DataFusion configuration `session`, the query's token, and the current span, if it
/// is traced.
///
/// # Errors
/// `Invalid` if an option contains characters that a header cannot carry.
pub fn session_headers(session: &BTreeMap<String, String>, token: &QueryToken) -> Result<HeaderMap> {
    let json = serde_json::to_string(session)
        .map_err(|error| QueryError::internal(format!("the session cannot be encoded as JSON: {error}")))?;
    let session = HeaderValue::from_str(&json)
        .map_err(|_| QueryError::invalid("the option `time_zone` contains characters that a header cannot carry"))?;
    let token = HeaderValue::from_str(token.as_str())
        .map_err(|_| QueryError::internal("a token contains characters that a header cannot carry"))?;
    let name = HeaderName::from_static;
    let mut headers = HeaderMap::from_iter([(name(SESSION_HEADER), session), (name(TOKEN_HEADER), token)]);
    buzz_telemetry::in_headers(&mut headers);
    Ok(headers)
}

/// Returns the DataFusion configuration that [`session_headers`] wrote into `headers`; empty without it.
///
/// # Errors
/// `Internal` if the header is not such a configuration.
pub fn session_of(headers: &HeaderMap) -> Result<BTreeMap<String, String>> {
    let Some(header) = headers.get(SESSION_HEADER) else {
        return Ok(BTreeMap::new());
    };
    serde_json::from_slice(header.as_bytes())
        .map_err(|error| QueryError::internal(format!("cannot decode the header {SESSION_HEADER}: {error}")))
}
