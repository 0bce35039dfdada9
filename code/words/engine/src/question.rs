//! A question: a query and how it is to be answered.

use std::path::PathBuf;

use buzz_protocol::{Format, Options, Query, QueryId};

use crate::SinkOnce;

/// A query and how it is to be answered.
///
/// ```
/// use buzz_engine::{Question, Want};
/// use buzz_protocol::{Format, Query};
///
/// let json = r#"{
///     "sql": "SELECT COUNT(*) FROM trips",
///     "catalogs": [{"name": "trips", "type": "Parquet", "uri": "trips/*.parquet"}]
/// }"#;
/// let (query, warnings) = Query::parse(json, "an example")?;
/// assert!(warnings.is_empty());
/// let question = Question::new(query, "/data").with_want(Want::Rows(Format::Json));
/// # assert_eq!(question.query.catalogs.len(), 1);
/// # Ok::<(), buzz_protocol::QueryError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Question {
    /// Id under which logs, progress and results of the query are found. Each start of a question needs its own; a stack
    /// assigns one itself.
    pub id: QueryId,
    /// The parsed query.
    pub query: Query,
    /// Folder against which relative URIs of the query's catalogs are resolved.
    pub base: PathBuf,
    /// Limits and settings.
    pub options: Options,
    /// Rows or the plan.
    pub want: Want,
    /// Takes the rows while they are computed, if the engine is in this process; the answer is then
    /// [`Content::Passed`](crate::Content::Passed). An engine elsewhere leaves it and returns the rows.
    pub sink: Option<SinkOnce>,
}

/// Content that a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The rows, which the caller will write in this format.
    Rows(Format),
    /// The plan, as text. Nothing is run.
    Plan,
}

impl Question {
    /// Makes a question for the rows of `query` under a fresh id, with default options.
    pub fn new(query: Query, base: impl Into<PathBuf>) -> Self {
        Self {
            id: QueryId::fresh(),
            query,
            base: base.into(),
            options: Options::default(),
            want: Want::Rows(Format::Table),
            sink: None,
        }
    }

    /// Replaces the options.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Has the rows passed to `sink`, if the engine can do that.
    #[must_use]
    pub fn with_sink(mut self, sink: SinkOnce) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Replaces the wanted content.
    #[must_use]
    pub fn with_want(mut self, want: Want) -> Self {
        self.want = want;
        self
    }
}
