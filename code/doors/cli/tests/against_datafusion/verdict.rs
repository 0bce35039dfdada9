//! One statement through Buzz and through plain DataFusion.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use buzz_local::LocalHost;
use buzz_protocol::{ErrorKind, Options, QueryError};
use buzz_testkit::Rows;
use futures::FutureExt;
use tokio_util::task::AbortOnDropHandle;

use crate::common::{ask_on, statement};
use crate::parquet::Written;
use crate::plain::Asked;

/// A statement that takes longer counts as one that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Agrees,
    /// Plain DataFusion and Buzz both refuse it. Plain DataFusion also refuses a statement that fails there with some
    /// number of partitions.
    Refused,
    /// It takes plain DataFusion too long.
    Slow,
    /// Buzz returns other rows.
    Differs(String),
    /// Buzz fails and plain DataFusion answers.
    Fails(String),
    /// Buzz answers and plain DataFusion fails.
    Answered(String),
    /// Plain DataFusion refuses it, and Buzz panics, hangs or fails with an internal error.
    Unclear(String),
}

impl Verdict {
    /// Returns whether Buzz does as plain DataFusion does.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Verdict::Agrees | Verdict::Refused | Verdict::Slow)
    }
}

/// A failure of Buzz.
struct Failure {
    /// True if a reader can act on the error.
    clear: bool,
    text: String,
}

/// The outcome of a statement in plain DataFusion.
pub(crate) enum Plain {
    Answered(Rows),
    Refused(String),
    /// It takes too long.
    Slow,
}

impl Plain {
    /// Runs the statement in plain DataFusion.
    pub(crate) async fn of(asked: &Asked) -> Self {
        let measured = asked.clone();
        let running = AbortOnDropHandle::new(tokio::spawn(async move { measured.plain().await }));
        match tokio::time::timeout(asked.patience, running).await {
            Ok(Ok(Ok(plain))) => Plain::Answered(plain),
            Ok(Ok(Err(error))) => Plain::Refused(error.to_string()),
            Ok(Err(panic)) => Plain::Refused(panic.to_string()),
            Err(_) => Plain::Slow,
        }
    }
}

/// Runs the statement in both.
pub(crate) async fn compare(host: &LocalHost, asked: &Asked, zones: usize, sets: &[String]) -> Verdict {
    compare_with(host, asked, &Plain::of(asked).await, zones, sets).await
}

/// Runs the statement in Buzz.
pub(crate) async fn compare_with(
    host: &LocalHost,
    asked: &Asked,
    plain: &Plain,
    zones: usize,
    sets: &[String],
) -> Verdict {
    let plain = match plain {
        Plain::Answered(plain) => plain,
        Plain::Refused(error) => return compare_refusal(host, asked, zones, sets, error).await,
        Plain::Slow => return Verdict::Slow,
    };
    match buzz(host, asked, zones, sets).await {
        Err(_) if asked.fails_otherwise().await => Verdict::Refused,
        Err(failure) => Verdict::Fails(failure.text),
        Ok(found) => match asked.judge(&found, plain.clone()).await {
            Ok(None) => Verdict::Agrees,
            Ok(Some(told)) => Verdict::Differs(told),
            // The answer is open if it fails with the rows in another order.
            Err(_) => Verdict::Agrees,
        },
    }
}

/// Runs a statement that plain DataFusion refuses with `error`.
async fn compare_refusal(host: &LocalHost, asked: &Asked, zones: usize, sets: &[String], error: &str) -> Verdict {
    let plain_is_clear = !error.contains("Internal error") && !error.contains("panicked");
    match buzz(host, asked, zones, sets).await {
        // A panic is a fault of plain DataFusion, not of the statement.
        Ok(_) if error.contains("panicked") => Verdict::Refused,
        Ok(_) => Verdict::Answered(error.to_string()),
        Err(failure) if plain_is_clear && !failure.clear => Verdict::Unclear(failure.text),
        Err(_) => Verdict::Refused,
    }
}

async fn buzz(host: &LocalHost, asked: &Asked, zones: usize, sets: &[String]) -> Result<Rows, Failure> {
    let running = AssertUnwindSafe(buzz_rows(host, asked, zones, sets)).catch_unwind();
    let unclear = |text: &str| Err(Failure { clear: false, text: text.to_string() });
    match tokio::time::timeout(PATIENCE, running).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => unclear("it panics"),
        Err(_) => unclear("it hangs"),
    }
}

async fn buzz_rows(host: &LocalHost, asked: &Asked, zones: usize, sets: &[String]) -> Result<Rows, Failure> {
    let uri = |written: &Written| written.files.to_string_lossy().into_owned();
    let uris: Vec<String> = asked.tables.iter().map(|(_, written)| uri(written)).collect();
    let catalogs = asked.tables.iter().zip(&uris).map(|((name, _), uri)| (name.as_str(), "Parquet", uri.as_str()));
    let query = statement(zones, &asked.sql, &catalogs.collect::<Vec<_>>());
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let failed = |error: QueryError| Failure {
        clear: matches!(error.kind, ErrorKind::Invalid | ErrorKind::Limit | ErrorKind::Data),
        text: format!("{:?}: {error}", error.kind),
    };
    for set in &sets {
        Options::default().set(set).map_err(failed)?;
    }
    let answer = ask_on(host, &query, Path::new("/"), &sets).await.map_err(failed)?;
    // A value that has no text, such as a time far beyond the calendar, is not a failure of Buzz.
    Rows::of(&answer.rows).map_err(|error| Failure { clear: true, text: error.to_string() })
}
