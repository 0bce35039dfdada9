//! Pipelines by REST, with the paths and the JSON of Arroyo's version 1.
//!
//! `asked` has the bodies of requests, `output` sends rows as server-sent events, `sources` keeps tables to read, `profiles`
//! settings of servers, and `openapi` describes the routes. What a pipeline is, and its JSON, is in
//! `buzz-streamd`.

mod asked;
mod openapi;
mod output;
mod profiles;
mod sources;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, extract::rejection::QueryRejection};
use buzz_protocol::QueryError;
use buzz_streamd::Jobs;
use buzz_streamd::jobs::{self, Change, Pipeline, Preview, Stop};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::asked::{PatchPipeline, PostPipeline, PostPreview, PostRestart, PostScript, read, read_or_default};
use crate::Pipelines;
use crate::codes::http_status;
use crate::listen::Shared;

/// The path below which the routes are.
pub(super) const PATH: &str = "/api/v1";

/// Records that are read for the checkpoints of a job, and for its rates.
const RECORDS_MAX: usize = 100;

/// State of the routes.
#[derive(Debug, Clone)]
struct Door {
    pipelines: Option<Pipelines>,
    stopping: CancellationToken,
}

/// A request that fails.
#[derive(Debug)]
struct Fault {
    status: StatusCode,
    message: String,
}

type Answer = Result<Response, Fault>;

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Self {
        Self { status: http_status(error.kind), message: error.to_string() }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.message}))).into_response()
    }
}

fn missing(error: &QueryError) -> Fault {
    Fault { status: StatusCode::NOT_FOUND, message: error.to_string() }
}

fn answer(json: Value) -> Response {
    Json(json).into_response()
}

/// Makes the routes below [`PATH`].
pub(super) fn routes<S>(shared: &Shared) -> Router<S> {
    let door = Door { pipelines: shared.pipelines.clone(), stopping: shared.desk.stopping.clone() };
    Router::new()
        .route("/ping", get(async || Json("Pong")))
        .route("/connectors", get(async || answer(jobs::connectors())))
        .route("/openapi.json", get(async || answer(openapi::document())))
        .route("/connection_tables", get(sources::list).post(sources::keep))
        .route("/connection_tables/{name}", delete(sources::remove))
        .route("/connection_profiles", get(profiles::list).post(profiles::keep))
        .route("/connection_profiles/test", post(profiles::test))
        .route("/connection_profiles/{name}", delete(profiles::remove))
        .route("/jobs", get(all_jobs))
        .route("/pipelines", get(list).post(create))
        .route("/pipelines/validate_query", post(validate))
        .route("/pipelines/preview", post(preview))
        .route("/pipelines/{id}", get(show).patch(change).delete(remove))
        .route("/pipelines/{id}/restart", post(restart))
        .route("/pipelines/{id}/jobs", get(jobs_of))
        .route("/pipelines/{id}/jobs/{job}/errors", get(messages))
        .route("/pipelines/{id}/jobs/{job}/checkpoints", get(checkpoints))
        .route("/pipelines/{id}/jobs/{job}/checkpoints/{epoch}/operator_checkpoint_groups", get(checkpoint_groups))
        .route("/pipelines/{id}/jobs/{job}/operator_metric_groups", get(metric_groups))
        .route("/pipelines/{id}/jobs/{job}/output", get(output::rows))
        .with_state(door)
}

impl Door {
    /// Returns the jobs.
    fn jobs(&self) -> Result<&Jobs, Fault> {
        let none = || missing(&QueryError::invalid("this server keeps no pipelines; start it with --state FOLDER"));
        Ok(&self.pipelines.as_ref().ok_or_else(none)?.jobs)
    }

    /// Returns the jobs, for a change of them.
    fn changed(&self) -> Result<&Jobs, Fault> {
        let jobs = self.jobs()?;
        if self.pipelines.as_ref().is_some_and(|pipelines| pipelines.can_change) {
            return Ok(jobs);
        }
        let message = "clients may not change pipelines of this server, since a script reaches every address, file and \
                       bucket that the server can; start it with --names change to allow it";
        Err(Fault { status: StatusCode::FORBIDDEN, message: message.to_string() })
    }

    async fn pipeline(&self, id: &str) -> Result<Pipeline, Fault> {
        self.jobs()?.get(id).await?.ok_or_else(|| missing(&jobs::unknown(id)))
    }

    /// Returns the pipeline `id`, whose job is `job`.
    async fn job(&self, (id, job): (&str, &str)) -> Result<Pipeline, Fault> {
        let pipeline = self.pipeline(id).await?;
        if job != jobs::job_id(id) {
            return Err(missing(&QueryError::invalid(format!("job `{job}` does not exist in pipeline `{id}`"))));
        }
        Ok(pipeline)
    }
}

/// The part of a list that is returned.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    limit: Option<usize>,
    starting_after: Option<String>,
}

async fn list(State(door): State<Door>, page: Result<Query<Page>, QueryRejection>) -> Answer {
    let Query(page) = page.map_err(|rejection| QueryError::invalid(rejection.body_text()))?;
    let mut pipelines = door.jobs()?.list().await?;
    if let Some(after) = &page.starting_after {
        pipelines.retain(|pipeline| pipeline.id > *after);
    }
    let limit = page.limit.unwrap_or(usize::MAX);
    let data: Vec<Value> = pipelines.iter().take(limit).map(jobs::pipeline).collect();
    Ok(answer(json!({"data": data, "hasMore": pipelines.len() > limit})))
}

async fn create(State(door): State<Door>, body: Bytes) -> Answer {
    let new = read::<PostPipeline>(&body)?.checked()?;
    let jobs = door.changed()?;
    let id = jobs::id_of(&new.name)?;
    if jobs.get(&id).await?.is_some() {
        return Err(Fault { status: StatusCode::CONFLICT, message: jobs::taken(&id).to_string() });
    }
    Ok(answer(jobs::pipeline(&jobs.create(new).await?)))
}

async fn validate(State(door): State<Door>, body: Bytes) -> Answer {
    let script = read::<PostScript>(&body)?.checked()?;
    Ok(answer(match door.changed()?.validate(&script).await {
        Ok(graph) => json!({"graph": graph, "errors": []}),
        Err(error) => json!({"graph": null, "errors": [error.to_string()]}),
    }))
}

/// Starts a preview. Responds with its rows as events if the client accepts these, otherwise with its JSON.
async fn preview(State(door): State<Door>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked = read::<PostPreview>(&body)?;
    let sinks = asked.enable_sinks.unwrap_or_default();
    let preview = door.changed()?.preview(asked.checked()?, sinks).await?;
    let accepts = headers.get(http::header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/event-stream") {
        return Ok(output::of_preview(&door, preview, 0, true));
    }
    Ok(answer(preview_json(&preview)))
}

fn preview_json(preview: &Preview) -> Value {
    json!({
        "id": preview.id, "name": preview.id, "query": preview.script, "udfs": [], "checkpointIntervalMicros": 250_000,
        "stop": "none", "createdAt": preview.started_ms.saturating_mul(1000), "action": "immediate", "actionText": "Stop",
        "actionInProgress": false, "graph": {"nodes": [], "edges": []}, "preview": true,
        "state": state_of(preview), "error": preview.error().map(|error| error.to_string()),
    })
}

fn state_of(preview: &Preview) -> &'static str {
    match (preview.has_ended(), preview.error()) {
        (false, _) => "Running",
        (true, None) => "Finished",
        (true, Some(_)) => "Failed",
    }
}

async fn show(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    if let Some(preview) = door.jobs()?.previewed(&id) {
        return Ok(answer(preview_json(&preview)));
    }
    Ok(answer(jobs::pipeline(&door.pipeline(&id).await?)))
}

async fn change(State(door): State<Door>, Path(id): Path<String>, body: Bytes) -> Answer {
    let change = read::<PatchPipeline>(&body)?.checked()?;
    let jobs = door.changed()?;
    if let Some(preview) = jobs.previewed(&id) {
        if change.stop.is_some_and(|stop| stop != Stop::None) {
            preview.stop();
        }
        return Ok(answer(preview_json(&preview)));
    }
    let changed = jobs.change(&id, change).await?;
    Ok(answer(jobs::pipeline(&changed.ok_or_else(|| missing(&jobs::unknown(&id)))?)))
}

async fn remove(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let jobs = door.changed()?;
    if let Some(preview) = jobs.previewed(&id) {
        preview.stop();
        return Ok(StatusCode::OK.into_response());
    }
    match jobs.remove(&id).await? {
        true => Ok(StatusCode::OK.into_response()),
        false => Err(missing(&jobs::unknown(&id))),
    }
}

/// Starts a pipeline again, also one that has failed or ended.
async fn restart(State(door): State<Door>, Path(id): Path<String>, body: Bytes) -> Answer {
    let asked = read_or_default::<PostRestart>(&body)?;
    let jobs = door.changed()?;
    // With force, the epoch that runs is abandoned, and the new run repeats it.
    let abandons = asked.force.unwrap_or_default();
    let start = Change { stop: Some(Stop::None), parallelism: asked.parallelism, abandons, ..Change::default() };
    let changed = jobs.change(&id, start).await?;
    Ok(answer(jobs::pipeline(&changed.ok_or_else(|| missing(&jobs::unknown(&id)))?)))
}

async fn all_jobs(State(door): State<Door>) -> Answer {
    let pipelines = door.jobs()?.list().await?;
    Ok(answer(json!({"data": pipelines.iter().map(jobs::job).collect::<Vec<_>>()})))
}

async fn jobs_of(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    if let Some(preview) = door.jobs()?.previewed(&id) {
        let job = json!({
            "id": jobs::job_id(&id), "runningDesired": !preview.has_ended(), "state": state_of(&preview), "runId": 1,
            "startTime": preview.started_ms.saturating_mul(1000), "finishTime": null, "tasks": 1,
            "failureMessage": preview.error().map(|error| error.to_string()),
            "createdAt": preview.started_ms.saturating_mul(1000),
        });
        return Ok(answer(json!({"data": [job]})));
    }
    Ok(answer(json!({"data": [jobs::job(&door.pipeline(&id).await?)]})))
}

async fn messages(State(door): State<Door>, Path((id, job)): Path<(String, String)>) -> Answer {
    Ok(answer(jobs::messages(&door.job((&id, &job)).await?)))
}

async fn checkpoints(State(door): State<Door>, Path((id, job)): Path<(String, String)>) -> Answer {
    let pipeline = door.job((&id, &job)).await?;
    Ok(answer(jobs::checkpoints(&door.jobs()?.records(&pipeline, RECORDS_MAX).await?)))
}

async fn checkpoint_groups(State(door): State<Door>, Path((id, job, epoch)): Path<(String, String, String)>) -> Answer {
    let pipeline = door.job((&id, &job)).await?;
    let records = door.jobs()?.records(&pipeline, RECORDS_MAX).await?;
    let record = records.iter().find(|record| record.epoch.to_string() == epoch);
    let unknown = || {
        missing(&QueryError::invalid(format!(
            "epoch `{epoch}` is not one of the last {RECORDS_MAX} of pipeline `{id}`; `buzz stream epochs` lists all"
        )))
    };
    Ok(answer(jobs::checkpoint_groups(record.ok_or_else(unknown)?)))
}

async fn metric_groups(State(door): State<Door>, Path((id, job)): Path<(String, String)>) -> Answer {
    let pipeline = door.job((&id, &job)).await?;
    let mut records = door.jobs()?.records(&pipeline, RECORDS_MAX).await?;
    records.reverse();
    Ok(answer(jobs::metric_groups(&pipeline, &records)))
}
