//! A registry of schemas with the interface of Confluent's: `GET /schemas/ids/<id>`.

use std::fmt;
use std::time::Duration;

use buzz_protocol::{QueryError, Result};
use parking_lot::Mutex;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use url::Url;

use super::messages::Schemas;
use crate::web::{client, refused_with, shown, unreachable};

/// Maximum time of a request.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Schemas that the registry does not have and that the records of one read may name.
const MISSING_MAX: usize = 100;

/// Maximum length of a schema.
const SCHEMA_BYTES_MAX: usize = 4 << 20;

/// A user and a password. Both may be secret.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Option<String>,
}

/// A registry of schemas. A schema never changes, so it is read once.
pub(crate) struct Registry {
    client: Client,
    url: Url,
    login: Option<Login>,
    known: Mutex<Schemas>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("url", &shown(&self.url)).finish_non_exhaustive()
    }
}

/// The answer of a registry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    schema: String,
    /// The language of the schema; Avro if it is missing.
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

impl Registry {
    /// Makes a registry at `url`.
    ///
    /// # Errors
    /// `Invalid` if `url` cannot have a path, `Internal` if the system has no certificates of authorities.
    pub(crate) fn new(url: Url, login: Option<Login>) -> Result<Self> {
        if url.cannot_be_a_base() {
            return Err(QueryError::invalid(format!("`{}` cannot be the address of a schema registry", shown(&url))));
        }
        Ok(Self { client: client()?, url, login, known: Mutex::default() })
    }

    /// Returns the schemas with `ids`. Those that the registry does not have, or that cannot be used, are reasons.
    ///
    /// # Errors
    /// `Unavailable` if the registry does not answer, `Data` if it refuses.
    pub(crate) async fn schemas(&self, ids: impl IntoIterator<Item = u32>) -> Result<Schemas> {
        let (mut found, mut missing) = (Schemas::new(), 0_usize);
        for id in ids {
            if found.contains_key(&id) {
                continue;
            }
            let known = self.known.lock().get(&id).cloned();
            let schema = match known {
                Some(schema) => schema,
                None => self.read(id).await?,
            };
            // A schema that is missing may come.
            if schema.is_ok() {
                self.known.lock().insert(id, schema.clone());
            } else {
                missing += 1;
                if missing > MISSING_MAX {
                    return Err(QueryError::data(format!(
                        "the records of one read name more than {MISSING_MAX} schemas that {} does not have; check that they \
                         begin with a zero byte and the id of their schema, and correct `schema_registry.url`",
                        shown(&self.url)
                    )));
                }
            }
            found.insert(id, schema);
        }
        Ok(found)
    }

    async fn read(&self, id: u32) -> Result<Result<String, String>> {
        let mut url = self.url.clone();
        let cannot = || QueryError::internal("the address of a schema registry was checked");
        url.path_segments_mut().map_err(|()| cannot())?.pop_if_empty().extend(["schemas", "ids", &id.to_string()]);
        let mut request = self.client.get(url.clone()).timeout(REQUEST_MAX);
        if let Some(login) = &self.login {
            request = request.basic_auth(&login.user, login.password.as_ref());
        }
        let mut response = request.send().await.map_err(|error| unreachable(&url, &error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&url, &error))? {
            body.extend_from_slice(&chunk);
            if body.len() > SCHEMA_BYTES_MAX {
                return Ok(Err(format!("schema {id} has more than {SCHEMA_BYTES_MAX} bytes")));
            }
        }
        if status == StatusCode::NOT_FOUND {
            return Ok(Err(format!("the registry at {} has no schema {id}", shown(&self.url))));
        }
        if !status.is_success() {
            let remedy = "correct `schema_registry.url`, `schema_registry.user` and `schema_registry.password`";
            return Err(refused_with(&url, status, &headers, &String::from_utf8_lossy(&body), remedy));
        }
        let registered: Registered = serde_json::from_slice(&body).map_err(|error| {
            QueryError::data(format!(
                "{} does not answer as a schema registry: {error}; correct `schema_registry.url`",
                shown(&url)
            ))
        })?;
        Ok(usable(id, registered))
    }
}

/// Returns the text of a schema of Avro.
fn usable(id: u32, registered: Registered) -> Result<String, String> {
    match registered.schema_type.as_deref() {
        None | Some("AVRO") if registered.references.is_empty() => Ok(registered.schema),
        None | Some("AVRO") => Err(format!("schema {id} refers to other schemas, which is not supported")),
        Some(other) => Err(format!("schema {id} is one of {other}; the format of the table is avro")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::extract::{Path, State};
    use axum::http::HeaderMap;
    use axum::routing::get;
    use buzz_protocol::ErrorKind;
    use tokio::net::TcpListener;

    use super::*;

    /// The ids that were requested.
    type Asked = Arc<Mutex<Vec<String>>>;

    async fn answer(State(asked): State<Asked>, Path(id): Path<String>, headers: HeaderMap) -> (StatusCode, String) {
        asked.lock().push(id.clone());
        // `me:word`
        if headers.get("authorization").is_none_or(|value| value != "Basic bWU6d29yZA==") {
            return (StatusCode::UNAUTHORIZED, "who are you".to_string());
        }
        let body = match id.as_str() {
            "1" => r#"{"schema": "\"long\"", "subject": "t-value"}"#,
            "2" => r#"{"schema": "message M {}", "schemaType": "PROTOBUF"}"#,
            "3" => {
                r#"{"schema": "\"a.B\"", "schemaType": "AVRO", "references": [{"name": "a.B", "subject": "b", "version": 1}]}"#
            }
            "4" => "<html>",
            "5" => return (StatusCode::BAD_GATEWAY, String::new()),
            _ => return (StatusCode::NOT_FOUND, r#"{"error_code": 40403}"#.to_string()),
        };
        (StatusCode::OK, body.to_string())
    }

    async fn registry(password: &str) -> (Registry, Asked) {
        let asked = Asked::default();
        let router = Router::new().route("/base/schemas/ids/{id}", get(answer)).with_state(Arc::clone(&asked));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/base/", listener.local_addr().expect("it has an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let login = Login { user: "me".to_string(), password: Some(password.to_string()) };
        (Registry::new(url.parse().expect("it is a URL"), Some(login)).expect("a client can be made"), asked)
    }

    #[tokio::test]
    async fn schema_is_read_once_and_what_cannot_be_used_has_a_reason() {
        let (registry, asked) = registry("word").await;
        let found = registry.schemas([1, 2, 3, 7, 1]).await.expect("it answers");
        assert_eq!(found[&1], Ok("\"long\"".to_string()));
        for (id, reason) in [(2, "one of PROTOBUF"), (3, "refers to other schemas"), (7, "has no schema 7")] {
            let found = found[&id].as_ref().expect_err("it cannot be used");
            assert!(found.contains(reason), "{found}");
        }
        registry.schemas([1, 7]).await.expect("it answers");
        assert_eq!(*asked.lock(), ["1", "2", "3", "7", "7"]);
    }

    #[tokio::test]
    async fn refusals_are_errors_without_the_password() {
        let (wrong, _) = registry("guess").await;
        let error = wrong.schemas([1]).await.expect_err("the password is wrong");
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(error.message.contains("401") && error.message.contains("`schema_registry.password`"), "{error}");
        assert!(!error.message.contains("guess") && !format!("{wrong:?}").contains("guess"), "{error}");
        let (registry, _) = registry("word").await;
        let error = registry.schemas([4]).await.expect_err("it is no registry").message;
        assert!(error.contains("does not answer as a schema registry"), "{error}");
        assert_eq!(registry.schemas([5]).await.expect_err("it is broken").kind, ErrorKind::Unavailable);
    }
}
