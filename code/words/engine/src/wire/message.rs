//! Answers of Fuse's function.

use std::time::Duration;

use arrow::datatypes::Schema;
use buzz_protocol::{QueryError, QueryId, Requests, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Estimate, Reused, Summary, TableDescription, Timeline};

/// Answer to an asynchronous query: it was accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submitted {
    /// `submitted`.
    pub status: String,
    /// Id by which the query is watched and cancelled.
    pub query_id: QueryId,
    /// Place of the query's objects.
    pub results: String,
}

/// Descriptions of the tables of a query.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Described {
    /// One for each catalog entry, in their order.
    pub tables: Vec<TableDescription>,
}

/// The failure of an event, or the stored failure of a query that was answered asynchronously.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailureMessage {
    /// `failed`.
    pub status: String,
    /// The failure.
    pub error: QueryError,
}

impl FailureMessage {
    /// Status of a failure.
    pub const STATUS: &str = "failed";

    /// Creates the message of `error`.
    pub fn new(error: QueryError) -> Self {
        Self { status: Self::STATUS.to_string(), error }
    }
}

/// Answer to a query.
#[derive(Debug, Serialize, Deserialize)]
pub struct AnswerMessage {
    /// `answered`.
    pub status: String,
    /// Id of the query.
    pub query_id: QueryId,
    /// Names and types of the columns, in order.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// The rows as objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Box<RawValue>>,
    /// The rows as an Arrow IPC file in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_arrow: Option<String>,
    /// Place of the rows, if they are not in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputPlace>,
    /// The plan, if the event requests it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<String>,
    /// Resources that the query is expected to use, beside its plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Number of rows.
    pub row_count: u64,
    /// Work done for the answer.
    pub summary: SummaryMessage,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type, as Arrow prints it.
    #[serde(rename = "type")]
    pub data_type: String,
}

impl Column {
    /// Returns the columns of `schema`. View types are an encoding in memory and are named by the type they encode.
    pub fn all(schema: &Schema) -> Vec<Column> {
        let plain = |data_type: String| data_type.replace("Utf8View", "Utf8").replace("BinaryView", "Binary");
        let fields = schema.fields().iter();
        fields
            .map(|field| Column { name: field.name().clone(), data_type: plain(field.data_type().to_string()) })
            .collect()
    }
}

/// Place of a result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutputPlace {
    /// `s3://bucket/key`.
    pub uri: String,
    /// Format of the object.
    pub format: String,
    /// A presigned link, valid for an hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Size of the object in bytes.
    pub bytes: u64,
}

/// Work done for an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SummaryMessage {
    /// Files of the tables that map stages read.
    pub files_found: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes read from storage.
    pub bytes_read: u64,
    /// Requests to buckets, of Fuse and of HBees.
    pub requests: u64,
    /// GET and HEAD among these requests.
    #[serde(default)]
    pub get_requests: u64,
    /// PUT, POST, COPY and LIST among these requests.
    #[serde(default)]
    pub put_requests: u64,
    /// Tasks.
    pub tasks: u64,
    /// Attempts of all tasks, including those that no worker took.
    pub attempts: u64,
    /// Attempts beside one that took much longer than the other tasks. They are among the attempts.
    #[serde(default)]
    pub stragglers: u64,
    /// Runs of the whole query beyond the first.
    pub reruns: u64,
    /// Combs that reduced.
    pub combs: usize,
    /// `comb`, `inline` or `objects`.
    pub reducer: String,
    /// Objects in storage through which HBees delivered their rows.
    #[serde(default)]
    pub objects: u64,
    /// Rows delivered by HBees.
    pub rows_delivered: u64,
    /// Time of each phase.
    pub milliseconds: Phases,
    /// Attempts of the tasks, as many as the option `timeline_attempts` keeps.
    #[serde(default, skip_serializing_if = "Timeline::is_empty")]
    pub timeline: Timeline,
    /// Results of earlier queries that were used again.
    #[serde(default, skip_serializing_if = "Reused::is_nothing")]
    pub reused: Reused,
    /// Gigabyte-seconds of functions.
    pub gb_seconds: f64,
    /// US dollars by list price of the query's own work.
    pub cost_usd: f64,
    /// Combs that were started for the query.
    #[serde(default)]
    pub combs_started: u64,
    /// US dollars by list price of the start and the idle time of these combs.
    #[serde(default)]
    pub started_usd: f64,
    /// Date of the price list.
    pub prices_of: String,
}

/// Milliseconds of each phase.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Phases {
    /// Opening the catalogs.
    pub open: u64,
    /// Planning.
    pub plan: u64,
    /// From dispatch to the last row.
    pub run: u64,
    /// All phases.
    pub total: u64,
}

impl SummaryMessage {
    /// Returns the summary as an engine returns it, of an answer with `rows` rows.
    pub fn summary(&self, rows: u64) -> Summary {
        let time = Duration::from_millis;
        Summary {
            rows,
            files_found: self.files_found,
            files_read: self.files_read,
            bytes_read: self.bytes_read,
            tasks: self.tasks,
            retries: self.attempts.saturating_sub(self.tasks),
            stragglers: self.stragglers,
            reruns: self.reruns,
            rows_delivered: self.rows_delivered,
            combs: self.combs,
            objects: self.objects,
            opened_in: time(self.milliseconds.open),
            planned_in: time(self.milliseconds.plan),
            ran_in: time(self.milliseconds.run),
            total: time(self.milliseconds.total),
            requests: Requests { gets: self.get_requests, puts: self.put_requests },
            cost_usd: Some(self.cost_usd),
            combs_started: self.combs_started,
            started_usd: Some(self.started_usd),
            timeline: self.timeline.clone(),
            reused: self.reused,
            ..Summary::default()
        }
    }
}

/// Reads the rows of an Arrow IPC file into `sink`.
///
/// # Errors
/// `Internal` if `file` is not such a file, and the errors of `sink`.
pub fn answer_rows(file: impl std::io::Read + std::io::Seek, sink: &mut dyn crate::RowSink) -> Result<()> {
    let batches = arrow::ipc::reader::FileReader::try_new(file, None)?;
    sink.start(batches.schema())?;
    for batch in batches {
        sink.write(batch?)?;
    }
    Ok(())
}
