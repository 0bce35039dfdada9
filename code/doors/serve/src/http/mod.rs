//! The HTTP door: queries, tables, the console, health and metrics.

mod console;
pub(crate) mod guard;
mod metrics;
mod pipelines;
pub(crate) mod rows;
pub(crate) mod submitted;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router, middleware};
use buzz_protocol::{ErrorKind, Format, Options, Param, QueryError, QueryId, Result};
use buzz_streamd::Jobs;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::codes::http_status;
use crate::desk::{self, Desk};
use crate::http::guard::{Gate, Guard, User};
use crate::http::rows::Part;
use crate::http::submitted::Submitted;
use crate::listen::Shared;
use crate::names::NamedTable;
use crate::streams::Streams;
use crate::{flight, mcp, streams};

/// Maximum bytes of a request.
const BODY_BYTES_MAX: usize = 16 << 20;

/// State of the routes.
#[derive(Debug, Clone)]
struct Api {
    desk: Arc<Desk>,
    submitted: Arc<Submitted>,
    streams: Option<Arc<Streams>>,
    /// True if all users have one key.
    is_one_key: bool,
    jobs: Option<Jobs>,
}

impl Api {
    /// Returns the user whose queries `user` sees, None for all users. Who has the key of all may take any name.
    fn seen_by<'a>(&self, user: &'a str) -> Option<&'a str> {
        (!self.is_one_key).then_some(user)
    }
}

/// A query as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    sql: String,
    #[serde(default)]
    params: BTreeMap<String, Param>,
    #[serde(default)]
    options: Map<String, Value>,
    #[serde(default)]
    format: Option<String>,
}

/// Makes the routes of one connection.
pub(crate) fn router(shared: &Shared, guard: Arc<Guard>) -> Router {
    let api = Api {
        desk: Arc::clone(&shared.desk),
        submitted: Arc::clone(&shared.submitted),
        streams: shared.streams.clone(),
        is_one_key: shared.keys.is_one(),
        jobs: shared.pipelines.as_ref().map(|pipelines| pipelines.jobs.clone()),
    };
    let gate = Gate { guard, keys: Arc::clone(&shared.keys) };
    Router::new()
        .route("/v1/query", post(query))
        .route("/v1/estimate", post(estimate))
        .route("/v1/plan", post(work::plan))
        .route("/v1/queries", get(work::list).post(submit))
        .route("/v1/queries/{id}", get(watch).delete(cancel))
        .route("/v1/queries/{id}/rows", get(submitted_rows))
        .route("/v1/queries/{id}/work", get(work::work))
        .route("/v1/tables", get(tables))
        .route("/v1/tables/{name}", get(table))
        .merge(streams::router(shared.streams.clone()))
        .route("/", get(console::to_first_page))
        .route("/console", get(console::to_first_page))
        .route(console::PATH, get(console::first_page))
        .route("/console/{file}", get(console::file))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .nest(pipelines::PATH, pipelines::routes(shared))
        .fallback(async || failed(StatusCode::NOT_FOUND, &QueryError::invalid("the path does not exist")))
        .method_not_allowed_fallback(async || {
            failed(StatusCode::METHOD_NOT_ALLOWED, &QueryError::invalid("the path does not accept this method"))
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
        .route_service(flight::PATH, flight::service(shared))
        .route_service(mcp::PATH, mcp::service(shared))
        .layer(middleware::from_fn_with_state(gate, guard::check))
}

/// Makes the response of a failure.
pub(crate) fn failed(status: StatusCode, error: &QueryError) -> Response {
    let body = json!({"error": {"kind": error.kind, "message": error.to_string()}});
    (status, Json(body)).into_response()
}

fn failed_as(error: &QueryError) -> Response {
    failed(http_status(error.kind), error)
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Response;

    /// Parses the body of a request. The rejection of a body has a status of its own.
    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Json::<Self>::from_request(request, state).await;
        body.map(|Json(asked)| asked)
            .map_err(|rejection| failed(rejection.status(), &QueryError::invalid(rejection.body_text())))
    }
}

fn request(desk: &Desk, user: String, asked: Asked) -> Result<desk::Request> {
    let mut options: Options = desk.options.clone();
    for (key, value) in &asked.options {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        options.set(&format!("{key}={text}"))?;
    }
    let format: Format = asked.format.as_deref().unwrap_or("json").parse()?;
    let params = asked.params.into_iter().map(|(name, value)| (name.trim_start_matches('$').to_string(), value));
    Ok(desk::Request { id: QueryId::fresh(), user, sql: asked.sql, params: params.collect(), options, format })
}

/// Runs a query and responds with its rows.
async fn query(State(api): State<Api>, Extension(User(user)): Extension<User>, asked: Asked) -> Response {
    let answered = async {
        let request = request(&api.desk, user, asked)?;
        let format = request.format;
        Ok((api.desk.answer(request).await?, format))
    };
    match answered.await {
        Ok((answered, format)) => rows::response(Arc::new(answered), format, Part::ALL),
        Err(error) => failed_as(&error),
    }
}

/// Plans a query without running it, and responds with the resources that a run is expected to use.
async fn estimate(State(api): State<Api>, Extension(User(user)): Extension<User>, asked: Asked) -> Response {
    let planned = async { api.desk.plan(request(&api.desk, user, asked)?).await?.estimate() };
    match planned.await {
        Ok(estimate) => Json(estimate).into_response(),
        Err(error) => failed_as(&error),
    }
}

/// Starts a query and responds with its id.
async fn submit(State(api): State<Api>, Extension(User(user)): Extension<User>, asked: Asked) -> Response {
    let submitted = request(&api.desk, user, asked).and_then(|request| api.submitted.start(&api.desk, request));
    match submitted {
        Ok(id) => (StatusCode::ACCEPTED, Json(json!({"id": id}))).into_response(),
        Err(error) => failed_as(&error),
    }
}

fn id_of(text: &str) -> Result<QueryId> {
    serde_json::from_value(json!(text)).map_err(|_| QueryError::invalid(format!("`{text}` is not the id of a query")))
}

fn unknown(id: &str) -> Response {
    let error = QueryError::invalid(format!("query `{id}` does not exist, belongs to another user, or was removed"));
    failed(StatusCode::NOT_FOUND, &error)
}

/// Responds with the state of a submitted query.
async fn watch(State(api): State<Api>, Extension(User(user)): Extension<User>, Path(id): Path<String>) -> Response {
    let state = id_of(&id).ok().and_then(|id| api.submitted.state(&api.desk, id, &user));
    state.map_or_else(|| unknown(&id), |state| Json(state).into_response())
}

/// Cancels a query, or removes the answer of a submitted one.
async fn cancel(State(api): State<Api>, Extension(User(user)): Extension<User>, Path(id): Path<String>) -> Response {
    let removed =
        id_of(&id).is_ok_and(|id| api.submitted.remove(id, &user) || api.desk.cancel_of(id, api.seen_by(&user)));
    if removed { StatusCode::NO_CONTENT.into_response() } else { unknown(&id) }
}

#[derive(Debug, Deserialize)]
struct RowsQuery {
    format: Option<String>,
    #[serde(default)]
    offset: u64,
    limit: Option<u64>,
}

/// Looks again, for up to a second, while `look` returns true beside what it found: a change reaches the history and the
/// submitted queries one after the other.
async fn settled<T>(look: impl Fn() -> (T, bool)) -> T {
    for _ in 0..500 {
        let (found, is_early) = look();
        if !is_early {
            return found;
        }
        drop(found);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    look().0
}

/// Responds with the rows of a submitted query that has succeeded.
async fn submitted_rows(
    State(api): State<Api>,
    Extension(User(user)): Extension<User>,
    Path(id): Path<String>,
    asked: std::result::Result<Query<RowsQuery>, QueryRejection>,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(rejection) => return failed(rejection.status(), &QueryError::invalid(rejection.body_text())),
    };
    // Before the rows count as fetched: the request may be sent again in a format that exists.
    let format = match asked.format.map(|format| format.parse::<Format>()).transpose() {
        Ok(format) => format,
        Err(error) => return failed_as(&error),
    };
    let Ok(query_id) = id_of(&id) else { return unknown(&id) };
    let outcome = settled(|| {
        let outcome = api.submitted.outcome(query_id, &user, true);
        let is_early = matches!(outcome, Some(None)) && api.desk.history.has_ended(query_id);
        (outcome, is_early)
    })
    .await;
    let Some(outcome) = outcome else { return unknown(&id) };
    let (answered, own_format) = match outcome {
        Some(Ok(answered)) => answered,
        Some(Err(error)) => return failed_as(&error),
        None => {
            let error = QueryError::new(ErrorKind::Unavailable, format!("query `{id}` is still running"));
            return failed(StatusCode::CONFLICT, &error);
        }
    };
    let part = Part { offset: asked.offset, limit: asked.limit };
    rows::response(answered, format.unwrap_or(own_format), part)
}

/// Returns the JSON of a table.
fn table_json(table: &NamedTable) -> Value {
    match &table.description {
        Ok(description) => {
            let columns = description.columns.iter();
            let columns = columns.map(|(name, data_type)| json!({"name": name, "type": data_type})).collect::<Vec<_>>();
            let mut listed = json!({
                "name": table.name, "type": description.kind, "uri": description.uri, "view": table.is_view,
                "columns": columns,
            });
            if !table.is_recorded {
                listed["files"] = json!(description.files);
                listed["bytes"] = json!(description.bytes);
                listed["partition_columns"] = json!(description.partition_columns);
            }
            listed
        }
        Err(error) => {
            json!({"name": table.name, "view": table.is_view, "error": rows::error_json(error)})
        }
    }
}

/// Responds with the tables and their columns.
async fn tables(State(api): State<Api>) -> Response {
    let tables = api.desk.names.tables().await;
    let tables: Vec<Value> = tables.iter().map(table_json).collect();
    Json(json!({"tables": tables, "can_change": api.desk.names.can_change()})).into_response()
}

/// Opens a table, and responds with its columns and its first files.
async fn table(State(api): State<Api>, Path(name): Path<String>) -> Response {
    let found = api.desk.names.table(&name).await;
    let found = found.and_then(|table| table.description.clone().map(|description| (table, description)));
    let (table, description) = match found {
        Ok(found) => found,
        Err(error) => return failed_as(&error),
    };
    let mut json = table_json(&table);
    json["version"] = json!(description.version);
    json["warnings"] = json!(description.warnings);
    json["file_list"] = json!(description.file_list);
    Json(json).into_response()
}

/// Responds with counts in the format of Prometheus.
async fn metrics(State(api): State<Api>) -> Response {
    let mut text = metrics::text(&api.desk);
    if let Some(streams) = &api.streams {
        text.push_str(&streams.metrics().await);
    }
    text.push_str(&api.jobs.as_ref().map(metrics::of_jobs).unwrap_or_default());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
