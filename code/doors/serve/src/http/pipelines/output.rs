//! Rows of pipelines and previews as server-sent events.
//!
//! Each row is an event whose id is `<epoch>-<number>`, so a client that connects again with `Last-Event-ID` goes on behind
//! the last row that it has. `gap` says that rows before the next one were deleted, `error` and `end` are the last event.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use buzz_protocol::{QueryError, Result};
use buzz_streamd::jobs::{self, Preview, Tail};
use futures::{Stream, StreamExt, stream};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Door, missing};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    /// The first epoch.
    from_epoch: Option<u64>,
}

/// Responds with the rows of a job, and follows them until it ends.
pub(super) async fn rows(
    State(door): State<Door>,
    Path((id, job)): Path<(String, String)>,
    headers: HeaderMap,
    place: Result<Query<Place>, QueryRejection>,
) -> Answer {
    let Query(place) = place.map_err(|rejection| QueryError::invalid(rejection.body_text()))?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_string);
    if let Some(preview) = door.jobs()?.previewed(&id) {
        if job != jobs::job_id(&id) {
            return Err(missing(&QueryError::invalid(format!("job `{job}` does not exist in preview `{id}`"))));
        }
        let had = last.and_then(|last| last.split_once('-')?.1.parse().ok()).unwrap_or(0);
        return Ok(of_preview(&door, preview, had, false));
    }
    let pipeline = door.job((&id, &job)).await?;
    // Behind no row of the epoch is before its first row.
    let after = last.or_else(|| place.from_epoch.map(|epoch| format!("{epoch}-0")));
    let tail = door.jobs()?.tail(&pipeline, after.as_deref());
    let events = stream::unfold(Some(tail), async |tail: Option<Tail>| {
        let mut tail = tail?;
        Some(match tail.next().await {
            Ok(Some(row)) => (of_row(&row), Some(tail)),
            ended => (vec![of_end(ended.err())], None),
        })
    });
    Ok(response(&door, events))
}

/// Responds with the rows of a preview behind the first `had`. With `stops`, the preview ends with the connection.
pub(super) fn of_preview(door: &Door, preview: Arc<Preview>, had: usize, stops: bool) -> Response {
    let guard = Guard { preview, stops };
    let events = stream::unfold(Some((guard, had)), async |state: Option<(Guard, usize)>| {
        let (guard, index) = state?;
        Some(match guard.preview.row(index).await {
            Ok(Some(row)) => (of_row(&row), Some((guard, index + 1))),
            ended => (vec![of_end(ended.err())], None),
        })
    });
    response(door, events)
}

/// Ends a preview when it is dropped, if `stops`.
struct Guard {
    preview: Arc<Preview>,
    stops: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.stops {
            self.preview.stop();
        }
    }
}

fn response(door: &Door, events: impl Stream<Item = Vec<Event>> + Send + 'static) -> Response {
    let events = events.flat_map(stream::iter).map(Ok::<_, Infallible>);
    let events = events.take_until(door.stopping.clone().cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// Returns the event of a row, behind that of a gap if there is one.
fn of_row(row: &jobs::Event) -> Vec<Event> {
    let mut events = Vec::new();
    if row.missed > 0 {
        events.push(Event::default().event("gap").data(json!({"epochs": row.missed}).to_string()));
    }
    let time = row.at_ms.saturating_mul(1000);
    let data = json!({"operatorId": row.sink, "timestamp": time, "value": row.row}).to_string();
    events.push(Event::default().id(row.id.clone()).data(data));
    events
}

fn of_end(error: Option<QueryError>) -> Event {
    match error {
        Some(error) => Event::default().event("error").data(json!({"error": error.to_string()}).to_string()),
        None => Event::default().event("end").data("{}"),
    }
}
