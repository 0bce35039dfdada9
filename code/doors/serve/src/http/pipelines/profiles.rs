//! Connection profiles, at the path and in the JSON of Arroyo.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use buzz_protocol::QueryError;
use buzz_streamd::Profile;
use buzz_streamd::jobs;
use http::StatusCode;
use serde_json::{Value, json};

use super::asked::{PostProfile, read_secret};
use super::{Answer, Door, Fault, answer, missing};

/// Lists the profiles, without what is secret.
pub(super) async fn list(State(door): State<Door>) -> Answer {
    let profiles = door.jobs()?.profiles().list().await?;
    Ok(answer(json!({"data": profiles.iter().map(jobs::profile).collect::<Vec<Value>>(), "hasMore": false})))
}

/// Keeps a profile.
pub(super) async fn keep(State(door): State<Door>, body: Bytes) -> Answer {
    let profile = profile_of(&body)?;
    if door.changed()?.profiles().keep(&profile).await? {
        return Ok(answer(jobs::profile(&profile)));
    }
    Err(Fault {
        status: StatusCode::CONFLICT,
        message: format!("connection profile `{}` exists; remove it, or choose another name", profile.name),
    })
}

/// Connects once with the settings of a profile that is not kept. Responds with the result in any case, as Arroyo does.
pub(super) async fn test(State(door): State<Door>, body: Bytes) -> Answer {
    let profile = profile_of(&body)?;
    door.changed()?;
    let (error, message) = match profile.check().await {
        Ok(message) => (false, message),
        Err(error) => (true, error.to_string()),
    };
    Ok(answer(json!({"error": error, "done": true, "message": message})))
}

/// Removes a profile. Pipelines that refer to it go on until their tables are opened again.
pub(super) async fn remove(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    match door.changed()?.profiles().remove(&name).await? {
        true => Ok(StatusCode::OK.into_response()),
        false => Err(missing(&QueryError::invalid(format!("connection profile `{name}` does not exist")))),
    }
}

fn profile_of(body: &[u8]) -> Result<Profile, Fault> {
    let asked = read_secret::<PostProfile>(body)?;
    Ok(Profile::new(&asked.name, &asked.connector, &asked.config)?)
}
