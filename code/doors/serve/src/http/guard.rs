//! Refuses requests that a page of another site makes a browser send, and those without a key.
//!
//! A browser sends such requests with the `Origin` of the page, or, if the page's name was made to lead to this server, with
//! its name as `Host`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use buzz_telemetry::{continued, of_headers, span};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tonic::Status;
use tracing::Instrument;

use crate::Keys;
use crate::http::console;

/// The path of calls that Flight clients log in with.
const HANDSHAKE: &str = "/arrow.flight.protocol.FlightService/Handshake";

/// The user of a request.
#[derive(Debug, Clone)]
pub(crate) struct User(pub(crate) String);

/// The names under which the server may be reached.
#[derive(Debug)]
pub(crate) struct Guard {
    address: SocketAddr,
    scheme: &'static str,
    hosts: Vec<String>,
}

impl Guard {
    /// Makes the guard of a server at `address`, which may also be reached as one of `hosts`.
    pub(crate) fn new(address: SocketAddr, has_tls: bool, hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { address, scheme: if has_tls { "https" } else { "http" }, hosts }
    }

    /// Checks if `authority`, a name or address with or without a port, is this server.
    fn is_own(&self, authority: &str) -> bool {
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (authority, None),
        };
        let default_port = if self.scheme == "https" { 443 } else { 80 };
        let port = port.map_or(Some(default_port), |port| port.parse::<u16>().ok());
        if port != Some(self.address.port()) && !self.hosts.iter().any(|host| host == &authority.to_ascii_lowercase()) {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if name == "localhost" || self.hosts.contains(&name) || self.hosts.contains(&authority.to_ascii_lowercase()) {
            return true;
        }
        // A page cannot choose the address of another name, so an address is always this server's own.
        name.parse::<IpAddr>()
            .is_ok_and(|ip| ip == self.address.ip() || ip.is_loopback() || self.address.ip().is_unspecified())
    }

    /// Checks `Host` (or the authority of HTTP/2) and `Origin`.
    fn check(&self, headers: &HeaderMap, authority: Option<&str>) -> Result<(), String> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).or(authority);
        let host = host.ok_or("the request has no Host header")?;
        if !self.is_own(host) {
            return Err(format!("host `{host}` is not this server; start it with --host {host} to allow the name"));
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().map_err(|_| "the Origin header is not text")?;
        match origin.strip_prefix(self.scheme).and_then(|rest| rest.strip_prefix("://")) {
            Some(authority) if self.is_own(authority) => Ok(()),
            _ => Err(format!("pages of `{origin}` may not send requests to this server")),
        }
    }
}

/// State of the middleware.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) guard: Arc<Guard>,
    pub(crate) keys: Arc<Keys>,
}

/// Checks a request, and passes it on with its [`User`].
pub(crate) async fn check(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let is_grpc =
        request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let authority = request.uri().authority().map(ToString::to_string);
    if let Err(reason) = gate.guard.check(request.headers(), authority.as_deref()) {
        return refused(is_grpc, StatusCode::FORBIDDEN, &reason);
    }
    let path = request.uri().path();
    if ["/healthz", HANDSHAKE].contains(&path) || console::is_page(path) {
        return next.run(request).await;
    }
    let header = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let Some(user) = header.and_then(|header| gate.keys.user_of_header(header)) else {
        let reason =
            "the request has no valid key; send `Authorization: Bearer KEY`, or a user and the key as password";
        return refused(is_grpc, StatusCode::UNAUTHORIZED, reason);
    };
    request.extensions_mut().insert(User(user));
    // Queries continue the trace of a caller that has one.
    let span = continued(of_headers(request.headers()), || span!("request", otel.kind = "server"));
    next.run(request).instrument(span).await
}

fn refused(is_grpc: bool, status: StatusCode, reason: &str) -> Response {
    if is_grpc {
        let status = match status {
            StatusCode::UNAUTHORIZED => Status::unauthenticated(reason),
            _ => Status::permission_denied(reason),
        };
        return status.into_http::<Body>();
    }
    let body = serde_json::json!({"error": {"kind": "Invalid", "message": reason}}).to_string();
    let mut response = (status, [(CONTENT_TYPE, "application/json")], body).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(guard: &Guard, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        guard.check(&headers, None).is_ok()
    }

    #[test]
    fn foreign_hosts_and_origins_are_refused() {
        let guard = Guard::new("127.0.0.1:8642".parse().unwrap(), false, vec!["buzz.lan".to_string()]);
        for host in ["127.0.0.1:8642", "localhost:8642", "[::1]:8642", "buzz.lan:8642", "Buzz.lan"] {
            assert!(outcome(&guard, host, None), "{host}");
        }
        for host in
            ["evil.example:8642", "localhost:80", "localhost", "127.0.0.1.evil.example:8642", "8.8.8.8:8642", ""]
        {
            assert!(!outcome(&guard, host, None), "{host}");
        }
        assert!(outcome(&guard, "localhost:8642", Some("http://localhost:8642")));
        for origin in ["http://evil.example", "https://localhost:8642", "null", "http://localhost:3000"] {
            assert!(!outcome(&guard, "localhost:8642", Some(origin)), "{origin}");
        }
        assert!(guard.check(&HeaderMap::new(), None).is_err());
    }
}
