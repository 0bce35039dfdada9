//! What Fuse as a function answers.

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches_with_schema;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buzz_answer::{Format, Rows, WriteError, format};
use buzz_fuse::Summary;
use buzz_protocol::{QueryError, QueryId, Result};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::Encoding;
use crate::price::{PRICES_OF, Used};

/// The largest answer of a function is
/// [6 MB](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html); this leaves room for what is beside
/// the rows.
pub const ROWS_BYTES_MAX: usize = 11 << 19;

/// Rows that the log's tail shows, of the 4 KB that it carries.
const TAIL_ROWS: usize = 20;
const TAIL_BYTES: usize = 3 << 10;

/// An answer, as JSON.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// `answered`.
    pub status: &'static str,
    /// The query.
    pub query_id: QueryId,
    /// Names and types, in order.
    pub columns: Vec<Column>,
    /// The rows as objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Box<RawValue>>,
    /// The rows as an Arrow IPC file in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_arrow: Option<String>,
    /// Where the rows are, if not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputPlace>,
    /// The plan, if that is what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<String>,
    /// Number of rows.
    pub row_count: u64,
    /// What it took.
    pub summary: AnswerSummary,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// A column.
#[derive(Debug, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as Arrow prints it.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// Where rows are.
#[derive(Debug, Serialize)]
pub struct OutputPlace {
    /// `s3://bucket/key`.
    pub uri: String,
    /// Their form.
    pub format: String,
    /// A link that needs no credentials, for an hour at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Bytes.
    pub bytes: u64,
}

/// What an answer took.
#[derive(Debug, Serialize)]
pub struct AnswerSummary {
    /// Files that the catalogs named.
    pub files_found: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Requests to storage by HBees.
    pub requests: u64,
    /// Tasks.
    pub tasks: u64,
    /// Invocations for tasks: those that ran, and those that were refused, as by the account's concurrency.
    pub attempts: u64,
    /// Runs of the whole query beyond the first.
    pub reruns: u64,
    /// Combs that reduced.
    pub combs: usize,
    /// Who reduced: `comb` or `inline`.
    pub reducer: &'static str,
    /// Rows delivered by HBees.
    pub rows_delivered: u64,
    /// Time of each phase.
    pub milliseconds: Phases,
    /// Gigabyte-seconds of functions.
    pub gb_seconds: f64,
    /// US dollars by list price.
    pub cost_usd: f64,
    /// When the prices were so.
    pub prices_of: &'static str,
}

/// Milliseconds of each phase.
#[derive(Debug, Serialize)]
pub struct Phases {
    /// To open the catalogs.
    pub open: u64,
    /// To plan.
    pub plan: u64,
    /// From dispatch to the last row.
    pub run: u64,
    /// All together.
    pub total: u64,
}

impl AnswerSummary {
    /// The summary of a query that took `total_ms` and used `used`.
    pub fn new(summary: &Summary, used: &Used, reruns: u64, total_ms: u64) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            files_found: summary.files_found,
            files_read: summary.files_read,
            bytes_read: summary.bytes_read,
            requests: used.requests,
            tasks: summary.tasks,
            attempts: summary.tasks + summary.retries,
            reruns,
            combs: summary.combs,
            reducer: if summary.combs == 0 { "inline" } else { "comb" },
            rows_delivered: summary.rows_delivered,
            milliseconds: Phases {
                open: ms(summary.opened_in),
                plan: ms(summary.planned_in),
                run: ms(summary.ran_in),
                total: total_ms,
            },
            gb_seconds: used.gb_seconds(),
            cost_usd: used.cost_usd(),
            prices_of: PRICES_OF,
        }
    }
}

/// The columns of `rows`. Views are how strings are read, not what they are.
pub fn columns(rows: &Rows) -> Vec<Column> {
    let plain = |data_type: String| data_type.replace("Utf8View", "Utf8").replace("BinaryView", "Binary");
    let schema = rows.schema();
    let column = |field: &std::sync::Arc<arrow::datatypes::Field>| Column {
        name: field.name().clone(),
        data_type: plain(field.data_type().to_string()),
    };
    schema.fields().iter().map(column).collect()
}

/// Rows in an answer, as one of its two fields.
#[derive(Debug)]
pub enum Encoded {
    /// `rows`.
    Json(Box<RawValue>),
    /// `rows_arrow`.
    Arrow(String),
}

/// The rows as they stand in an answer; None if they are too large for one.
///
/// # Errors
/// `Invalid` when they do not fit the encoding, `Limit` when the temporary file cannot be read back.
pub fn encode(rows: &Rows, encoding: Encoding) -> Result<Option<Encoded>> {
    let (format, bytes_max) = match encoding {
        Encoding::Json => (Format::Json, ROWS_BYTES_MAX),
        Encoding::Arrow => (Format::Arrow, ROWS_BYTES_MAX / 4 * 3),
    };
    let mut bounded = Bounded { bytes: Vec::new(), max: bytes_max, full: false };
    let written = format::write(rows, format, &mut bounded);
    if bounded.full {
        return Ok(None);
    }
    written.map_err(|error| match error {
        WriteError::Rows(error) => error,
        WriteError::Io(error) => QueryError::internal(format!("rows cannot be written to memory: {error}")),
    })?;
    Ok(Some(match encoding {
        Encoding::Arrow => Encoded::Arrow(STANDARD.encode(&bounded.bytes)),
        Encoding::Json => {
            let text = String::from_utf8(bounded.bytes).map_err(|_| QueryError::internal("rows are not UTF-8"))?;
            let rows = RawValue::from_string(text.trim_end().to_string());
            Encoded::Json(rows.map_err(|error| QueryError::internal(format!("rows are not JSON: {error}")))?)
        }
    }))
}

/// A buffer that refuses more than `max` bytes.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
    full: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max {
            self.full = true;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The first rows as a table of at most 3 KB, for the log's tail.
///
/// # Errors
/// `Limit` when the temporary file cannot be read back.
pub fn tail(rows: &Rows, row_count: u64) -> Result<String> {
    let mut first: Vec<RecordBatch> = Vec::new();
    let mut left = TAIL_ROWS;
    for batch in rows.batches()? {
        let batch = batch?;
        let taken = batch.slice(0, left.min(batch.num_rows()));
        left -= taken.num_rows();
        first.push(taken);
        if left == 0 {
            break;
        }
    }
    let mut text = pretty_format_batches_with_schema(rows.schema(), &first)?.to_string();
    if text.len() > TAIL_BYTES {
        let end = (0..=TAIL_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        text.truncate(text[..end].rfind('\n').unwrap_or(end));
    }
    let shown = (TAIL_ROWS - left) as u64;
    if shown < row_count {
        text.push_str(&format!("\n… of {row_count} rows"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use buzz_fuse::ResultSink;

    use super::*;

    fn rows(count: usize, width: usize) -> Rows {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count as i64));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|_| "x".repeat(width))));
        let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
        let mut rows = Rows::new();
        rows.start(batch.schema()).unwrap();
        rows.write(batch).unwrap();
        rows
    }

    #[test]
    fn rows_that_fit_stand_in_the_answer() {
        let Some(Encoded::Json(json)) = encode(&rows(2, 1), Encoding::Json).unwrap() else { panic!("they fit") };
        assert_eq!(json.get(), r#"[{"id":0,"text":"x"},{"id":1,"text":"x"}]"#);
        let Some(Encoded::Arrow(text)) = encode(&rows(2, 1), Encoding::Arrow).unwrap() else { panic!("they fit") };
        assert!(STANDARD.decode(text).unwrap().starts_with(b"ARROW1"));
        let Some(Encoded::Json(none)) = encode(&rows(0, 1), Encoding::Json).unwrap() else { panic!("they fit") };
        assert_eq!(none.get(), "[]");
    }

    #[test]
    fn rows_that_do_not_fit_are_not_cut() {
        for encoding in [Encoding::Json, Encoding::Arrow] {
            assert!(encode(&rows(6_000, 1000), encoding).unwrap().is_none());
            // The answer and what is beside the rows stay under 6 MB.
            let most = match encode(&rows(4_000, 1000), encoding).unwrap() {
                Some(Encoded::Json(json)) => json.get().len(),
                Some(Encoded::Arrow(text)) => text.len(),
                None => panic!("they fit"),
            };
            assert!(most <= ROWS_BYTES_MAX, "{most}");
        }
    }

    #[test]
    fn the_tail_shows_the_first_rows_and_says_how_many_there_are() {
        let text = tail(&rows(100, 5), 100).unwrap();
        assert!(text.contains("| 19 | xxxxx |") && !text.contains("| 20 |"), "{text}");
        assert!(text.ends_with("… of 100 rows"), "{text}");
        let wide = tail(&rows(100, 1000), 100).unwrap();
        assert!(wide.len() < 4 << 10 && wide.ends_with("… of 100 rows"), "{}", wide.len());
        assert!(!tail(&rows(3, 5), 3).unwrap().contains('…'));
    }
}
