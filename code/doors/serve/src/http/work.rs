//! The calls about queries that show the work: those of a user, one with its stages and attempts, and the plan of a statement.

use arrow::array::AsArray;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use buzz_protocol::{QueryError, Result};
use serde::Deserialize;
use serde_json::json;

use crate::desk::Answered;
use crate::history::ATTEMPTS_MAX;
use crate::http::guard::User;
use crate::http::{Api, Asked, failed, failed_as, id_of, request, settled, unknown};

/// Responds with the queries that the user may see, the last first.
pub(super) async fn list(State(api): State<Api>, Extension(User(user)): Extension<User>) -> Response {
    Json(json!({"queries": api.desk.history.list(api.seen_by(&user))})).into_response()
}

#[derive(Debug, Deserialize)]
pub(super) struct WorkQuery {
    /// Maximum number of attempts.
    attempts: Option<usize>,
}

/// Responds with the state, stages and attempts of a query, through whichever door it came.
pub(super) async fn work(
    State(api): State<Api>,
    Extension(User(user)): Extension<User>,
    Path(id): Path<String>,
    asked: std::result::Result<Query<WorkQuery>, QueryRejection>,
) -> Response {
    let attempts_max = match asked {
        Ok(Query(asked)) => asked.attempts.unwrap_or(ATTEMPTS_MAX),
        Err(rejection) => return failed(rejection.status(), &QueryError::invalid(rejection.body_text())),
    };
    let Ok(query_id) = id_of(&id) else { return unknown(&id) };
    let found = settled(|| {
        let found = api.desk.history.detailed(query_id, api.seen_by(&user), attempts_max);
        let is_early = found.is_none() && api.submitted.outcome(query_id, &user, false).is_some();
        (found, is_early)
    })
    .await;
    found.map_or_else(|| unknown(&id), |found| Json(found).into_response())
}

/// Responds with the plan of a statement, which is not run.
pub(super) async fn plan(State(api): State<Api>, Extension(User(user)): Extension<User>, asked: Asked) -> Response {
    let planned = async {
        let answered = api.desk.plan(request(&api.desk, user, asked)?).await?;
        Ok(json!({"plan": lines(&answered)?, "warnings": answered.warnings}))
    };
    planned.await.map_or_else(|error| failed_as(&error), |plan| Json(plan).into_response())
}

/// Returns the lines of a plan as one text.
fn lines(answered: &Answered) -> Result<String> {
    let mut text = String::new();
    for batch in answered.rows.batches()? {
        let batch = batch?;
        let lines = batch.columns().first().and_then(|column| column.as_string_opt::<i32>());
        for line in lines.into_iter().flatten().flatten() {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}
