//! Sources that are saved beside pipelines, at the path of Arroyo's connection tables.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use buzz_protocol::QueryError;
use buzz_streamd::jobs;
use http::StatusCode;
use serde_json::{Value, json};

use super::asked::{PostSource, read};
use super::{Answer, Door, Fault, answer, missing};

/// Lists the sources.
pub(super) async fn list(State(door): State<Door>) -> Answer {
    let sources = door.jobs()?.sources().await?;
    Ok(answer(json!({"data": sources.iter().map(jobs::source).collect::<Vec<Value>>(), "hasMore": false})))
}

/// Keeps a source, after its statement was planned.
pub(super) async fn keep(State(door): State<Door>, body: Bytes) -> Answer {
    let asked = read::<PostSource>(&body)?;
    let saved = door.changed()?.save_source(&asked.name, &asked.statement).await?;
    let taken = || Fault {
        status: StatusCode::CONFLICT,
        message: format!("source `{}` exists; remove it, or choose another name", asked.name),
    };
    Ok(answer(jobs::source(&saved.ok_or_else(taken)?)))
}

/// Removes a source. Pipelines that read it go on.
pub(super) async fn remove(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    match door.changed()?.remove_source(&name).await? {
        true => Ok(StatusCode::OK.into_response()),
        false => Err(missing(&QueryError::invalid(format!("source `{name}` does not exist")))),
    }
}
