//! Downloads the rows of an answer.

use std::io::{BufReader, Cursor, Seek, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buzz_engine::RowSink;
use buzz_engine::wire::{AnswerMessage, OutputPlace, answer_rows};
use buzz_protocol::{ErrorKind, QueryError, Result};

/// Maximum time without data from the place of a result.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Passes the rows of `message` to `sink`, from the message or from the place that it names.
///
/// # Errors
/// `Unavailable` if the place does not respond, `Internal` if it holds something else.
pub(crate) async fn rows(message: &AnswerMessage, sink: &mut dyn RowSink) -> Result<()> {
    match (&message.rows_arrow, &message.output) {
        (Some(text), _) => {
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|error| QueryError::internal(format!("the rows are not base64: {error}")))?;
            answer_rows(Cursor::new(bytes), sink)
        }
        (None, Some(output)) => {
            let file = download(output).await.map_err(|error| error.at(format!("result {}", output.uri)))?;
            answer_rows(BufReader::new(file), sink)
        }
        (None, None) => Err(QueryError::internal("the answer has neither rows nor their place")),
    }
}

/// Downloads the object at `output` into a temporary file.
async fn download(output: &OutputPlace) -> Result<std::fs::File> {
    let url = output.url.as_ref().ok_or_else(|| QueryError::internal("the answer has no download link"))?;
    let broken = |error: reqwest::Error| QueryError::unavailable(error.without_url().to_string());
    let kept = |error: std::io::Error| {
        QueryError::new(ErrorKind::Limit, format!("writing it to a temporary file failed: {error}"))
    };
    let http = reqwest::Client::builder().connect_timeout(SILENT_MAX).read_timeout(SILENT_MAX);
    let http = http.build().map_err(broken)?;
    let answer = http.execute(http.get(url).build().map_err(broken)?).await;
    let mut answer = answer.and_then(reqwest::Response::error_for_status).map_err(broken)?;
    let mut file = tempfile::tempfile().map_err(kept)?;
    while let Some(chunk) = answer.chunk().await.map_err(broken)? {
        file.write_all(&chunk).map_err(kept)?;
    }
    file.rewind().map_err(kept)?;
    Ok(file)
}
