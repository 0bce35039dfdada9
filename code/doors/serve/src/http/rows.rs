//! Rows as the body of a response.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use buzz_engine::{RowSink, Rows, Summary};
use buzz_protocol::{Format, QueryError, Result};
use buzz_results::format;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::desk::Answered;
use crate::http::failed_as;

/// Bytes of one part of a body, and the number of parts that wait for the client.
const PART_BYTES: usize = 64 << 10;
const PARTS_MAX: usize = 8;

/// The rows of an answer that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Number of the first row, from 0.
    pub(crate) offset: u64,
    /// Maximum number of rows; all if None.
    pub(crate) limit: Option<u64>,
}

impl Part {
    /// All rows.
    pub(crate) const ALL: Self = Self { offset: 0, limit: None };

    /// Returns the rows of this part. They share the memory of `rows`.
    fn of(self, rows: &Rows) -> Result<Rows> {
        let mut part = Rows::new();
        part.start(rows.schema())?;
        let (mut skipped, mut left) = (self.offset, self.limit.unwrap_or(u64::MAX));
        for batch in rows.batches()? {
            if left == 0 {
                break;
            }
            let batch = batch?;
            let count = batch.num_rows() as u64;
            let (first, taken) = (skipped.min(count), (count - skipped.min(count)).min(left));
            skipped -= first;
            left -= taken;
            if let (Ok(first), Ok(taken @ 1..)) = (usize::try_from(first), usize::try_from(taken)) {
                part.write(batch.slice(first, taken))?;
            }
        }
        Ok(part)
    }
}

/// Makes the response with rows of `answered`. Headers have the query's id, its summary and its warnings.
pub(crate) fn response(answered: Arc<Answered>, format: Format, part: Part) -> Response {
    if let Err(error) = format::check(&answered.rows.schema(), format) {
        return failed_as(&error);
    }
    let headers = headers(&answered, format);
    let (sender, receiver) = mpsc::channel(PARTS_MAX);
    tokio::task::spawn_blocking(move || {
        let mut parts = Parts { sender: sender.clone(), buffer: BytesMut::new() };
        let written = if part == Part::ALL {
            format::write(&answered.rows, format, &mut parts)
        } else {
            part.of(&answered.rows).map_err(Into::into).and_then(|rows| format::write(&rows, format, &mut parts))
        };
        let written = written.and_then(|()| Ok(parts.flush()?));
        if let Err(error) = written {
            // The client sees that the body ends early.
            drop(sender.blocking_send(Err(io::Error::other(format!("{error:?}")))));
        }
    });
    let stream = futures::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<io::Result<Bytes>>| {
        receiver.recv().await.map(|part| (part, receiver))
    });
    (headers, Body::from_stream(stream)).into_response()
}

/// Returns the JSON of the work done for an answer.
pub(crate) fn summary(summary: &Summary) -> Value {
    json!({
        "rows": summary.rows, "files_read": summary.files_read, "files_found": summary.files_found,
        "bytes_read": summary.bytes_read, "tasks": summary.tasks, "retries": summary.retries,
        "get_requests": summary.requests.gets, "put_requests": summary.requests.puts,
        "seconds": summary.total.as_secs_f64(), "cost_usd": summary.cost_usd, "combs_started": summary.combs_started,
        "started_usd": summary.started_usd, "reused": summary.reused,
    })
}

fn headers(answered: &Answered, format: Format) -> HeaderMap {
    let kind = match format {
        Format::Json => "application/json",
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8",
        Format::Table => "text/plain; charset=utf-8",
        Format::Arrow => "application/vnd.apache.arrow.file",
        Format::Parquet => "application/vnd.apache.parquet",
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let mut add = |name: &'static str, value: &Value| {
        // JSON allows every character beyond ASCII to be escaped, as headers require.
        if let Ok(value) = HeaderValue::from_str(&ascii(&value.to_string())) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add("buzz-query-id", &json!(answered.id));
    add("buzz-summary", &summary(&answered.summary));
    add("buzz-warnings", &json!(answered.warnings));
    headers
}

fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// Sends written bytes as parts, and waits while too many are unread.
struct Parts {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Parts {
    fn send(&mut self) -> io::Result<()> {
        let part = self.buffer.split().freeze();
        self.sender.blocking_send(Ok(part)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PART_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Returns the error of a query as JSON.
pub(crate) fn error_json(error: &QueryError) -> Value {
    json!({"kind": error.kind, "message": error.to_string()})
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    #[test]
    fn part_has_the_rows_from_its_offset_on() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let mut rows = Rows::new();
        rows.start(Arc::clone(&schema)).unwrap();
        for values in [0..3, 3..3, 3..5, 5..10] {
            let column = Arc::new(Int64Array::from_iter_values(values));
            rows.write(RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap()).unwrap();
        }
        for (offset, limit, expected) in [
            (0, None, 0..10),
            (0, Some(0), 0..0),
            (2, Some(2), 2..4),
            (3, Some(2), 3..5),
            (4, Some(100), 4..10),
            (10, Some(5), 0..0),
            (u64::MAX, None, 0..0),
        ] {
            let part = Part { offset, limit }.of(&rows).unwrap();
            let batches = part.batches().unwrap().map(|batch| batch.unwrap()).collect::<Vec<_>>();
            let found = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
            assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{offset} {limit:?}");
            assert_eq!(part.schema(), schema);
        }
    }
}
