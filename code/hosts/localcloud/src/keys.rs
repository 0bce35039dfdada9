//! The key pairs of the account: one that lasts, and temporary ones with a session token, as functions and tasks have on AWS.
//!
//! Services refuse a request whose session token is missing, wrong or expired. Only S3 checks signatures.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, Uri};
use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::Mutex;
use s3s::S3Result;
use s3s::auth::{S3Auth, SecretKey};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{ACCESS_KEY, SECRET_KEY};

/// Time for which the keys of a function or of a task are valid.
const VALID: Duration = Duration::from_secs(6 * 3600);

/// Time for which expired keys are kept, to be refused as expired.
const KEPT: Duration = Duration::from_secs(3600);

const TOKEN: &str = "X-Amz-Security-Token";

/// The temporary keys that were given away.
#[derive(Clone, Default)]
pub struct Keys(Arc<Mutex<State>>);

struct State {
    sessions: HashMap<String, Session>,
    /// Time for which new keys are valid.
    valid: Duration,
    /// Number of keys that clients fetched.
    fetched: usize,
}

impl Default for State {
    fn default() -> Self {
        Self { sessions: HashMap::new(), valid: VALID, fetched: 0 }
    }
}

/// A temporary key pair.
#[derive(Clone)]
pub(crate) struct Session {
    /// Access key, which begins with `ASIA`.
    pub(crate) access_key: String,
    secret_key: String,
    token: String,
    until: SystemTime,
}

/// The reason why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The keys are no longer valid.
    Expired,
    /// The session token is missing or is not that of the keys.
    Invalid,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl Session {
    /// Returns the environment variables that pass the keys to a process.
    pub(crate) fn environment(&self) -> [(String, String); 3] {
        [
            ("AWS_ACCESS_KEY_ID", &self.access_key),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_key),
            ("AWS_SESSION_TOKEN", &self.token),
        ]
        .map(|(name, value)| (name.to_string(), value.clone()))
    }
}

impl Keys {
    /// Returns new temporary keys.
    pub(crate) fn issue(&self) -> Session {
        let mut state = self.0.lock();
        let now = crate::clock::now();
        state.sessions.retain(|_, session| session.until + KEPT > now);
        let random = || Uuid::new_v4().simple().to_string();
        let access_key = format!("ASIA{}", random()[..16].to_uppercase());
        // Tokens on AWS have characters that are written otherwise in the query of a URL.
        let token = format!("{}+/{}==", random(), random());
        let session = Session { access_key, secret_key: random(), token, until: now + state.valid };
        state.sessions.insert(session.access_key.clone(), session.clone());
        session
    }

    /// Returns new temporary keys as the endpoint for containers does: as JSON with their expiry.
    pub(crate) fn fetch(&self) -> Value {
        let session = self.issue();
        self.0.lock().fetched += 1;
        json!({
            "RoleArn": "role",
            "AccessKeyId": session.access_key,
            "SecretAccessKey": session.secret_key,
            "Token": session.token,
            "Expiration": DateTime::<Utc>::from(session.until).to_rfc3339_opts(SecondsFormat::Secs, true),
        })
    }

    /// Returns true if the keys of `session` are valid for at least `time`.
    pub(crate) fn are_valid(&self, session: &Session, time: Duration) -> bool {
        let state = self.0.lock();
        state.sessions.get(&session.access_key).is_some_and(|known| known.until > crate::clock::now() + time)
    }

    /// Returns the number of keys that clients have fetched from the endpoint for containers.
    pub fn fetched(&self) -> usize {
        self.0.lock().fetched
    }

    /// Makes keys that are given away from now on valid for `time`.
    pub fn set_valid(&self, time: Duration) {
        self.0.lock().valid = time;
    }

    /// Makes all temporary keys that were given away so far expire now.
    pub fn expire(&self) {
        let now = crate::clock::now();
        self.0.lock().sessions.values_mut().for_each(|session| session.until = session.until.min(now));
    }

    /// Returns the temporary access key of a request; `None` if it has the lasting one or none.
    ///
    /// # Errors
    /// If the session token is missing, wrong or expired.
    pub(crate) fn judge(&self, headers: &HeaderMap, uri: &Uri) -> Result<Option<String>, Refusal> {
        let Some(access_key) = access_key(headers, uri) else { return Ok(None) };
        let token = headers.get(TOKEN).and_then(|token| token.to_str().ok()).map(str::to_string);
        let token = token.or_else(|| parameter(uri, TOKEN));
        let state = self.0.lock();
        match (state.sessions.get(&access_key), token) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Refusal::Invalid),
            (Some(session), token) if token.as_deref() != Some(&session.token) => Err(Refusal::Invalid),
            (Some(session), _) if session.until <= crate::clock::now() => Err(Refusal::Expired),
            (Some(_), _) => Ok(Some(access_key)),
        }
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == ACCESS_KEY {
            return Ok(SECRET_KEY.into());
        }
        let found = self.0.lock().sessions.get(access_key).map(|session| session.secret_key.clone());
        found.map(SecretKey::from).ok_or_else(|| s3s::s3_error!(InvalidAccessKeyId, "The access key does not exist."))
    }
}

/// Returns the access key of a signed request or of a presigned link.
fn access_key(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let header = headers.get("Authorization").and_then(|header| header.to_str().ok());
    let in_header = header.and_then(|header| header.split_once("Credential=")).map(|(_, scope)| scope.to_string());
    let scope = in_header.or_else(|| parameter(uri, "X-Amz-Credential"))?;
    scope.split('/').next().map(str::to_string)
}

/// Returns the decoded value of a parameter of the query.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query()?.as_bytes();
    let mut pairs = url::form_urlencoded::parse(query);
    pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.into_owned())
}
