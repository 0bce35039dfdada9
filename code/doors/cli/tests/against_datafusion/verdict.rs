//! One statement through Buzz and through plain DataFusion.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use buzz_local::LocalHost;
use buzz_protocol::ErrorKind;
use buzz_testkit::Rows;
use futures::FutureExt;
use tokio_util::task::AbortOnDropHandle;

use crate::common::{ask_on, statement};
use crate::parquet::Written;
use crate::plain::Asked;

/// Beyond this a statement counts as one that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Agrees,
    /// Plain DataFusion and Buzz both refuse it, or it takes plain DataFusion too long. Plain DataFusion also refuses what
    /// fails there with some number of partitions.
    Refused,
    /// Buzz has other rows.
    Differs(String),
    /// Buzz fails where plain DataFusion answers.
    Fails(String),
    /// Buzz answers where plain DataFusion fails.
    Answered(String),
    /// Parquet cannot hold its table.
    NotParquet,
}

impl Verdict {
    /// Whether Buzz does as plain DataFusion does.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Verdict::Agrees | Verdict::Refused | Verdict::NotParquet)
    }
}

/// Asks both.
pub(crate) async fn compare(host: &LocalHost, asked: Asked, zones: usize, sets: &[String]) -> Verdict {
    let measured = asked.clone();
    let running = AbortOnDropHandle::new(tokio::spawn(async move { measured.plain().await }));
    let plain = tokio::time::timeout(asked.patience, running).await;
    let plain = match plain {
        Ok(Ok(plain)) => plain.map_err(|error| error.to_string()),
        Ok(Err(panic)) => Err(panic.to_string()),
        Err(_) => return Verdict::Refused,
    };
    let found = AssertUnwindSafe(buzz(host, &asked, zones, sets)).catch_unwind();
    let found = match tokio::time::timeout(PATIENCE, found).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => Err("not a clear error: it panics".to_string()),
        Err(_) => Err("not a clear error: it hangs".to_string()),
    };
    match (plain, found) {
        (Err(_), Err(_)) => Verdict::Refused,
        (Err(error), Ok(_)) => Verdict::Answered(error),
        (Ok(_), Err(_)) if asked.fails_otherwise().await => Verdict::Refused,
        (Ok(_), Err(error)) => Verdict::Fails(error),
        (Ok(plain), Ok(found)) => match asked.judge(&found, plain).await {
            Ok(None) => Verdict::Agrees,
            Ok(Some(told)) => Verdict::Differs(told),
            // What fails in another order of the rows is not settled.
            Err(_) => Verdict::Agrees,
        },
    }
}

async fn buzz(host: &LocalHost, asked: &Asked, zones: usize, sets: &[String]) -> Result<Rows, String> {
    let uri = |written: &Written| written.files.to_string_lossy().into_owned();
    let uris: Vec<String> = asked.tables.iter().map(|(_, written)| uri(written)).collect();
    let catalogs = asked.tables.iter().zip(&uris).map(|((name, _), uri)| (name.as_str(), "Parquet", uri.as_str()));
    let query = statement(zones, &asked.sql, &catalogs.collect::<Vec<_>>());
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let answer = ask_on(host, &query, Path::new("/"), &sets).await;
    let answer = answer.map_err(|error| match error.kind {
        ErrorKind::Invalid | ErrorKind::Limit => format!("{:?}: {error}", error.kind),
        kind => format!("{kind:?}, not a clear error: {error}"),
    })?;
    Rows::of(&answer.rows).map_err(|error| error.to_string())
}
