//! Answers of the Fuse function.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buzz_aws::price::Sizes;
use buzz_engine::wire::{Encoding, Phases, SummaryMessage};
use buzz_engine::{Rows, Summary, Used};
use buzz_protocol::{Format, QueryError, Result, milliseconds};
use buzz_results::{WriteError, format};
use serde_json::value::RawValue;

/// Maximum bytes of rows in an answer. An answer is limited to
/// [6 MB](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html); the rest is for the other fields.
pub(crate) const ROWS_BYTES_MAX: usize = 11 << 19;

/// Maximum number of attempts in the timeline of an answer, about 150 bytes each.
const ATTEMPTS_MAX: usize = 2_000;

/// Makes the summary message of a query that took `total_ms` and used `used` of a stack of these `sizes`.
pub(crate) fn summary_message(summary: &Summary, used: &Used, sizes: &Sizes, total_ms: u64) -> SummaryMessage {
    let cost = sizes.cost(used);
    SummaryMessage {
        files_found: summary.files_found,
        files_read: summary.files_read,
        bytes_read: summary.bytes_read,
        requests: used.requests.total(),
        get_requests: used.requests.gets,
        put_requests: used.requests.puts,
        tasks: summary.tasks,
        attempts: summary.tasks + summary.retries,
        stragglers: summary.stragglers,
        reruns: summary.reruns,
        combs: summary.combs,
        reducer: reducer_of(summary).to_string(),
        objects: summary.objects,
        rows_delivered: summary.rows_delivered,
        milliseconds: Phases {
            open: milliseconds(summary.opened_in),
            plan: milliseconds(summary.planned_in),
            run: milliseconds(summary.ran_in),
            total: total_ms,
        },
        timeline: summary.timeline.clone().at_most(ATTEMPTS_MAX),
        reused: summary.reused,
        gb_seconds: sizes.gb_seconds(used),
        cost_usd: cost.own_usd,
        combs_started: used.starts.combs,
        started_usd: cost.started_usd,
        prices_of: sizes.prices.date(),
    }
}

/// Returns the way in which rows reached their reducer: as a value of the option `reducer`.
fn reducer_of(summary: &Summary) -> &'static str {
    match summary {
        Summary { combs: 1.., .. } => "comb",
        Summary { objects: 1.., .. } => "objects",
        _ => "inline",
    }
}

/// Encoded rows, for one of two fields of an answer.
#[derive(Debug)]
pub(crate) enum Encoded {
    /// For field `rows`.
    Json(Box<RawValue>),
    /// For field `rows_arrow`.
    Arrow(String),
}

/// Encodes the rows for an answer. Returns `None` if they are too large for one.
///
/// # Errors
/// `Invalid` if the rows do not fit the encoding, `Limit` if the temporary file cannot be read back.
pub(crate) fn encode(rows: &Rows, encoding: Encoding) -> Result<Option<Encoded>> {
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

/// A buffer that rejects more than `max` bytes.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use buzz_engine::RowSink;

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
    fn small_rows_are_encoded_in_the_answer() {
        let Some(Encoded::Json(json)) = encode(&rows(2, 1), Encoding::Json).unwrap() else { panic!("they fit") };
        assert_eq!(json.get(), r#"[{"id":0,"text":"x"},{"id":1,"text":"x"}]"#);
        let Some(Encoded::Arrow(text)) = encode(&rows(2, 1), Encoding::Arrow).unwrap() else { panic!("they fit") };
        assert!(STANDARD.decode(text).unwrap().starts_with(b"ARROW1"));
        let Some(Encoded::Json(none)) = encode(&rows(0, 1), Encoding::Json).unwrap() else { panic!("they fit") };
        assert_eq!(none.get(), "[]");
    }

    #[test]
    fn oversized_rows_are_omitted_not_truncated() {
        for encoding in [Encoding::Json, Encoding::Arrow] {
            assert!(encode(&rows(6_000, 1000), encoding).unwrap().is_none());
            // The rows and the other fields of the answer stay below 6 MB.
            let most = match encode(&rows(4_000, 1000), encoding).unwrap() {
                Some(Encoded::Json(json)) => json.get().len(),
                Some(Encoded::Arrow(text)) => text.len(),
                None => panic!("they fit"),
            };
            assert!(most <= ROWS_BYTES_MAX, "{most}");
        }
    }
}
