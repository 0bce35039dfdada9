//! Runs a query on a stack on AWS, shows its progress and downloads its rows.

use std::time::Duration;

use buzz_answer::rows::Rows;
use buzz_aws::event::IN_ENVELOPE;
use buzz_aws::fuse_function::ProgressReport;
use buzz_aws::stack::{Stack, StackAnswer, Watched, function_of};
use buzz_fuse::explain::bytes;
use buzz_protocol::{Options, Query, QueryError, QueryId, Result};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::args::{HowArguments, StackArguments};
use crate::ask::print;
use crate::output::{Output, write_rows};
use crate::watch::Line;

/// Interval at which the progress of the query is requested.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs `query`, a query JSON, on the stack `stack` with the settings in `how`. Cancels it there if `interrupted` is
/// cancelled.
///
/// # Errors
/// The error of the query, and `Unavailable` if the stack does not answer.
pub(crate) async fn ask(
    query: Value,
    stack: &StackArguments,
    how: &HowArguments,
    interrupted: &CancellationToken,
) -> Result<()> {
    check_places(&query)?;
    // The caller has already printed these warnings.
    let (_, said) = Query::parse(&query.to_string(), IN_ENVELOPE)?;
    let event = json!({
        "query": query,
        "options": options(&how.sets)?,
        "async": true,
        "encoding": "arrow",
        "explain": how.explain,
    });
    let output = Output::open(how.output.as_deref())?;
    let function = match (&stack.function, &stack.stack) {
        (Some(function), _) => function.clone(),
        (None, name) => function_of(name.as_deref().unwrap_or_default()),
    };
    let stack = Stack::connect(function, stack.endpoint_url.as_deref()).await?;
    let query = stack.submit(&event).await?;
    let answer = wait(&stack, query, interrupted).await?;
    for warning in answer.warnings.iter().filter(|warning| !said.contains(warning)) {
        eprintln!("warning: {warning}");
    }
    if let Some(text) = &answer.explain {
        return print(text);
    }
    let mut rows = Rows::new();
    answer.rows(&mut rows).await?;
    write_rows(&rows, how.format, output)?;
    eprintln!("{}", one_line(&answer));
    Ok(())
}

async fn wait(stack: &Stack, query: QueryId, interrupted: &CancellationToken) -> Result<Box<StackAnswer>> {
    let line = Line::new();
    let mut cancelling = false;
    loop {
        let watched = tokio::select! {
            watched = stack.watch(query) => watched.map_err(|error| unheard(query, error))?,
            // Interrupts the watch call, which may be slow to answer.
            () = interrupted.cancelled(), if !cancelling => {
                cancelling = true;
                eprintln!("cancelling query {query} …");
                stack.cancel(query).await.map_err(|error| unheard(query, error))?;
                continue;
            }
        };
        match watched {
            Watched::Answered(answer) => return Ok(answer),
            Watched::Failed(error) => return Err(error),
            Watched::Running(report) => line.show(&shown(&report)),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = interrupted.cancelled(), if !cancelling => {}
        }
    }
}

/// Adds to `error` that the query may still run on the stack, and how to follow or cancel it.
fn unheard(query: QueryId, error: QueryError) -> QueryError {
    let hint = format!(
        "query {query} may still run; invoke Fuse with `{{\"watch\": \"{query}\"}}` or `{{\"cancel\": \"{query}\"}}`"
    );
    QueryError { message: format!("{} ({hint})", error.message), ..error }
}

fn shown(report: &ProgressReport) -> String {
    format!(
        "{}: tasks: {} of {}, rows: {}, bytes: {}, retries: {}",
        if report.status == "running" { &report.phase } else { &report.status },
        report.tasks_done,
        report.tasks,
        report.rows_scanned,
        bytes(report.bytes_scanned),
        report.retries
    )
}

fn one_line(answer: &StackAnswer) -> String {
    let summary = &answer.summary;
    format!(
        "rows: {}, files: {} of {}, bytes: {}, tasks: {}, retries: {}, time: {:.2} s, cost: ${:.6}",
        answer.row_count,
        summary.files_read,
        summary.files_found,
        bytes(summary.bytes_read),
        summary.tasks,
        summary.attempts.saturating_sub(summary.tasks),
        summary.milliseconds.total as f64 / 1e3,
        summary.cost_usd
    )
}

/// Converts options to the form of an event. Checks them before anything is sent.
fn options(sets: &[String]) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    for assignment in sets {
        Options::default().set(assignment)?;
        let (key, value) = assignment.split_once('=').expect("`set` accepted the assignment");
        map.insert(key.trim().to_string(), value.trim().into());
    }
    Ok(map)
}

/// Checks that no catalog entry is a local path, which a stack cannot read.
fn check_places(query: &Value) -> Result<()> {
    for catalog in query["catalogs"].as_array().into_iter().flatten() {
        let uri = catalog["uri"].as_str().unwrap_or_default();
        let built_in = catalog["type"] == "Static" && !uri.contains(['/', '.']);
        if !uri.contains("://") && !built_in {
            let name = catalog["name"].as_str().unwrap_or_default();
            return Err(QueryError::invalid(format!(
                "catalog `{name}`: a stack cannot read the local path `{uri}`; use a uri in object storage, such as \
                 --table {name}=s3://bucket/path"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_are_rejected_for_a_stack() {
        let check = |kind: &str, uri: &str| {
            check_places(&json!({"catalogs": [{"name": "t", "type": kind, "uri": uri}]})).map_err(|e| e.to_string())
        };
        assert!(check("DeltaLake", "s3://lake/t").is_ok());
        assert!(check("Static", "nyc_taxi_cloudfuse_sample").is_ok());
        assert!(check("Static", "lists/t.json").unwrap_err().contains("cannot read the local path `lists/t.json`"));
        assert!(check("Parquet", "/data/t").unwrap_err().contains("--table t=s3://bucket/path"));
    }

    #[test]
    fn options_are_checked_and_sent_as_strings() {
        let sent = options(&["tasks=7".to_string(), "reducer = comb".to_string()]).unwrap();
        assert_eq!(Value::Object(sent), json!({"tasks": "7", "reducer": "comb"}));
        assert!(options(&["task=7".to_string()]).is_err());
    }
}
